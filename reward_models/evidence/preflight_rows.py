"""Rows before they are scored: tokens, truncation, equal or empty answers, by language.

Also one rendered sample of each language.
"""

import dataclasses
import re
import statistics
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from mlalign.core import languages
from mlalign.core.errors import UserError
from reward_models import files, items
from reward_models.evidence import calibration
from reward_models.evidence.preflight import Finding, Subject, special_findings
from reward_models.items import Item
from reward_models.networks.encoding import Encoded, encode, left_out_flags, render, token_ids

NAMELESS = "(none)"
ENGLISH = "eng_Latn"
# Scripts without spaces between words.
NO_SPACES = frozenset("Bopo Hani Hans Hant Hira Jpan Kana Khmr Laoo Mymr Thai Tibt".split())
INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")  # categories of characters
LONGEST_CHARACTER = 4  # bytes in UTF-8, and so tokens
SHOWN_PROBLEMS = 3
SHOWN_LANGUAGES = 5  # that have one problem
TRUNCATED_SHARE = 0.01  # of a language's answers, from which on there is a warning


@dataclasses.dataclass
class Tally:
    """One language's rows.

    `counts`: rows, answers, characters, words, content_tokens, and every problem by name.
    `lengths`: tokens of each rendered conversation.
    """

    counts: Counter = dataclasses.field(default_factory=Counter)
    lengths: array = dataclasses.field(default_factory=lambda: array("q"))


@dataclasses.dataclass(frozen=True)
class Sample:
    """A language's first conversation as the model reads it.

    `tokens`: (id, text) of every token; `cut`: how many are cut off.
    """

    id: str
    text: str
    tokens: list[tuple[int, str]]
    cut: int


@dataclasses.dataclass
class Looked:
    """The results of looking at rows."""

    languages: dict[str, Tally] = dataclasses.field(default_factory=lambda: defaultdict(Tally))
    samples: dict[str, Sample] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    n_unreadable: int = 0  # all of them, of which `unreadable` has the first

    def of(self, item: Item) -> Tally:
        return self.languages[item.language or NAMELESS]

    def refuse(self, item: Item, error: UserError) -> None:
        """Count an item that cannot be scored."""
        self.of(item).counts["refused"] += 1
        self.tell(error.messages[:1])

    def tell(self, messages: Sequence[str]) -> None:
        """Keep the first messages, count all."""
        self.n_unreadable += 1
        self.unreadable += messages[: SHOWN_PROBLEMS - len(self.unreadable)]


def look(rows: Iterable[tuple[str, dict]], subject: Subject) -> Looked:
    """Everything about the rows; those that are wrong are counted and the first few named.

    Memory: eight bytes per answer.
    """
    looked = Looked()
    special = _special_pattern(subject.tokenizer)
    for window in files.windows(rows):
        answers: list[tuple[Item, bool]] = []
        for where, row in window:
            answers += _answers(where, row, looked)
        _count(answers, subject, special, looked)
    looked.findings += _findings(looked, subject)
    return looked


def table(looked: Looked) -> dict[str, dict[str, Any]]:
    """Language -> rows, answers, tokens, shares and ratios; what is undefined is None."""
    english = None
    if ENGLISH in looked.languages:
        english = _per_character(looked.languages[ENGLISH].counts)
    by_language = sorted(looked.languages.items())
    return {language: _numbers(language, tally, english) for language, tally in by_language}


def visible(text: str, limit: int = 400) -> str:
    """Text with everything invisible escaped (\\x1b, \\u202e, …); a long one loses its middle.

    Invisible is what could move a cursor, change the writing direction or hide itself.
    """
    if len(text) > limit:
        left_out = f"[…{len(text) - limit} characters…]"
        text = f"{text[: limit * 2 // 3]} {left_out} {text[-(limit // 3) :]}"
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    """The character, or an escape if it is invisible."""
    if unicodedata.category(character) not in INVISIBLE:
        return character
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    if character in named:
        return named[character]
    code = ord(character)
    if code < 256:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


# --------------------------------------------------------------------------------------- counting


def _answers(where: str, row: Mapping, looked: Looked) -> list[tuple[Item, bool]]:
    """A row's items, each with whether it is the first side of a pair."""
    try:
        read = items.read_row(row, where)
        answers = items.of_row(row, where, read)
    except UserError as error:
        looked.tell(error.messages)
        return []
    looked.of(answers[0]).counts["rows"] += 1
    is_pair = read.shape == "pair"
    return [(answer, is_pair and i == 0) for i, answer in enumerate(answers)]


