"""The family `language_adherence`: 1.0 if the answer is in the requested language, else 0.0.

The script decides first: an answer in another script is in another language, and a script of one
language needs no model. Otherwise an identifier weighs all languages of that script, not only those
of the run. The requested language and English count `prior` times, because most answers are in one
of the two, and on five words an identifier alone prefers rare languages. `prior: 1` is the bare
identifier.

`identifier: blend` is langid with fastText's help on one or two words; lingua, langid and fasttext
are the others. `otherwise` names one for the requested languages that `identifier` does not know.
`model: PATH` with `identifier: fasttext` takes another fastText model, such as GlotLID or OpenLID.
Where one identifier gates what a policy is trained on, let another one measure it.

The score is None, with a flag, where nobody can say: `undetected` (digits, symbols, single letters,
nothing), `unsupported` (the identifier does not know the requested language). Columns:
`confidence`, the weighted probability, or the share of letters where the script decided;
`script_share`, the share of letters in a script of the requested language.

`level: line` and `level: word` look inside the answer (see `code_switch`): the score is the share
of its lines, or words, in the requested language; code, formulas, addresses, numbers, and Latin
names and units do not count. Further columns then: `line_share`, `word_share`, and `line_pass`,
`word_pass` (1.0: all of them), whose means over answers are the Language Confusion Benchmark's
rates.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from reward_models.families import code_switch, identifiers, scripts
from reward_models.items import Item, Scores

if TYPE_CHECKING:
    import numpy as np

ENGLISH = "eng_Latn"
MIN_HAN = 10  # shorter texts of Han characters alone may be Japanese
TINY = 1e-300
BLOCK = 2048  # texts that an identifier weighs at once
# Codes that the script decides, whatever the identifier.
BY_SCRIPT = frozenset({*scripts.ONLY.values(), "cmn_Hans", "cmn_Hant"})


@dataclasses.dataclass(frozen=True)
class Settings:
    identifier: Literal["blend", "lingua", "langid", "fasttext"] = "blend"
    # for languages that `identifier` does not know
    otherwise: Literal["", "blend", "lingua", "langid", "fasttext"] = ""
    model: str | None = None  # path of a fastText model, with `identifier: fasttext`
    # weight of the requested language and of English; 1: as every other; None: 5 with blend and
    # langid, else 2
    prior: float | None = None
    max_characters: int = 2000  # of the answer's beginning that are looked at
    # what must be in the language: the answer as a whole, its lines, its words
    level: Literal["response", "line", "word"] = "response"

    @staticmethod
    def problems(values: Mapping[str, Any], key: str) -> list[str]:
        if values.get("model") is None or values.get("identifier") == "fasttext":
            return []
        return [f"{key}.model: a fastText model needs identifier: fasttext"]


@dataclasses.dataclass(frozen=True)
class Detection:
    """The script of an answer and, if it can be told, its language with the confidence."""

    script: str
    language: str | None
    confidence: float | None


Verdict = float | str | None  # see `_verdict`


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    first = identifiers.open_identifier(settings.identifier, settings.model)
    second = identifiers.open_identifier(settings.otherwise) if settings.otherwise else first
    known_first = _known(first)
    known = known_first | _known(second)

    def detect(items: Sequence[Item]) -> list[Detection | None]:
        """By the first identifier, or by the second where only that knows the language."""
        by_first = []
        by_second = []
        for place, item in enumerate(items):
            if not item.language or _knows(known_first, item.language):
                by_first.append(place)
            else:
                by_second.append(place)

        detections: list[Detection | None] = [None] * len(items)
        for identifier, places in ((first, by_first), (second, by_second)):
            prior = identifier.prior if settings.prior is None else settings.prior
            selected = [items[place] for place in places]
            detected = _detect(selected, identifier, prior, settings.max_characters)
            for place, detection in zip(places, detected, strict=True):
                detections[place] = detection
        return detections

    def judge(items: Sequence[Item], detections: Sequence[Detection | None]) -> list[Verdict]:
        verdicts = []
        for item, detection in zip(items, detections, strict=True):
            verdicts.append(_verdict(item.language, detection, known))
        return verdicts

    def run(items: Sequence[Item]) -> Scores:
        detections = detect(items)
        whole = _scores(items, detections, judge(items, detections))
        if settings.level == "response":
            return whole
        inside = _inside(items, lambda lines: judge(lines, detect(lines)), settings)
        return _by_level(whole, inside, settings.level)

    return run


def _scores(
    items: Sequence[Item], detections: Sequence[Detection | None], verdicts: Sequence[Verdict]
) -> Scores:
    """The scores of answers as a whole."""
    confidences: list[float | None] = []
    shares: list[float | None] = []
    languages: list[str | None] = []
    for item, detection, verdict in zip(items, detections, verdicts, strict=True):
        share = None
        if item.language:
            share = code_switch.script_share(item.response, item.language)
        shares.append(share)

        if detection is None or verdict == "unsupported":
            confidences.append(None)
            languages.append(None)
        else:
            confidences.append(detection.confidence)
            languages.append(item.language if verdict == 1.0 else detection.language)

    values = [_value(verdict) for verdict in verdicts]
    flags = {}
    for flag in ("undetected", "unsupported"):
        flags[flag] = [verdict == flag for verdict in verdicts]
    columns = {"confidence": confidences, "script_share": shares}
    return Scores(values, flags, columns, detected=languages)


def _value(verdict: Verdict) -> float | None:
    return verdict if isinstance(verdict, float) else None


def _inside(
    items: Sequence[Item],
    judge: Callable[[Sequence[Item]], list[Verdict]],
    settings: Settings,
) -> list[code_switch.Switches | None]:
    """Where each answer leaves its language; None for answers without a requested language.

    All lines of all answers are identified together.
    """
    texts = [item.response[: settings.max_characters] for item in items]
    line_items = []
    n_lines = [0] * len(items)
    for i, (item, text) in enumerate(zip(items, texts, strict=True)):
        if item.language:
            lines = code_switch.lines(text)
            n_lines[i] = len(lines)
            for line in lines:
                own_part = code_switch.own_part(line, item.language)
                line_items.append(dataclasses.replace(item, response=own_part))
    line_values = iter([_value(verdict) for verdict in judge(line_items)])

    switches: list[code_switch.Switches | None] = []
    for item, text, n in zip(items, texts, n_lines, strict=True):
        if item.language:
            own_values = list(itertools.islice(line_values, n))
            switches.append(code_switch.switches(text, item.language, own_values))
        else:
            switches.append(None)
    return switches


def _by_level(whole: Scores, inside: Sequence[code_switch.Switches | None], level: str) -> Scores:
    """The scores with the share of lines or words as the value.

    An answer without lines that can be judged has its verdict as a whole.
    """
    nothing = code_switch.Switches(None, None, None, None)
    supported = []
    for switches, is_unsupported in zip(inside, whole.flags["unsupported"], strict=True):
        supported.append(nothing if switches is None or is_unsupported else switches)

    values: list[float | None] = []
    for value, switches in zip(whole.values, supported, strict=True):
        share = getattr(switches, f"{level}_share")
        values.append(value if share is None else share)

    undetected = []
    for value, is_unsupported in zip(values, whole.flags["unsupported"], strict=True):
        undetected.append(value is None and not is_unsupported)

    columns = dict(whole.columns)
    for field in dataclasses.fields(code_switch.Switches):
        columns[field.name] = [getattr(switches, field.name) for switches in supported]
    flags = {**whole.flags, "undetected": undetected}
    return dataclasses.replace(whole, values=values, flags=flags, columns=columns)


def _detect(
    items: Sequence[Item], identifier: identifiers.Identifier, prior: float, max_characters: int
) -> list[Detection | None]:
    """The language of every answer; None where there is no word.

    The identifier sees only what the script leaves open.
    """
    texts = [item.response[:max_characters] for item in items]
    detections: list[Detection | None] = [None] * len(items)
    unsure = []
    for i, (item, text) in enumerate(zip(items, texts, strict=True)):
        script, share = scripts.dominant(text) or (None, 0.0)
        if script == "Hani" or script in scripts.ONLY:
            detections[i] = Detection(script, _by_script(text, script, item.language), share)
        elif script is not None:
            unsure.append((i, script))
    for start in range(0, len(unsure), BLOCK):
        _weigh(unsure[start : start + BLOCK], items, texts, identifier, prior, detections)
    return detections


def _weigh(
    unsure: Sequence[tuple[int, str]],
    items: Sequence[Item],
    texts: Sequence[str],
    identifier: identifiers.Identifier,
    prior: float,
    detections: list[Detection | None],
) -> None:
    """Fill in `detections` for the (number, script) in `unsure`.

    Answers of one script and requested language are decided together.
    """
    in_script = [scripts.words_in(texts[i], script) or texts[i] for i, script in unsure]
    weights = identifier.probabilities(in_script)
    groups = defaultdict(list)
    for row, (i, script) in enumerate(unsure):
        groups[script, items[i].language].append(row)

    codes = tuple(identifier.codes)
    for (script, requested), rows in groups.items():
        best = _best(weights[rows], codes, script, requested, prior)
        for row, (language, confidence) in zip(rows, best, strict=True):
            i, _ = unsure[row]
            detections[i] = Detection(script, language, confidence)


def _verdict(requested: str | None, detection: Detection | None, known: frozenset[str]) -> Verdict:
    """1.0, 0.0, the flag that says why there is no score, or None if no language was requested."""
    is_detected = detection is not None and detection.language is not None
    if requested is None:
        return None if is_detected else "undetected"
    if detection is None:
        return "undetected"
    if detection.script not in scripts.written_with(requested):
        return 0.0
    if not _knows(known, requested):
        return "unsupported"
    if detection.language is None:
        return "undetected"
    return float(_same(detection.language, requested))


def _best(
    weights: np.ndarray, codes: tuple[str, ...], script: str, requested: str | None, prior: float
) -> list[tuple[str | None, float | None]]:
    """The likeliest language written in this script, and its probability among them, for each text.

    `weights`: [n_texts, n_codes].
    """
    columns, favoured = _columns(codes, script, requested)
    if not columns:
        return [(None, None)] * len(weights)
    scaled = weights[:, columns].astype("float64")
    scaled[:, favoured] *= prior
    totals = scaled.sum(axis=1)
    best = scaled.argmax(axis=1).tolist()
    confidences = scaled.max(axis=1) / totals.clip(min=TINY)
    likeliest: list[tuple[str | None, float | None]] = []
    for column, confidence, total in zip(best, confidences.tolist(), totals.tolist(), strict=True):
        if total:
            likeliest.append((codes[columns[column]], round(confidence, 6)))
        else:
            likeliest.append((None, None))
    return likeliest


@cache
def _columns(
    codes: tuple[str, ...], script: str, requested: str | None
) -> tuple[list[int], list[int]]:
    """The columns of languages in this script, and which of these count `prior` times.

    They are the requested language and English, as places in the list of columns.
    """
    columns: list[int] = []
    favoured: list[int] = []
    for column, code in enumerate(codes):
        if script not in scripts.written_with(code):
            continue
        is_requested = requested is not None and _same(code, requested)
        if is_requested or _same(code, ENGLISH):
            favoured.append(len(columns))
        columns.append(column)
    return columns, favoured


def _known(identifier: identifiers.Identifier) -> frozenset[str]:
    """The languages that an identifier, with the scripts, can tell."""
    codes = {*identifier.codes, *BY_SCRIPT}
    return frozenset(code for code in codes if code.split("_")[0] not in identifier.unreliable)


@cache
def _knows(known: frozenset[str], requested: str) -> bool:
    return any(_same(requested, code) for code in known)


def _by_script(text: str, script: str, requested: str | None) -> str | None:
    """The language where the script decides.

    Han alone is Chinese. It may be short Japanese too: then None, if that was requested.
    """
    if script != "Hani":
        return scripts.ONLY[script]

    requested = requested or ""
    if requested.startswith("jpn_"):
        n_han = sum(scripts.script_of(character) == "Hani" for character in text)
        if n_han < MIN_HAN:
            return None
    likely_variant = requested.split("_")[1] if requested.startswith("cmn_") else "Hans"
    return f"cmn_{scripts.han_variant(text) or likely_variant}"


@cache
def _same(a: str, b: str) -> bool:
    """Equal language, and equal or equivalent script; the region does not matter."""
    language_a, script_a = a.split("_")[:2]
    language_b, script_b = b.split("_")[:2]
    if language_a != language_b:
        return False
    both_korean = language_a == "kor" and {script_a, script_b} <= {"Kore", "Hang"}
    return script_a == script_b or both_korean
