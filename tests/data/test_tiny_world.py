"""The tiny world: rows are deterministic, parallel, leak-free and right; the embedded model can
answer them.
"""

import dataclasses
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from mlalign.data import tiny_world
from mlalign.data.tiny_world import LANGUAGES, TEXT, rows

MODEL = Path(tiny_world.__file__).with_name("tiny")
# Written here again, by hand: the generator's own table must not be what it is checked against.
ENGLISH_OPPOSITES = [
    ("slow", "fast"),
    ("hot", "cold"),
    ("big", "small"),
    ("wet", "dry"),
    ("strong", "weak"),
]
ENGLISH_OPPOSITES += [("rich", "poor"), ("clean", "dirty"), ("good", "bad")]


def content(messages):
    return messages[0]["content"]


def metadata(row):
    return json.loads(row["metadata"])


def recomputed(prompt: str, task: str) -> str:
    """The right value, from the words of an English prompt (the items themselves are the same in
    all languages).
    """
    digits = [int(digit) for digit in re.findall(r"\d", prompt)]
    match task:
        case "max" | "min":
            return str(max(digits) if task == "max" else min(digits))
        case "rev":
            return " ".join(reversed(re.findall(r"\b[A-K]\b", prompt)))
        case "add":
            return str(sum(digits))
        case "count":
            return str(prompt.count("*"))
    word = re.search(r"of (\w+)\?", prompt).group(1)
    return next(b if word == a else a for a, b in ENGLISH_OPPOSITES if word in (a, b))


def verified(answer: str, reference: dict) -> bool:
    if reference["match"] == "numeric":
        return re.findall(r"\d+", answer) == [reference["answer"]]
    return reference["answer"] in answer


@pytest.mark.parametrize("kind", tiny_world.KINDS)
def test_same_seed_same_rows_and_another_seed_others(kind):
    first = list(rows(kind, LANGUAGES, 12, seed=3))
    assert first == list(rows(kind, LANGUAGES, 12, seed=3))
    assert first != list(rows(kind, LANGUAGES, 12, seed=4))


@pytest.mark.parametrize("kind", tiny_world.KINDS)
def test_a_row_does_not_depend_on_the_other_languages(kind):
    alone = list(rows(kind, ["hin_Deva"], 30))
    together = [row for row in rows(kind, LANGUAGES, 30) if row["prompt_lang"] == "hin_Deva"]
    assert alone == together


@pytest.mark.parametrize("kind", tiny_world.KINDS)
def test_groups_are_parallel_and_keys_unique(kind):
    n_items = 200
    made = list(rows(kind, LANGUAGES, n_items))
    groups = Counter(row["group_id"] for row in made)
    assert len(groups) == n_items
    assert set(groups.values()) == {len(LANGUAGES)}
    assert len({(row["key"], row["prompt_lang"]) for row in made}) == len(made)
    for _, group in itertools.groupby(made, key=lambda row: row["group_id"]):
        parallel = list(group)
        assert [row["prompt_lang"] for row in parallel] == list(LANGUAGES)
        assert len({json.dumps(metadata(row) | {"exposure": ""}) for row in parallel}) == 1
        assert [
            row["prompt_lang"] for row in parallel if metadata(row)["exposure"] == "held_out"
        ] == list(tiny_world.HELD_OUT_LANGUAGES)


@pytest.mark.slow
def test_splits_share_no_prompt_and_no_item_that_can_be_held_out():
    prompts, items = {}, {}
    for split in tiny_world.SPLITS:
        pairs = [pair for task in tiny_world.TASKS for pair in tiny_world.pool(task, split)]
        prompts[split] = {
            tiny_world.prompt_text(item, prefix, lang)
            for item, prefix in pairs
            for lang in LANGUAGES
        }
        items[split] = {
            item for item, _ in pairs if item.task not in tiny_world.TASKS_SPLIT_BY_PROMPT
        }
        made = {
            content(row["prompt"])
            for kind in tiny_world.KINDS
            for row in rows(kind, LANGUAGES, 60, split=split)
        }
        assert made <= prompts[split]
    assert not prompts["train"] & prompts["eval"]
    assert not items["train"] & items["eval"]
    for task in ("max", "min", "rev", "count"):
        held_out, kept = (
            len({i for i in items[split] if i.task == task}) for split in ("eval", "train")
        )
        assert held_out / (held_out + kept) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("split", tiny_world.SPLITS)