def _count(
    answers: Sequence[tuple[Item, bool]],
    subject: Subject,
    special: re.Pattern | None,
    looked: Looked,
) -> None:
    """Add the answers of a window to the tallies of their languages."""
    encoded = _encode([item for item, _ in answers], subject, looked)
    contents = [_content(item) for item, _ in answers]
    content_ids = _token_ids(subject.tokenizer, contents)
    for i, (item, first_of_pair) in enumerate(answers):
        content = contents[i]
        tokens = encoded[i]
        counts = looked.of(item).counts
        counts["answers"] += 1
        counts["characters"] += len(content)
        counts["words"] += len(content.split())
        counts["content_tokens"] += len(content_ids[i])
        counts["empty"] += not item.response.strip() and not item.answer_extra.get("tool_calls")
        counts["special"] += special is not None and special.search(content) is not None
        if tokens is not None:
            looked.of(item).lengths.append(len(tokens.ids) + tokens.cut_tokens)
            counts["truncated"] += tokens.cut_tokens > 0
            counts["response_truncated"] += tokens.response_truncated
            for name, (left_out,) in left_out_flags([tokens.left_out]).items():
                counts[name] += left_out
        if first_of_pair:
            problem = _same_sides(item, answers[i + 1][0], tokens, encoded[i + 1])
            if problem:
                counts[problem] += 1


def _content(item: Item) -> str:
    return "\n".join(items.readable(message) for message in (*item.prompt, item.answer))


def _same_sides(
    chosen: Item,
    rejected: Item,
    chosen_tokens: Encoded | None,
    rejected_tokens: Encoded | None,
) -> str | None:
    """Whether the two sides of a pair are the same text, or at least the same tokens."""
    if chosen.answer == rejected.answer and chosen.prompt == rejected.prompt:
        return "same_text"
    if chosen_tokens is None or rejected_tokens is None:
        return None
    return "same_tokens" if chosen_tokens.ids == rejected_tokens.ids else None


def _encode(answers: Sequence[Item], subject: Subject, looked: Looked) -> list[Encoded | None]:
    """The conversations as the model reads them, None for one that it refuses.

    The first of each language becomes a sample.
    """
    if subject.tokenizer is None:
        return [None] * len(answers)
    texts = [_render(item, subject, looked) for item in answers]
    rendered = [text for text in texts if text is not None]
    next_ids = iter(_token_ids(subject.tokenizer, rendered))

    encoded: list[Encoded | None] = []
    for item, text in zip(answers, texts, strict=True):
        if text is None:
            encoded.append(None)
            continue
        ids = next(next_ids)
        tokens = _shortened(item, ids, text, subject, looked)
        encoded.append(tokens)
        language = item.language or NAMELESS
        if language not in looked.samples:
            n_cut = tokens.cut_tokens if tokens else 0
            pieces = _pieces(ids, subject.tokenizer)
            looked.samples[language] = Sample(item.id, text, pieces, n_cut)
    return encoded


def _render(item: Item, subject: Subject, looked: Looked) -> str | None:
    assert subject.template is not None
    try:
        return render(item, subject.template)
    except UserError as error:
        looked.refuse(item, error)
        return None


def _shortened(
    item: Item,
    ids: list[int],
    text: str,
    subject: Subject,
    looked: Looked,
) -> Encoded | None:
    """A conversation within the limit; None if nothing would be left of its answer."""
    template = subject.template
    max_length = subject.max_length
    assert template is not None
    try:
        if max_length is not None and len(ids) > max_length:
            return encode([item], template, max_length)[0]
        left_out = template.left_out(text, item.messages, item.id, item.tools)
        return Encoded(ids, left_out=left_out)
    except UserError as error:
        looked.refuse(item, error)
        return None


def _token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if tokenizer is None:
        return [[]] * len(texts)
    return token_ids(texts, tokenizer)


def _pieces(ids: Sequence[int], tokenizer: Any) -> list[tuple[int, str]]:
    """Each token with its text.

    If several tokens make up a character, the last one shows it and those before show `…`.
    """
    pieces: list[tuple[int, str]] = []
    begun: list[int] = []
    for token in ids:
        begun.append(token)
        text = tokenizer.decode(begun, clean_up_tokenization_spaces=False)
        is_whole = not text.endswith("\ufffd") or len(begun) == LONGEST_CHARACTER
        pieces.append((token, text if is_whole else "…"))
        if is_whole:
            begun = []
    return pieces


def _special_pattern(tokenizer: Any) -> re.Pattern | None:
    if tokenizer is None:
        return None
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    return re.compile("|".join(map(re.escape, sorted(special)))) if special else None


# --------------------------------------------------------------------------------------- results


