"""The family `language_adherence`: is the answer in the language that was asked for? 1.0 or 0.0;
None if nobody can say.

The script decides first: an answer in another script is in another language, and scripts of one
language need no model. Otherwise an identifier weighs all languages of that script, not only those
of the run. The requested language and English count `prior` times, because an answer is mostly in
one of the two, and on five words an identifier alone prefers rare languages. `prior: 1` is the bare
identifier.

`identifier: blend` is langid with fastText's help on one or two words; lingua, langid and fasttext
are the others. `otherwise` names one for the requested languages that `identifier` does not know.
`model: PATH` with `identifier: fasttext` takes another fastText model, such as GlotLID or OpenLID.
Where one identifier gates what a policy is trained on, let another one measure it.

None, with a flag that is counted: `undetected` (digits, symbols, single letters, nothing),
`unsupported` (the identifier does not know the requested language). Columns: `confidence`, the
weighted probability, or the share of letters where the script decided; `script_share`, the share of
letters in a script of the requested language.

`level: line` and `level: word` look inside the answer (see `code_switch`): the score is the share
of its lines, or words, in the requested language; code, formulas, addresses, numbers, and Latin
names and units do not count. Further columns then: `line_share`, `word_share`, and `line_pass`,
`word_pass` (1.0: all of them), whose means over answers are the Language Confusion Benchmark's
rates.
"""

from __future__ import annotations

import dataclasses
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
    otherwise: Literal["", "blend", "lingua", "langid", "fasttext"] = (
        ""  # for languages that it does not know
    )
    model: str | None = None  # path of a fastText model, with `identifier: fasttext`
    prior: float | None = (
        # weight of the requested language and of English; 1: as every other; None: 5 with blend and
        # langid, else 2
        None
    )
    max_characters: int = 2000  # of the answer's beginning that are looked at
    level: Literal["response", "line", "word"] = (
        "response"  # what must be in the language: the answer as a whole, its lines, its words
    )

    @staticmethod
    def problems(values: Mapping[str, Any], key: str) -> list[str]:
        if values.get("model") is None or values.get("identifier") == "fasttext":
            return []
        return [f"{key}.model: a fastText model needs identifier: fasttext"]


@dataclasses.dataclass(frozen=True)
class Detection:
    """What an answer is written in: its script and, if that can be told, the language with its
    confidence.
    """

    script: str
    language: str | None
    confidence: float | None


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    identifier = identifiers.open_identifier(settings.identifier, settings.model)
    known_first = _known(identifier)
    other = identifiers.open_identifier(settings.otherwise) if settings.otherwise else identifier
    known = known_first | _known(other)

    def run(items: Sequence[Item]) -> Scores:
        found = detect(items)
        verdicts = [_verdict(item.language, f, known) for item, f in zip(items, found, strict=True)]
        told = [f if v != "unsupported" else None for f, v in zip(found, verdicts, strict=True)]
        whole = Scores(
            [v if isinstance(v, float) else None for v in verdicts],
            {flag: [v == flag for v in verdicts] for flag in ("undetected", "unsupported")},
            {
                "confidence": [f.confidence if f else None for f in told],
                "script_share": [
                    (
                        code_switch.script_share(item.response, item.language)
                        if item.language
                        else None
                    )
                    for item in items
                ],
            },
            detected=[
                item.language if v == 1.0 else f.language if f else None
                for item, v, f in zip(items, verdicts, told, strict=True)
            ],
        )
        if settings.level == "response":
            return whole
        inside = _inside(
            items,
            lambda lines: [
                _verdict(i.language, f, known) for i, f in zip(lines, detect(lines), strict=True)
            ],
            settings,
        )
        return _by_level(whole, inside, settings.level)

    def detect(items: Sequence[Item]) -> list[Detection | None]:
        """By the first identifier, or by the other one where only that knows the requested
        language.
        """
        detections: list[Detection | None] = [None] * len(items)
        is_known = [not item.language or _knows(known_first, item.language) for item in items]
        for by, of_known in ((identifier, True), (other, False)):
            places = [place for place, known_ in enumerate(is_known) if known_ is of_known]
            prior = by.prior if settings.prior is None else settings.prior
            of_these = _detect(
                [items[place] for place in places], by, prior, settings.max_characters
            )
            for place, detection in zip(places, of_these, strict=True):
                detections[place] = detection
        return detections

    return run


Verdicts = Callable[[Sequence[Item]], list[float | str | None]]


def _inside(
    items: Sequence[Item], verdicts: Verdicts, settings: Settings
) -> list[code_switch.Switches | None]:
    """Where each answer leaves its language; all lines of all answers are identified together."""
    texts = [item.response[: settings.max_characters] for item in items]
    lines = [
        code_switch.lines(text) if item.language else []
        for item, text in zip(items, texts, strict=True)
    ]
    flat = [
        dataclasses.replace(item, response=code_switch.own_part(line, item.language))
        for item, own in zip(items, lines, strict=True)
        for line in own
        if item.language
    ]
    told = iter([v if isinstance(v, float) else None for v in verdicts(flat)])
    return [
        (
            code_switch.switches(text, item.language, [next(told) for _ in own])
            if item.language
            else None
        )
        for item, text, own in zip(items, texts, lines, strict=True)
    ]


