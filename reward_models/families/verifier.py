r"""The family `verifier`: does the answer agree with the reference? 1.0 or 0.0; None where a row has no reference.

A reference is JSON: `{"answer": …, "match": "numeric" | "exact" | "contains" | "multiple_choice", "options": …}`.

numeric   the content of the last `\boxed{}` if there is one, else the last number in the response. Decimal digits of every
          script count. One separator followed by three digits ("1.234", "1,234", "1 234") means thousands in some
          languages and, but for the space, decimals in others: the answer is right if any reading equals the reference.
          Numerals that are words or ideographs (三, XIV) are not read.
exact     the response, or the content of its last `\boxed{}`, is the answer but for case, spaces and final punctuation
contains  the answer occurs in the response, whatever the case
multiple_choice
          the option that the response names, by its label or its text (see `choices`), is the answer, also a label or a text;
          `options` is {label: text}, or a list of texts for A, B, C, …
"""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from mlalign.core.errors import UserError, nearest
from reward_models.families import choices
from reward_models.items import Item, Scores

SPACES = "\u00a0\u2009\u202f"  # no-break, thin and narrow spaces: they only ever group digits
SIGNS = {"\u2212": "-", "\uff0d": "-", "\ufe63": "-", "\uff0b": "+", "\u066b": ".", "\u066c": "\u2019", "\uff0c": ",", "\uff0e": "."}
INVISIBLE = "\u200b\u200e\u200f\u061c\u2066\u2067\u2068\u2069"
# A minus between two numbers or after a word is a dash or a subtraction.
NUMBER = re.compile(rf"(?:(?<![\w)\]%])-)?\d(?:[\d.,'’{SPACES}]*\d)?")
SPACED = re.compile(r"(?:(?<![\w)\]%])-)?(?<!\d)\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?!\d)$")
FRACTION = re.compile(r"(-?)\s*\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """No settings."""


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    return lambda items: Scores([verify(item.response, *reference) if (reference := _reference(item)) else None for item in items])


def verify(response: str, answer: str, match: str, options: Mapping | Sequence[str] | None = None) -> float:
    """1.0 if the response gives the answer, else 0.0. `options` are those of a multiple-choice question."""
    if match == CHOICE:
        return float(_choice(response, answer, choices.options_of(options)))
    return float(MATCHES[match](response, answer))


def _choice(response: str, answer: str, options: Mapping[str, str]) -> bool:
    right = choices.right_label(answer, options)
    return right is not None and choices.chosen(boxed(response) or response, options, right) == right


def _numeric(response: str, answer: str) -> bool:
    right, said = readings(answer), readings(response)
    return bool(right & said)


def _exact(response: str, answer: str) -> bool:
    return _plain(boxed(response) or response) == _plain(answer)


def _contains(response: str, answer: str) -> bool:
    return _folded(answer) in _folded(response)


CHOICE = "multiple_choice"
MATCHES = {"numeric": _numeric, "exact": _exact, "contains": _contains}


def readings(text: str) -> set[Fraction]:
    """What the last number in a text can mean; empty if there is none."""
    text = ascii_digits(text)
    text = boxed(text) or text
    fraction = next(iter(list(FRACTION.finditer(text))[-1:]), None)
    numbers = list(NUMBER.finditer(text))
    if fraction and (not numbers or numbers[-1].end() <= fraction.end()) and int(fraction[3]):
        return {Fraction(int(fraction[2]), int(fraction[3])) * (-1 if fraction[1] else 1)}
    if not numbers:
        return set()
    last = numbers[-1]
    grouped = SPACED.search(text[: last.end()])
    found = _values(last.group())
    return found | _values(grouped.group().replace(" ", "")) if grouped else found


def _values(number: str) -> set[Fraction]:
    """The values of one written number: each of its separators groups digits or marks decimals, as their places allow."""
    sign, digits = (-1, number[1:]) if number.startswith("-") else (1, number)
    digits = re.sub(rf"[{SPACES}'’]", "", digits)
    marks = [c for c in digits if c in ".,"]
    whole, _, tail = digits.rpartition(marks[-1]) if marks else (digits, "", "")
    found = set()
    if not marks or _groups(digits):
        found.add(Fraction(re.sub(r"[.,]", "", digits)))
    if marks and marks.count(marks[-1]) == 1 and (not re.search(r"[.,]", whole) or _groups(whole)):
        found.add(Fraction(f"{re.sub(r'[.,]', '', whole)}.{tail}"))
    return {sign * value for value in found}


def _groups(digits: str) -> bool:
    """Grouped by one kind of separator, in threes, or in twos before the last three as in India."""
    return bool(re.fullmatch(r"[1-9]\d{0,2}([.,])\d{3}(?:\1\d{3})*|[1-9]\d?(?:,\d{2})*,\d{3}", digits))


def ascii_digits(text: str) -> str:
    """Decimal digits of every script as 0-9, signs and separators as ASCII, LaTeX's spacing and invisible marks removed."""
    text = text.replace("{,}", ",")
    text = re.sub(r"\\[,!;:]|\\left|\\right", "", text)
    return "".join(SIGNS.get(c) or _digit(c) for c in text if c not in INVISIBLE)


def _digit(character: str) -> str:
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`, braces balanced; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for i in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i]
    return None


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _plain(text: str) -> str:
    text = _folded(text)
    while text and (unicodedata.category(text[-1])[0] == "P" or text[-1] == " "):
        text = text[:-1]
    return text


def _reference(item: Item) -> tuple[str, str, Any] | None:
    if item.reference is None:
        return None
    try:
        told = json.loads(item.reference)
        answer, match, options = str(told["answer"]), told["match"], told.get("options")
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{item.id}: its reference must be JSON like {{"answer": "42", "match": "numeric"}}') from None
    if match not in (*MATCHES, CHOICE):
        raise UserError(f"{item.id}: unknown match {match!r} in its reference{nearest(match, (*MATCHES, CHOICE))}")
    if match == "numeric" and not readings(answer):
        raise UserError(f"{item.id}: its reference is to be matched as a number but holds none")
    if match == CHOICE and choices.right_label(answer, choices.options_of(options)) is None:
        raise UserError(f"{item.id}: the answer {answer!r} of its reference is neither the label nor the text of one of its options")
    return answer, match, options
