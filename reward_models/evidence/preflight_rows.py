"""Rows before they are scored: tokens, truncation, answers that are equal or empty, by language; and a rendered sample of each."""

import dataclasses
import re
import statistics
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlalign.core import languages
from mlalign.core.errors import UserError
from reward_models import files, items
from reward_models.evidence import calibration
from reward_models.evidence.preflight import Finding, Subject, special_findings
from reward_models.items import Item
from reward_models.networks.encoding import Encoded, encode, left_out_flags, render

NAMELESS = "(none)"
ENGLISH = "eng_Latn"
NO_SPACES = frozenset("Bopo Hani Hans Hant Hira Jpan Kana Khmr Laoo Mymr Thai Tibt".split())  # scripts that put none between words
LONGEST_CHARACTER = 4  # bytes in UTF-8, and so tokens
SHOWN_PROBLEMS = 3
TRUNCATED_SHARE = 0.01  # of a language's answers; from here on a warning


@dataclasses.dataclass
class Tally:
    """One language's rows. `counts`: rows, answers, characters, words, content_tokens, and every problem by name."""

    counts: Counter = dataclasses.field(default_factory=Counter)
    lengths: array = dataclasses.field(default_factory=lambda: array("q"))  # tokens of each rendered conversation


@dataclasses.dataclass(frozen=True)
class Sample:
    """A language's first conversation as the model reads it. `tokens`: (id, text) of every token; `cut`: how many are cut off."""

    id: str
    text: str
    tokens: list[tuple[int, str]]
    cut: int


@dataclasses.dataclass
class Looked:
    languages: dict[str, Tally] = dataclasses.field(default_factory=lambda: defaultdict(Tally))
    samples: dict[str, Sample] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    n_unreadable: int = 0  # all of them

    def of(self, item: Item) -> Tally:
        return self.languages[item.language or NAMELESS]

    def refuse(self, item: Item, why: str) -> None:
        self.of(item).counts["refused"] += 1
        self.tell([why])

    def tell(self, messages: Sequence[str]) -> None:
        """Keep the first messages, count all."""
        self.n_unreadable += 1
        self.unreadable += list(messages)[: SHOWN_PROBLEMS - len(self.unreadable)]


def look(rows: Iterable[tuple[str, dict]], subject: Subject) -> Looked:
    """Everything about the rows; those that are wrong are counted and the first few named. Memory: eight bytes per answer."""
    found = Looked()
    special = _special_pattern(subject.tokenizer)
    for window in files.windows(rows):
        answers = [answer for where, row in window for answer in _answers(where, row, found)]
        _count(answers, subject, special, found)
    found.findings += _findings(found, subject)
    return found


def table(found: Looked) -> dict[str, dict[str, Any]]:
    """Language -> rows, answers, tokens, shares and ratios; what cannot be said is None."""
    english = _per_character(found.languages[ENGLISH].counts) if ENGLISH in found.languages else None
    return {language: _numbers(language, tally, english) for language, tally in sorted(found.languages.items())}


def visible(text: str, limit: int = 400) -> str:
    """Text with everything that could move a cursor, turn the writing or hide itself as \\x1b, \\u202e, …; a long one loses its middle."""
    shown = text if len(text) <= limit else f"{text[: limit * 2 // 3]} […{len(text) - limit} characters…] {text[-(limit // 3) :]}"
    return "".join(_escaped(c) if unicodedata.category(c) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") else c for c in shown)


def _escaped(character: str) -> str:
    code = ord(character)
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    return named or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}")


# ------------------------------------------------------------------------------------------------------------------ counting


def _answers(where: str, row: Mapping, found: Looked) -> list[tuple[Item, bool]]:
    """A row's items, each with whether it is the first side of a pair."""
    try:
        read = items.read_row(row, where)
        answers = items.of_row(row, where, read)
    except UserError as error:
        found.tell(error.messages)
        return []
    pair = read.shape == "pair"
    found.languages[answers[0].language or NAMELESS].counts["rows"] += 1
    return [(answer, pair and i == 0) for i, answer in enumerate(answers)]