def _by_level(whole: Scores, inside: Sequence[code_switch.Switches | None], level: str) -> Scores:
    """The scores with the share of lines or words as the value.

    An answer too short for lines has its verdict as a whole.
    """
    shares = [getattr(s, f"{level}_share") if s else None for s in inside]
    known = [not u for u in whole.flags["unsupported"]]
    values = [
        (v if share is None else share) if k else None
        for v, share, k in zip(whole.values, shares, known, strict=True)
    ]
    names = [field.name for field in dataclasses.fields(code_switch.Switches)]
    columns = {
        name: [getattr(s, name) if s and k else None for s, k in zip(inside, known, strict=True)]
        for name in names
    }
    flags = {
        **whole.flags,
        "undetected": [k and v is None for k, v in zip(known, values, strict=True)],
    }
    return dataclasses.replace(
        whole, values=values, flags=flags, columns={**whole.columns, **columns}
    )


def _detect(
    items: Sequence[Item], identifier: identifiers.Identifier, prior: float, max_characters: int
) -> list[Detection | None]:
    """The language of every answer; None where there is no word.

    The identifier sees only what the script leaves open.
    """
    texts = [item.response[:max_characters] for item in items]
    found: list[Detection | None] = [None] * len(items)
    unsure = []
    for i, (item, text) in enumerate(zip(items, texts, strict=True)):
        script, share = scripts.dominant(text) or (None, 0.0)
        if script == "Hani" or script in scripts.ONLY:
            found[i] = Detection(script, _by_script(text, script, item.language), share)
        elif script is not None:
            unsure.append((i, script))
    for first in range(0, len(unsure), BLOCK):
        _weigh(unsure[first : first + BLOCK], items, texts, identifier, prior, found)
    return found


def _weigh(
    unsure: Sequence[tuple[int, str]],
    items: Sequence[Item],
    texts: Sequence[str],
    identifier: identifiers.Identifier,
    prior: float,
    found: list[Detection | None],
) -> None:
    """Fill in `found` for the (number, script) in `unsure`; answers of one script and request are
    decided together.
    """
    weights = identifier.probabilities(
        [scripts.words_in(texts[i], script) or texts[i] for i, script in unsure]
    )
    groups = defaultdict(list)
    for row, (i, script) in enumerate(unsure):
        groups[script, items[i].language].append(row)
    codes = tuple(identifier.codes)
    for (script, requested), rows in groups.items():
        best = _best(weights[rows], codes, script, requested, prior)
        for row, (language, confidence) in zip(rows, best, strict=True):
            found[unsure[row][0]] = Detection(script, language, confidence)


def _verdict(
    requested: str | None, found: Detection | None, known: frozenset[str]
) -> float | str | None:
    """1.0, 0.0, the flag that says why there is no score, or None if no language was asked for."""
    if requested is None:
        return None if found and found.language else "undetected"
    if found and found.script not in scripts.written_with(requested):
        return 0.0
    if found and not _knows(known, requested):
        return "unsupported"
    return float(_same(found.language, requested)) if found and found.language else "undetected"


def _best(
    weights: np.ndarray, codes: tuple[str, ...], script: str, requested: str | None, prior: float
) -> list[tuple[str | None, float | None]]:
    """The likeliest language written in this script, and its probability among them, for each row
    [n_texts, n_codes].
    """
    columns, favoured = _columns(codes, script, requested)
    if not columns:
        return [(None, None)] * len(weights)
    scaled = weights[:, columns].astype("float64")
    scaled[:, favoured] *= prior
    totals = scaled.sum(axis=1)
    best = scaled.argmax(axis=1).tolist()
    confidences = scaled.max(axis=1) / totals.clip(min=TINY)
    verdicts: list[tuple[str | None, float | None]] = []
    for column, confidence, total in zip(best, confidences.tolist(), totals.tolist(), strict=True):
        verdicts.append((codes[columns[column]], round(confidence, 6)) if total else (None, None))
    return verdicts


@cache
def _columns(
    codes: tuple[str, ...], script: str, requested: str | None
) -> tuple[list[int], list[int]]:
    """The columns of languages in this script, and which of these are the requested language or
    English.
    """
    columns = [i for i, code in enumerate(codes) if script in scripts.written_with(code)]
    favoured = [
        n
        for n, i in enumerate(columns)
        if any(_same(codes[i], f) for f in (ENGLISH, requested) if f)
    ]
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

    Han alone is Chinese, but may be short Japanese: then None if that was asked for.
    """
    if script != "Hani":
        return scripts.ONLY[script]
    if (
        requested
        and requested.startswith("jpn_")
        and sum(scripts.script_of(c) == "Hani" for c in text) < MIN_HAN
    ):
        return None
    asked = requested.split("_")[1] if requested and requested.startswith("cmn_") else "Hans"
    return f"cmn_{scripts.han_variant(text) or asked}"


@cache
def _same(a: str, b: str) -> bool:
    """Equal language, and equal or equivalent script; the region says nothing about it."""
    (language_a, script_a), (language_b, script_b) = a.split("_")[:2], b.split("_")[:2]
    korean = language_a == "kor" and {script_a, script_b} <= {"Kore", "Hang"}
    return language_a == language_b and (script_a == script_b or korean)
