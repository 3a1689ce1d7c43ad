r"""Which option of a question an answer names: `(B)`, `B.`, `答案是B`, `الجواب: ب`, `\boxed{2}`, or
the text of one. Pure.

Labels are those of the row's options, in whatever script (A B C, أ ب ج, क ख ग, ア イ ウ, 1 2 3 in any
digits). One counts where it stands alone: in brackets, before `.` `)` `:` or the like, or as a word
of its own; a one-letter word that begins a sentence ("A dog …", "В доме …") does not.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from reward_models.families.scripts import SPACELESS, script_of

ASCII = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPEN, CLOSE = "([{（［【「『<*_\"'“«", ")]}）］】」』>*_\"'”»"
# what stands after a label that is no word of a sentence
ENDS = ".,:;!?…)]}）］】」』>*。．，、：；！？।॥،؛؟։።၊။"
SENTENCE_ENDS = ".!?…。！？।॥؟։።။\n"
FOLD = str.maketrans(
    "أإآ", "ااا", "ـ"
)  # forms of alef that label the same option; the stretching of هـ


def options_of(told: Mapping | Sequence[str] | None) -> dict[str, str]:
    """label -> text of a row's options; a list gets A, B, C, …"""
    if told is None:
        return {}
    pairs = told.items() if isinstance(told, Mapping) else zip(ASCII, told, strict=False)
    return {folded(str(label)): str(text) for label, text in pairs}


def right_label(answer: str, options: Mapping[str, str]) -> str | None:
    """The label of the right option, from a label or from an option's text; None if it is neither."""
    label = folded(_bare(answer))
    if label in options or (not options and _is_label(label)):
        return label
    named = [name for name, text in options.items() if _plain(text) == _plain(answer)]
    return named[0] if len(named) == 1 else None


def chosen(response: str, options: Mapping[str, str], right: str) -> str | None:
    """The label of the option that a response names; None if it names none, or several texts and no
    label.

    The last line with a label decides: the label that it begins with, or else the last one in it.
    Without any label the option whose text occurs. Without options (`{}`) every single letter of
    the script of `right`, or every number, is a label.
    """
    known = options or _like(right, response)
    for line in reversed(folded(response).splitlines()):
        found = _labels(line, known)
        if found:
            return found[0][1] if found[0][0] == 0 else found[-1][1]
    return _by_text(response, options)


def folded(text: str) -> str:
    """One form of a character: NFKC, ASCII digits, one alef."""
    text = unicodedata.normalize("NFKC", text).translate(FOLD)
    return "".join(c if (d := unicodedata.decimal(c, None)) is None else str(d) for c in text)


def _labels(line: str, known: Mapping[str, str]) -> list[tuple[int, str]]:
    """(place, label) of every label in a line; place 0: the line begins with it."""
    line = line.strip().lstrip(OPEN + "-–#• ")
    found = []
    spaceless = any(script_of(label[:1]) in SPACELESS for label in known)
    word = "|".join(map(re.escape, sorted(known))) if spaceless else r"\w[\w\u0300-\u036f]*"
    for match in re.finditer(word, _apart(line, known)):
        label = match[0] if match[0] in known else match[0].upper()
        before, after = line[: match.start()].rstrip(), line[match.end() :]
        closed = after[:1] in ENDS if after.strip() else True
        bracketed = (
            before[-1:] in OPEN
            and before != ""
            and after.lstrip()[:1] in CLOSE
            and after.strip() != ""
        )
        alone = (
            not spaceless and match[0] == label and bool(before) and before[-1] not in SENTENCE_ENDS
        )
        if label in known and (
            bracketed or (closed and (match[0] == label or not before)) or alone
        ):
            found.append((match.start(), label))
    return found


def _apart(line: str, known: Mapping[str, str]) -> str:
    """The line with what touches a Latin letter or digit in scripts without spaces (`答案是B。`) put
    aside, at equal length.
    """
    ascii_only = all(label.isascii() for label in known)
    return "".join(
        c if c.isascii() or not ascii_only else "·" if unicodedata.category(c) == "Lo" else c
        for c in line
    )


def _by_text(response: str, options: Mapping[str, str]) -> str | None:
    """The option whose text occurs in the response; one that is part of another that occurs does
    not count.
    """
    said = _plain(response)
    within = {label: _plain(text) for label, text in options.items() if _occurs(_plain(text), said)}
    longest = [
        n
        for n, text in within.items()
        if not any(text != other and text in other for other in within.values())
    ]
    return longest[0] if len(longest) == 1 else None


def _occurs(text: str, said: str) -> bool:
    """Whether a text occurs; not within a word in scripts that put nothing before a word (endings
    are not looked at).
    """
    begins = r"(?<!\w)" if text and script_of(text[0]) in ("Latn", "Cyrl", "Grek", None) else ""
    return bool(text) and re.search(begins + re.escape(text), said) is not None


def _like(right: str, response: str) -> dict[str, str]:
    """Labels of the kind of the right one that occur in a response: numbers, or single letters of
    its script and case.
    """
    words = set(re.findall(r"\w+", folded(response))) | set(folded(response))
    return {w.upper(): "" for w in words if _kind(w.upper()) == _kind(right)} | {right: ""}


def _kind(label: str) -> str | None:
    if label.isdecimal():
        return "number" if len(label) <= 2 else None
    return (
        unicodedata.name(label, " ").split(" ")[0] if len(label) == 1 and label.isalpha() else None
    )


def _is_label(text: str) -> bool:
    return _kind(text) is not None


def _bare(answer: str) -> str:
    """A label without what is written around it."""
    return answer.strip().strip(OPEN + CLOSE + ENDS + " ")


def _plain(text: str) -> str:
    return " ".join(folded(text).casefold().split()).strip(ENDS + " ")
