r"""Which option of a question an answer names. Pure.

An answer may name it as `(B)`, `B.`, `答案是B`, `الجواب: ب`, `\boxed{2}`, or by its text.

Labels are those of the row's options, in any script (A B C, أ ب ج, क ख ग, ア イ ウ, 1 2 3 in any
digits). A label counts where it stands alone: in brackets, before `.` `)` `:` or the like, or as a
word of its own. A one-letter word that begins a sentence ("A dog …", "В доме …") does not count.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from reward_models.families.scripts import SPACELESS, script_of

ASCII = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPEN = "([{（［【「『<*_\"'“«"
CLOSE = ")]}）］】」』>*_\"'”»"
# Whatever precedes one of these is a label rather than a word of a sentence.
ENDS = ".,:;!?…)]}）］】」』>*。．，、：；！？།॥،؛؟։።၊။"
SENTENCE_ENDS = ".!?…。！？।॥؟։።။\n"
# Forms of alef label the same option; tatweel only stretches a letter.
FOLD = str.maketrans("أإآ", "ااا", "ـ")


def options_of(options: Mapping | Sequence[str] | None) -> dict[str, str]:
    """label -> text of a row's options; a list gets the labels A, B, C, …"""
    if options is None:
        return {}
    if isinstance(options, Mapping):
        pairs = list(options.items())
    else:
        pairs = list(zip(ASCII, options, strict=False))
    return {folded(str(label)): str(text) for label, text in pairs}


def right_label(answer: str, options: Mapping[str, str]) -> str | None:
    """The label of the right option, given its label or its text; None if it is neither."""
    label = folded(_bare(answer))
    if label in options:
        return label
    if not options and _is_label(label):
        return label
    matching = [name for name, text in options.items() if _plain(text) == _plain(answer)]
    return matching[0] if len(matching) == 1 else None


def chosen(response: str, options: Mapping[str, str], right: str) -> str | None:
    """The label of the option that a response names; None if that is unclear.

    The last line with a label decides: the label that it begins with, or else the last one in it.
    Without any label, it is the one option whose text occurs. Without options (`{}`) every single
    letter of the script of `right`, or every number, is a label.
    """
    known = options or _similar_labels(right, response)
    for line in reversed(folded(response).splitlines()):
        labels = _labels(line, known)
        if not labels:
            continue
        first_position, first_label = labels[0]
        if first_position == 0:
            return first_label
        _, last_label = labels[-1]
        return last_label
    return _by_text(response, options)


def folded(text: str) -> str:
    """One form of each character: NFKC, ASCII digits, one alef."""
    text = unicodedata.normalize("NFKC", text).translate(FOLD)
    characters = []
    for character in text:
        digit = unicodedata.decimal(character, None)
        characters.append(character if digit is None else str(digit))
    return "".join(characters)


def _labels(line: str, known: Mapping[str, str]) -> list[tuple[int, str]]:
    """(position, label) of every label in a line; at position 0 the line begins with it."""
    line = line.strip().lstrip(OPEN + "-–#• ")
    spaceless = any(script_of(label[:1]) in SPACELESS for label in known)
    if spaceless:
        word = "|".join(map(re.escape, sorted(known)))
    else:
        word = r"\w[\w\u0300-\u036f]*"

    labels = []
    for match in re.finditer(word, _apart(line, known)):
        written = match[0]
        label = written if written in known else written.upper()
        before = line[: match.start()].rstrip()
        after = line[match.end() :]
        if label in known and _stands_alone(before, after, written == label, spaceless):
            labels.append((match.start(), label))
    return labels


def _stands_alone(before: str, after: str, exact: bool, spaceless: bool) -> bool:
    """Whether the text around a label sets it apart; `exact`: it is in the label's own case."""
    if before.endswith(tuple(OPEN)) and after.lstrip().startswith(tuple(CLOSE)):
        return True

    closed = not after.strip() or after[0] in ENDS
    if closed and (exact or not before):
        return True

    within_sentence = before != "" and before[-1] not in SENTENCE_ENDS
    return exact and within_sentence and not spaceless


def _apart(line: str, known: Mapping[str, str]) -> str:
    """The line, with each letter of a script without case replaced by a dot.

    In `答案是B。` the letters touch the label, which could not be told from a word. Only for labels
    that are all ASCII; the length stays.
    """
    if not all(label.isascii() for label in known):
        return line
    characters = []
    for character in line:
        is_caseless = unicodedata.category(character) == "Lo" and not character.isascii()
        characters.append("·" if is_caseless else character)
    return "".join(characters)


def _by_text(response: str, options: Mapping[str, str]) -> str | None:
    """The option whose text occurs in the response.

    An option whose text is part of another one that occurs does not count.
    """
    plain_response = _plain(response)
    occurring = {}
    for label, text in options.items():
        plain_text = _plain(text)
        if _occurs(plain_text, plain_response):
            occurring[label] = plain_text

    longest = []
    for label, text in occurring.items():
        longer = [other for other in occurring.values() if other != text and text in other]
        if not longer:
            longest.append(label)
    return longest[0] if len(longest) == 1 else None


def _occurs(text: str, response: str) -> bool:
    """Whether a text occurs, in alphabets only at the beginning of a word; endings may differ."""
    if not text:
        return False
    prefixes_are_rare = script_of(text[0]) in ("Latn", "Cyrl", "Grek", None)
    begins = r"(?<!\w)" if prefixes_are_rare else ""
    return re.search(begins + re.escape(text), response) is not None


def _similar_labels(right: str, response: str) -> dict[str, str]:
    """The words and characters of a response that could be labels beside `right`, and `right`.

    They are numbers if it is one, otherwise single letters of its script.
    """
    response = folded(response)
    candidates = set(re.findall(r"\w+", response)) | set(response)
    labels = {candidate.upper() for candidate in candidates}
    similar = {label: "" for label in labels if _kind(label) == _kind(right)}
    return {**similar, right: ""}


def _kind(label: str) -> str | None:
    """`number`, or the script of a single letter by its Unicode name; None for anything else."""
    if label.isdecimal():
        return "number" if len(label) <= 2 else None
    if len(label) == 1 and label.isalpha():
        return unicodedata.name(label, " ").split(" ")[0]
    return None


def _is_label(text: str) -> bool:
    return _kind(text) is not None


def _bare(answer: str) -> str:
    """A label without the punctuation around it."""
    return answer.strip().strip(OPEN + CLOSE + ENDS + " ")


def _plain(text: str) -> str:
    return " ".join(folded(text).casefold().split()).strip(ENDS + " ")