def _count(answers: Sequence[tuple[Item, bool]], subject: Subject, special: re.Pattern | None, found: Looked) -> None:
    encoded = _encode([item for item, _ in answers], subject, found)
    contents = ["\n".join(items.readable(message) for message in (*item.prompt, item.answer)) for item, _ in answers]
    of_contents = _token_ids(subject.tokenizer, contents)
    for i, (item, first_of_pair) in enumerate(answers):
        tally, own = found.of(item), encoded[i]
        tally.counts.update(answers=1, characters=len(contents[i]), words=len(contents[i].split()), content_tokens=len(of_contents[i]))
        tally.counts["empty"] += not item.response.strip() and not item.answer_extra.get("tool_calls")
        tally.counts["special"] += special is not None and special.search(contents[i]) is not None
        if own is not None:
            tally.lengths.append(len(own.ids) + own.cut_tokens)
            tally.counts.update(truncated=own.cut_tokens > 0, response_truncated=own.response_truncated)
            tally.counts.update({name: marks[0] for name, marks in left_out_flags([own.left_out]).items()})
        if first_of_pair:
            other, others = answers[i + 1][0], encoded[i + 1]
            same = item.answer == other.answer and item.prompt == other.prompt
            tally.counts["same_text"] += same
            tally.counts["same_tokens"] += not same and own is not None and others is not None and own.ids == others.ids


def _encode(answers: Sequence[Item], subject: Subject, found: Looked) -> list[Encoded | None]:
    """The conversations as the model reads them, None for one that it refuses; the first of each language becomes a sample."""
    if subject.tokenizer is None:
        return [None] * len(answers)
    texts = [_render(item, subject, found) for item in answers]
    ids = iter(_token_ids(subject.tokenizer, [text for text in texts if text is not None]))
    out: list[Encoded | None] = []
    for item, text in zip(answers, texts, strict=True):
        whole = next(ids) if text is not None else []
        out.append(None if text is None else _shortened(item, whole, text, subject, found))
        if text is not None and (item.language or NAMELESS) not in found.samples:
            cut = out[-1].cut_tokens if out[-1] else 0
            found.samples[item.language or NAMELESS] = Sample(item.id, text, _pieces(whole, subject.tokenizer), cut)
    return out


def _render(item: Item, subject: Subject, found: Looked) -> str | None:
    assert subject.template is not None
    try:
        return render(item, subject.template)
    except UserError as error:
        found.refuse(item, error.messages[0])
        return None


def _shortened(item: Item, ids: list[int], text: str, subject: Subject, found: Looked) -> Encoded | None:
    """What is left of a conversation; None if nothing of its answer would be."""
    assert subject.template is not None
    try:
        if subject.max_length is not None and len(ids) > subject.max_length:
            return encode([item], subject.template, subject.max_length)[0]
        return Encoded(ids, left_out=subject.template.left_out(text, item.messages, item.id, item.tools))
    except UserError as error:
        found.refuse(item, error.messages[0])
        return None


def _token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if tokenizer is None or not texts:
        return [[]] * len(texts)
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def _pieces(ids: Sequence[int], tokenizer: Any) -> list[tuple[int, str]]:
    """Each token with its text. Of a character that several tokens make up, the last one shows it; those before show `…`."""
    out: list[tuple[int, str]] = []
    begun: list[int] = []
    for i in ids:
        begun.append(i)
        text = tokenizer.decode(begun, clean_up_tokenization_spaces=False)
        whole = not text.endswith("\ufffd") or len(begun) == LONGEST_CHARACTER
        out.append((i, text if whole else "…"))
        begun = [] if whole else begun
    return out


def _special_pattern(tokenizer: Any) -> re.Pattern | None:
    if tokenizer is None:
        return None
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special} | set(tokenizer.all_special_tokens)
    return re.compile("|".join(map(re.escape, sorted(special)))) if special else None


# ------------------------------------------------------------------------------------------------------------------ telling


