"""What an answer says in the end: its last number, in digits of any script, or what is boxed."""

import re
import unicodedata
from fractions import Fraction

SPACES = "\u00a0\u2009\u202f"  # no-break, thin and narrow spaces: they only ever group digits
SIGNS = {
    "\u2212": "-", "\uff0d": "-", "\ufe63": "-", "\uff0b": "+",
    "\u066b": ".", "\u066c": "\u2019", "\uff0c": ",", "\uff0e": ".",
}  # fmt: skip
INVISIBLE = "\u200b\u200e\u200f\u061c\u2066\u2067\u2068\u2069"
# A minus between two numbers or after a word is a dash or a subtraction.
NUMBER = re.compile(rf"(?:(?<![\w)\]%])-)?\d(?:[\d.,'’{SPACES}]*\d)?")
SPACED = re.compile(r"(?:(?<![\w)\]%])-)?(?<!\d)\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?!\d)$")
FRACTION = re.compile(r"(-?)\s*\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}")


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
    """The values of one written number: each of its separators groups digits or marks decimals, as
    their places allow.
    """
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
    return bool(
        re.fullmatch(r"[1-9]\d{0,2}([.,])\d{3}(?:\1\d{3})*|[1-9]\d?(?:,\d{2})*,\d{3}", digits)
    )


def ascii_digits(text: str) -> str:
    """Decimal digits of every script as 0-9, signs and separators as ASCII, LaTeX's spacing and
    invisible marks removed.
    """
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


def folded(text: str) -> str:
    """A text without case, with one space for any number of them."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def plain(text: str) -> str:
    """A text without case, spaces around it or final punctuation: what `exact` compares."""
    text = folded(text)
    while text and (unicodedata.category(text[-1])[0] == "P" or text[-1] == " "):
        text = text[:-1]
    return text