@pytest.mark.slow
def test_right_answers_are_right_in_every_language(split):
    english = {row["key"]: row for row in rows("prompts", ["eng_Latn"], 300, seed=1, split=split)}
    for row in rows("prompts", LANGUAGES, 300, seed=1, split=split):
        task, reference = metadata(row)["task"], json.loads(row["reference"])
        value = recomputed(content(english[row["key"]]["prompt"]), task)
        if task == "opp":
            place = TEXT["eng_Latn"]["words"].index(value)
            value = TEXT[row["prompt_lang"]]["words"][place]
        assert reference["answer"] == value, row


@pytest.mark.slow
def test_only_the_right_sentence_passes_its_check():
    """chosen passes and rejected does not, for every kind of bad answer that stays in the language."""
    mix = {"wrong": 0.4, "habit": 0.3, "cut": 0.3}
    items = {
        f"{item.task}-{item.given}": item
        for task in tiny_world.TASKS
        for item, _ in tiny_world.pool(task, "train")
    }
    for row in rows("preferences", LANGUAGES, 600, mix=mix, label_noise=0.0):
        item = items[row["key"].split("-p")[0]]
        answer = tiny_world.value_text(item.task, item.answer, row["prompt_lang"])
        reference = {
            "answer": answer,
            "match": "contains" if item.task in ("rev", "opp") else "numeric",
        }
        assert verified(content(row["chosen"]), reference), row
        assert not verified(content(row["rejected"]), reference), row


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_word_hides_in_another_or_in_the_template(language):
    words = TEXT[language]["words"]
    template = TEXT[language]["tasks"]["opp"][1].replace("{x}", "").replace("{y}", "")
    assert len(words) == 2 * len(ENGLISH_OPPOSITES)
    assert not [(a, b) for a, b in itertools.permutations(words, 2) if a in b]
    assert not [word for word in words if word in template]


def test_the_world_is_wide_and_holds_languages_out():
    scripts = {language.split("_")[1] for language in tiny_world.ALIGNED_LANGUAGES}
    assert len(tiny_world.ALIGNED_LANGUAGES) >= 10 and scripts == {
        "Latn",
        "Cyrl",
        "Arab",
        "Deva",
        "Hans",
        "Beng",
    }
    assert (
        set(tiny_world.HELD_OUT_LANGUAGES)
        == {"deu_Latn", "tha_Thai"}
        == set(LANGUAGES) - set(tiny_world.ALIGNED_LANGUAGES)
    )
    strayed = rows("demonstrations", tiny_world.ALIGNED_LANGUAGES, 300, mix={"other_language": 1.0})
    assert {row["response_lang"] for row in strayed} == set(tiny_world.ALIGNED_LANGUAGES)


def test_a_habit_is_one_wrong_value_for_every_item():
    by_hand = {
        ("max", "6902"): "6",
        ("max", "9602"): "6",
        ("min", "0692"): "6",
        ("rev", "FDK"): "FDK",
        ("add", "79"): "17",
        ("count", "101"): "3",
        ("opp", "03"): "03",
    }
    items = {
        (item.task, item.given): item
        for task in tiny_world.TASKS
        for split in tiny_world.SPLITS
        for item, _ in tiny_world.pool(task, split)
    }
    assert {key: tiny_world.habit_value(items[key]) for key in by_hand} == by_hand
    assert not [item for item in items.values() if tiny_world.habit_value(item) == item.answer]