def _numbers(language: str, tally: Tally, english: float | None) -> dict[str, Any]:
    counts, here = tally.counts, _per_character(tally.counts)
    spaced = language != NAMELESS and languages.script(language) not in NO_SPACES
    per_word = counts["content_tokens"] / counts["words"] if spaced and counts["words"] and here else None
    return {
        "rows": counts["rows"],
        "answers": counts["answers"],
        "tokens_median": statistics.median_low(tally.lengths) if tally.lengths else None,
        "tokens_max": max(tally.lengths, default=None),
        "tokens_total": sum(tally.lengths),
        "truncated_frac": counts["truncated"] / len(tally.lengths) if tally.lengths else None,
        "tokens_per_character": here,
        "tokens_per_word": per_word,
        "relative_to_english": here / english if here and english else None,
        **{name: counts[name] for name in (*PROBLEMS, "refused")},
    }


def _per_character(counts: Mapping[str, int]) -> float | None:
    return counts["content_tokens"] / counts["characters"] if counts["characters"] and counts["content_tokens"] else None


PROBLEMS = {
    "empty": "empty answers: {n}",
    "same_text": "pairs whose chosen and rejected answers are the same text: {n}",
    "same_tokens": "pairs whose sides differ, but not in the tokens that the chat template and truncation leave: {n}",
    "response_truncated": "answers that alone are longer than the limit and lose their own beginning: {n}",
    "answer_left_out": "answers that the chat template leaves out whole, so that they have no score: {n}",
    "answer_partly_left_out": "answers of which the chat template leaves some out, so that others may have the same score: {n}",
    "prompt_partly_left_out": "prompts of which the chat template leaves some out (a system message, reasoning, tools): {n}",
    "special": "conversations with text that reads as a special token, so that whoever wrote it can end a turn: {n}",
}


def _findings(found: Looked, subject: Subject) -> Iterator[Finding]:
    yield from (Finding("error", "rows", message) for message in found.unreadable)
    if found.n_unreadable > SHOWN_PROBLEMS:
        yield Finding("error", "rows", f"and more: {found.n_unreadable} that cannot be scored")
    if not found.languages:
        yield Finding("error", "rows", "none that can be read")
    for name, text in PROBLEMS.items():
        where = {language: tally.counts[name] for language, tally in sorted(found.languages.items()) if tally.counts[name]}
        if where:
            yield Finding("warning", _places(where), text.format(n=sum(where.values())))
    cut = {x: t.counts["truncated"] for x, t in sorted(found.languages.items()) if t.counts["truncated"]}
    many = any(n >= TRUNCATED_SHARE * len(found.languages[x].lengths) for x, n in cut.items())
    if cut:
        text = f"conversations that are longer than {subject.max_length} tokens and lose their beginning: {sum(cut.values())}"
        yield Finding("warning" if many else "note", _places(cut), text)
    yield from _language_findings(found, subject)
    yield from _special_findings(found, subject)


def _language_findings(found: Looked, subject: Subject) -> Iterator[Finding]:
    if NAMELESS in found.languages:
        n = found.languages[NAMELESS].counts["rows"]
        yield Finding("warning", "language", f"rows that say none (columns language, response_lang_requested, prompt_lang): {n}")
    known = [x for x in sorted(found.languages) if x != NAMELESS]
    trained = subject.card.training_languages if subject.card else []
    strange = [x for x in known if x not in trained]
    if trained and strange:
        yield Finding("warning", "language", f"the model was not trained in {', '.join(strange)} (its card: {', '.join(trained)})")
    if subject.told.get("path") and (text := calibration.warning(known, subject.card)):
        yield Finding("note", "calibration", text)


def _special_findings(found: Looked, subject: Subject) -> Iterator[Finding]:
    by_finding: dict[Finding, list[str]] = defaultdict(list)
    for language, sample in sorted(found.samples.items()):
        for finding in special_findings([i for i, _ in sample.tokens], subject):
            by_finding[finding].append(language)
    for finding, where in by_finding.items():
        everywhere = len(where) == len(found.samples)
        yield finding if everywhere else dataclasses.replace(finding, where=f"{finding.where} ({', '.join(where)})")


def _places(where: Mapping[str, int]) -> str:
    shown = [f"{language} {n}" for language, n in list(where.items())[:5]]
    return ", ".join(shown) + (f", … {len(where)} languages" if len(where) > 5 else "")