def _numbers(language: str, tally: Tally, english: float | None) -> dict[str, Any]:
    counts = tally.counts
    lengths = tally.lengths
    per_character = _per_character(counts)
    has_words = language != NAMELESS and languages.script(language) not in NO_SPACES
    per_word = None
    if has_words and counts["words"] and per_character:
        per_word = counts["content_tokens"] / counts["words"]
    relative = per_character / english if per_character and english else None
    return {
        "rows": counts["rows"],
        "answers": counts["answers"],
        "tokens_median": statistics.median_low(lengths) if lengths else None,
        "tokens_max": max(lengths, default=None),
        "tokens_total": sum(lengths),
        "truncated_frac": counts["truncated"] / len(lengths) if lengths else None,
        "tokens_per_character": per_character,
        "tokens_per_word": per_word,
        "relative_to_english": relative,
        **{name: counts[name] for name in (*PROBLEMS, "refused")},
    }


def _per_character(counts: Mapping[str, int]) -> float | None:
    if not counts["characters"] or not counts["content_tokens"]:
        return None
    return counts["content_tokens"] / counts["characters"]


PROBLEMS = {
    "empty": "empty answers: {n}",
    "same_text": "pairs whose chosen and rejected answers are the same text: {n}",
    "same_tokens": "pairs whose sides differ, but not in the tokens that the model gets: {n}",
    "response_truncated": "answers longer than the limit, which lose their own beginning: {n}",
    "answer_left_out": "answers without a score: the chat template leaves them out whole: {n}",
    "answer_partly_left_out": "answers of which the chat template leaves some out: {n}",
    "prompt_partly_left_out": "prompts of which the chat template leaves some out: {n}",
    "special": "conversations with text that reads as a special token and may end a turn: {n}",
}


def _findings(looked: Looked, subject: Subject) -> Iterator[Finding]:
    for message in looked.unreadable:
        yield Finding("error", "rows", message)
    if looked.n_unreadable > SHOWN_PROBLEMS:
        text = f"and more: {looked.n_unreadable} that cannot be scored"
        yield Finding("error", "rows", text)
    if not looked.languages:
        yield Finding("error", "rows", "none that can be read")
    for name, text in PROBLEMS.items():
        where = _where(looked, name)
        if where:
            yield Finding("warning", _places(where), text.format(n=sum(where.values())))
    yield from _truncation_findings(looked, subject)
    yield from _language_findings(looked, subject)
    yield from _special_findings(looked, subject)


def _where(looked: Looked, problem: str) -> dict[str, int]:
    """language -> how many have the problem, of the languages with any."""
    counts = {code: tally.counts[problem] for code, tally in sorted(looked.languages.items())}
    return {code: n for code, n in counts.items() if n}


def _truncation_findings(looked: Looked, subject: Subject) -> Iterator[Finding]:
    where = _where(looked, "truncated")
    if not where:
        return
    lengths = {code: len(looked.languages[code].lengths) for code in where}
    many = any(n >= TRUNCATED_SHARE * lengths[code] for code, n in where.items())
    text = (
        f"conversations that are longer than {subject.max_length} tokens and lose their beginning:"
        f" {sum(where.values())}"
    )
    level: Literal["warning", "note"] = "warning" if many else "note"
    yield Finding(level, _places(where), text)


def _language_findings(looked: Looked, subject: Subject) -> Iterator[Finding]:
    if NAMELESS in looked.languages:
        n = looked.languages[NAMELESS].counts["rows"]
        columns = "columns language, response_lang_requested, prompt_lang"
        yield Finding("warning", "language", f"rows that say none ({columns}): {n}")

    known = [code for code in sorted(looked.languages) if code != NAMELESS]
    trained = subject.card.training_languages if subject.card else []
    untrained = [code for code in known if code not in trained]
    if trained and untrained:
        text = f"the model was not trained in {', '.join(untrained)}"
        yield Finding("warning", "language", f"{text} (its card: {', '.join(trained)})")
    if subject.settings.get("path"):
        warning = calibration.warning(known, subject.card)
        if warning:
            yield Finding("note", "calibration", warning)


def _special_findings(looked: Looked, subject: Subject) -> Iterator[Finding]:
    """BOS and EOS of the samples; a finding in some languages only names them."""
    by_finding: dict[Finding, list[str]] = defaultdict(list)
    for language, sample in sorted(looked.samples.items()):
        for finding in special_findings([token for token, _ in sample.tokens], subject):
            by_finding[finding].append(language)

    for finding, codes in by_finding.items():
        if len(codes) == len(looked.samples):
            yield finding
        else:
            place = f"{finding.where} ({', '.join(codes)})"
            yield dataclasses.replace(finding, where=place)


def _places(where: Mapping[str, int]) -> str:
    """`swh_Latn 3, hin_Deva 2, … 9 languages`."""
    counts = [f"{language} {n}" for language, n in where.items()]
    shown = ", ".join(counts[:SHOWN_LANGUAGES])
    if len(counts) > SHOWN_LANGUAGES:
        return f"{shown}, … {len(counts)} languages"
    return shown