def test_mixes():
    made = list(rows("demonstrations", ["swh_Latn"], 3000))
    shares = Counter(metadata(row)["quality"] for row in made)
    for quality, share in tiny_world.DEMONSTRATION_MIX.items():
        assert shares[quality] / len(made) == pytest.approx(share, abs=0.03)
    assert all(
        (row["response_lang"] != "swh_Latn") == (metadata(row)["quality"] == "other_language")
        for row in made
    )
    only_cut = rows("demonstrations", ["swh_Latn"], 50, mix={"cut": 1.0})
    assert {metadata(row)["quality"] for row in only_cut} == {"cut"}


def test_label_noise_swaps_train_pairs_only():
    made = list(rows("preferences", ["eng_Latn"], 3000))
    assert sum(metadata(row)["kind"] == "cut" for row in made) / len(made) == pytest.approx(
        0.25, abs=0.03
    )
    assert sum(metadata(row)["flipped"] for row in made) / len(made) == pytest.approx(
        0.05, abs=0.015
    )
    assert not any(
        metadata(row)["flipped"] for row in rows("preferences", ["eng_Latn"], 500, split="eval")
    )
    straight, swapped = (
        next(rows("preferences", ["eng_Latn"], 1, label_noise=noise)) for noise in (0.0, 1.0)
    )
    assert (straight["chosen"], straight["rejected"]) == (swapped["rejected"], swapped["chosen"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kind": "demos"}, "demonstrations"),
        ({"languages": ["eng_Latn", "xxx_Latn"]}, "cmn_Hans"),
        ({"split": "test"}, "eval"),
        ({"mix": {"good": 1.0}}, "other_language"),
    ],
)
def test_unknown_names_are_errors_that_list_the_allowed(arguments, named):
    with pytest.raises(ValueError, match=named):
        rows(**{"kind": "preferences", "languages": ["eng_Latn"], "n": 1, **arguments})


@pytest.fixture(scope="module")
def tokenizer():
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(MODEL)


def test_embedded_tokenizer_keeps_any_text_and_masks_assistant_turns(tokenizer):
    text = "ภาษาไทย, ქართული, 🙂\n\tx"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = [
        {"role": role, "content": role[0]}
        for role in ("system", "user", "assistant", "user", "assistant")
    ]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    assert rendered == "<|user|>s u<|assistant|>a<|end|><|user|>u<|assistant|>a<|end|>"
    prompt = tokenizer.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True)
    assert rendered.startswith(prompt)
    encoded = tokenizer.apply_chat_template(
        chat, return_assistant_tokens_mask=True, return_dict=True
    )
    masked = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(masked) == "a<|end|>a<|end|>"


@pytest.mark.long
def test_the_base_is_a_function_of_its_seed():
    torch, tiny_base = pytest.importorskip("torch"), pytest.importorskip("mlalign.data.tiny_base")

    def built(seed):
        tokenizer = tiny_base.train_tokenizer(seed, 2000)
        model = tiny_base.new_model(tokenizer, seed)
        before = model.state_dict()["model.norm.weight"].clone()
        tiny_base.train(
            model, tokenizer, dataclasses.replace(tiny_base.STAGE_2, n_steps=3), f"stage2-{seed}"
        )
        assert not torch.equal(before, model.state_dict()["model.norm.weight"])
        return tokenizer.get_vocab(), model.state_dict()

    (vocabulary, first), (_, again), (_, other) = built(0), built(0), built(1)
    assert len(vocabulary) == tiny_base.N_VOCABULARY
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not any(
        torch.equal(other[name], value) for name, value in first.items() if "mlp" in name
    )


@pytest.mark.slow
def test_embedded_model_answers_held_out_questions_in_two_languages():
    tiny_base = pytest.importorskip("mlalign.data.tiny_base")
    accuracy = tiny_base.greedy_accuracy(
        MODEL, 120, ["eng_Latn", "hin_Deva"]
    )  # 20 items of each task
    # Chance is one digit of four, and only in a whole, right sentence of the right language.
    chance = 0.25
    assert accuracy["max"] > 2 * chance, accuracy
    assert min(accuracy["eng_Latn"], accuracy["hin_Deva"]) > 2 * chance, accuracy
