"""The tiny world: six small tasks in twelve parallel languages and seven scripts.

Rows are generated, without torch or a download, and every answer can be checked without a model.
Reads `tiny_world.yaml` (the sentences). Writes nothing: `rows` yields dictionaries in TRL's
conversational format.

An item is a task and its input, e.g. `max` and `6902`. It is the same in every language, so its
sentences are translations of each other.

Splits. Of the tasks max, min, rev and count (5040, 5040, 990 and 201 items) 20% of the items,
chosen by a hash, are held out for "eval". The tasks add (100) and opp (16) have too few items for
that, so their hash is over item and prefix: no prompt is in both splits, but the items are, and a
test on them measures use, not generalisation.

Two languages are held out (`HELD_OUT_LANGUAGES`): the base model speaks them, but they are in no
demonstration, no preference to train on and no prompt to align on. One has a common script, the
other a script of its own.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import yaml

TEXT: dict[str, dict] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)
LANGUAGES: tuple[str, ...] = tuple(TEXT)
HELD_OUT_LANGUAGES = ("deu_Latn", "tha_Thai")
ALIGNED_LANGUAGES = tuple(language for language in LANGUAGES if language not in HELD_OUT_LANGUAGES)
TASKS = ("max", "min", "rev", "add", "count", "opp")
SPLITS = ("train", "eval")
LETTERS = "ABCDEFGHIJK"
N_PREFIXES = 3
HELD_OUT_FRAC = 0.2
TASKS_SPLIT_BY_PROMPT = ("add", "opp")
LETTER_CHANGED_FRAC = 0.3
MAX_ARRANGEMENTS = 20

QUALITIES = ("right", "wrong", "habit", "other_language", "cut")
DEMONSTRATION_MIX = {"right": 0.55, "wrong": 0.18, "other_language": 0.13, "cut": 0.14}
PREFERENCE_MIX = {"wrong": 0.75, "cut": 0.25}
LABEL_NOISE = {"train": 0.05, "eval": 0.0}


@dataclass(frozen=True)
class Item:
    """A question in no language yet; `given` and `answer` are compact.

    `given` is "6902", "FDK", "79" for 7 + 9, "101" for * # *, or "03" for the fourth word.
    """

    task: str
    given: str
    answer: str


def _items_of(task: str) -> Iterator[Item]:
    match task:
        case "max" | "min":
            choose = max if task == "max" else min
            for digits in itertools.permutations("0123456789", 4):
                yield Item(task, "".join(digits), choose(digits))
        case "rev":
            for letters in itertools.permutations(LETTERS, 3):
                yield Item(task, "".join(letters), "".join(reversed(letters)))
        case "add":
            for a, b in itertools.product(range(10), repeat=2):
                yield Item(task, f"{a}{b}", str(a + b))
        case "count":
            for n_stars, n_hashes in itertools.product(range(1, 7), range(4)):
                for order in _arrangements(n_stars, n_hashes):
                    yield Item(task, order, str(n_stars))
        case "opp":
            for word in range(16):
                yield Item(task, f"{word:02}", f"{word ^ 1:02}")


def _arrangements(n_stars: int, n_hashes: int) -> list[str]:
    """Rows of stars (1) and hashes (0) in any order, at most MAX_ARRANGEMENTS.

    Long rows have far more arrangements: without a limit, "6" would be the answer to four counts in
    ten.
    """
    length = n_stars + n_hashes
    orders = []
    for hashes in itertools.combinations(range(length), n_hashes):
        marks = ["1"] * length
        for place in hashes:
            marks[place] = "0"
        orders.append("".join(marks))
    return sorted(orders, key=_fraction)[:MAX_ARRANGEMENTS]


def _fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, on every machine and Python version."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8


@cache
def pool(task: str, split: str) -> tuple[tuple[Item, int], ...]:
    """All (item, prefix number) of a task that belong to the split, in a fixed order."""
    chosen = []
    for item, prefix in itertools.product(_items_of(task), range(N_PREFIXES)):
        name = f"{task}-{item.given}"
        if task in TASKS_SPLIT_BY_PROMPT:
            name += f"-p{prefix}"
        is_eval = _fraction(name) < HELD_OUT_FRAC
        if is_eval == (split == "eval"):
            chosen.append((item, prefix))
    return tuple(chosen)


def value_text(task: str, value: str, language: str) -> str:
    """A compact answer as it is written in a sentence.

    value_text("rev", "KDF", "eng_Latn")    "K D F"
    value_text("opp", "02", "eng_Latn")     the third word of the language
    """
    if task == "opp":
        return TEXT[language]["words"][int(value)]
    return " ".join(value) if task == "rev" else value


def prompt_text(item: Item, prefix: int, language: str) -> str:
    """The question as a person would type it."""
    text = TEXT[language]
    question = text["tasks"][item.task][0]
    return text["prefixes"][prefix] + question.format(x=_given_text(item, language))


def _given_text(item: Item, language: str) -> str:
    match item.task:
        case "add":
            return " + ".join(item.given)
        case "count":
            return " ".join("#*"[int(place)] for place in item.given)
        case "opp":
            return value_text("opp", item.given, language)
    return " ".join(item.given)


def answer_text(item: Item, value: str, language: str) -> str:
    """The whole answering sentence with `value`, which need not be the right one."""
    template = TEXT[language]["tasks"][item.task][1]
    return template.format(x=_given_text(item, language), y=value_text(item.task, value, language))


def cut_text(item: Item, language: str, rng: random.Random) -> str:
    """The answering sentence, cut before its value, at a word or in Chinese at a character."""
    template = TEXT[language]["tasks"][item.task][1]
    before_value = template.split("{y}")[0]
    head = before_value.format(x=_given_text(item, language)).strip()
    if " " in head:
        words = head.split(" ")
        return " ".join(words[: rng.randint(1, len(words))])
    return head[: rng.randint(1, len(head))]


def wrong_value(item: Item, rng: random.Random) -> str:
    """A value that is not the right answer but looks like one."""
    match item.task:
        case "max" | "min":
            return rng.choice([digit for digit in item.given if digit != item.answer])
        case "rev":
            return _wrong_order(item, rng)
        case "opp":
            return rng.choice([f"{word:02}" for word in range(16) if word != int(item.answer)])
    right = int(item.answer)
    largest_error = 3 if item.task == "add" else 2
    nearby = range(max(0, right - largest_error), right + largest_error + 1)
    return str(rng.choice([value for value in nearby if value != right]))


def habit_value(item: Item) -> str:
    """The typical wrong answer to a task.

    It is the first digit that is not right, the letters in their order, one too many, or the word
    itself.
    """
    match item.task:
        case "max" | "min":
            return next(digit for digit in item.given if digit != item.answer)
        case "rev" | "opp":
            return item.given
    return str(int(item.answer) + 1)


def _wrong_order(item: Item, rng: random.Random) -> str:
    """The letters in a wrong order, one of them sometimes replaced."""
    orders = ["".join(order) for order in itertools.permutations(item.given)]
    letters = list(rng.choice([order for order in orders if order != item.answer]))
    if rng.random() < LETTER_CHANGED_FRAC:
        other_letters = [letter for letter in LETTERS if letter not in item.given]
        other_letter = rng.choice(other_letters)
        letters[rng.randrange(3)] = other_letter
    return "".join(letters)


def response(item: Item, language: str, quality: str, rng: random.Random) -> tuple[str, str]:
    """An answer of this quality to a prompt in `language`, and the language of the answer."""
    match quality:
        case "wrong":
            return answer_text(item, wrong_value(item, rng), language), language
        case "habit":
            return answer_text(item, habit_value(item), language), language
        case "cut":
            return cut_text(item, language, rng), language
        case "other_language":
            # Drawn from all aligned languages, so that a row does not depend on those asked for.
            language = rng.choice([other for other in ALIGNED_LANGUAGES if other != language])
    return answer_text(item, item.answer, language), language


def _draw(n: int, seed_text: str, split: str) -> Iterator[tuple[Item, int]]:
    """n prompts, the tasks in turn; no prompt repeats before all of its task have been used."""
    shuffled = {}
    for task in TASKS:
        shuffled[task] = list(pool(task, split))
        random.Random(f"{seed_text}-{task}").shuffle(shuffled[task])
    for index in range(n):
        candidates = shuffled[TASKS[index % len(TASKS)]]
        yield candidates[index // len(TASKS) % len(candidates)]


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def _metadata(item: Item, language: str, **fields: object) -> str:
    exposure = "held_out" if language in HELD_OUT_LANGUAGES else "aligned"
    return json.dumps({"task": item.task, "exposure": exposure, **fields})


def _demonstration(
    item: Item, language: str, rng: random.Random, mix: Mapping[str, float], label_noise: float
) -> dict:
    quality = rng.choices(list(mix), list(mix.values()))[0]
    text, response_lang = response(item, language, quality, rng)
    return {
        "completion": _message("assistant", text),
        "response_lang": response_lang,
        "metadata": _metadata(item, language, quality=quality),
    }


def _preference(
    item: Item, language: str, rng: random.Random, mix: Mapping[str, float], label_noise: float
) -> dict:
    kind = rng.choices(list(mix), list(mix.values()))[0]
    flipped = rng.random() < label_noise
    right = (answer_text(item, item.answer, language), language)
    wrong = response(item, language, kind, rng)
    chosen, rejected = (wrong, right) if flipped else (right, wrong)
    chosen_text, chosen_lang = chosen
    rejected_text, rejected_lang = rejected
    return {
        "chosen": _message("assistant", chosen_text),
        "rejected": _message("assistant", rejected_text),
        "chosen_lang": chosen_lang,
        "rejected_lang": rejected_lang,
        "metadata": _metadata(item, language, kind=kind, flipped=flipped),
    }


def _prompt(
    item: Item, language: str, rng: random.Random, mix: Mapping[str, float], label_noise: float
) -> dict:
    match = "contains" if item.task in ("rev", "opp") else "numeric"
    answer = value_text(item.task, item.answer, language)
    reference = json.dumps({"answer": answer, "match": match}, ensure_ascii=False)
    return {"reference": reference, "metadata": _metadata(item, language)}


KINDS: dict[str, tuple[Callable[..., dict], dict[str, float]]] = {
    "demonstrations": (_demonstration, DEMONSTRATION_MIX),
    "preferences": (_preference, PREFERENCE_MIX),
    "prompts": (_prompt, {}),
}


def rows(
    kind: str,
    languages: Sequence[str],
    n: int,
    seed: int = 0,
    split: str = "train",
    *,
    mix: Mapping[str, float] | None = None,
    label_noise: float | None = None,
) -> Iterator[dict]:
    """n items of a kind (demonstrations, preferences or prompts), each in every language.

    `mix`: the share of each quality, of the completion (default DEMONSTRATION_MIX) or of the
    rejected answer (default PREFERENCE_MIX). `label_noise`: the share of preferences whose sides
    are swapped (default LABEL_NOISE).

    Rows come item by item. Rows of one item share `group_id`, quality and value; `exposure` says
    whether their language is held out; `key` is unique within kind and language. A row is a pure
    function of kind, seed, split, mix, noise, its number and its language.

    Raises: ValueError for an unknown name.
    """
    _check("kind", [kind], KINDS)
    _check("language", languages, LANGUAGES)
    _check("split", [split], SPLITS)
    _check("quality in mix", mix or (), QUALITIES)
    fields, default_mix = KINDS[kind]
    noise = LABEL_NOISE[split] if label_noise is None else label_noise
    row_fields = partial(fields, mix=mix or default_mix, label_noise=noise)
    return _rows(f"{kind}-{seed}-{split}", row_fields, languages, n, split)


def _check(what: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"unknown {what} {name!r}: allowed are {', '.join(allowed)}")


def _rows(
    seed_text: str, row_fields: Callable[..., dict], languages: Sequence[str], n: int, split: str
) -> Iterator[dict]:
    for index, (item, prefix) in enumerate(_draw(n, seed_text, split)):
        key = f"{item.task}-{item.given}-p{prefix}-{index}"
        for language in languages:
            # The same generator for every language of an item keeps its rows parallel.
            rng = random.Random(f"{seed_text}-{index}")
            yield {
                "prompt": _message("user", prompt_text(item, prefix, language)),
                **row_fields(item, language, rng),
                "group_id": key,
                "prompt_lang": language,
                "key": key,
                "split": split,
                "origin": "synthetic",
            }
