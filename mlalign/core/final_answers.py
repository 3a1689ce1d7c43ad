"""The final answer in a text: its last number, in digits of any script, or what is boxed."""

import re
import unicodedata
from fractions import Fraction

SPACES = "\u00a0\u2009\u202f"  # no-break, thin and narrow spaces: they only ever group digits
SIGNS = {
    "\u2212": "-",
    "\uff0d": "-",
    "\ufe63": "-",
    "\uff0b": "+",
    "\u066b": ".",
    "\u066c": "\u2019",
    "\uff0c": ",",
    "\uff0e": ".",
}
INVISIBLE = "\u200b\u200e\u200f\u061c\u2066\u2067\u2068\u2069"
# A minus between two numbers or after a word is a dash or a subtraction.
NUMBER = re.compile(rf"(?:(?<![\w)\]%])-)?\d(?:[\d.,'’{SPACES}]*\d)?")
SPACED = re.compile(r"(?:(?<![\w)\]%])-)?(?<!\d)\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?!\d)$")
GROUPED = re.compile(r"[1-9]\d{0,2}([.,])\d{3}(?:\1\d{3})*|[1-9]\d?(?:,\d{2})*,\d{3}")
FRACTION = re.compile(r"(-?)\s*\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}")


def readings(text: str) -> set[Fraction]:
    """What the last number in a text can mean; empty if there is none."""
    text = ascii_digits(text)
    text = boxed(text) or text
    numbers = list(NUMBER.finditer(text))
    fractions = list(FRACTION.finditer(text))
    if fractions:
        minus, numerator, denominator = fractions[-1].groups()
        is_last = not numbers or numbers[-1].end() <= fractions[-1].end()
        if is_last and int(denominator):
            value = Fraction(int(numerator), int(denominator))
            return {-value if minus else value}
    if not numbers:
        return set()

    last = numbers[-1]
    values = _values(last.group())
    spaced = SPACED.search(text[: last.end()])
    if spaced:
        values |= _values(spaced.group().replace(" ", ""))
    return values


def _values(number: str) -> set[Fraction]:
    """The values that one written number can have: a separator groups digits or marks decimals.

    _values("1.234")   {1234, 1.234}
    _values("1.5")     {1.5}
    """
    digits = re.sub(rf"[{SPACES}'’]", "", number.removeprefix("-"))
    marks = [character for character in digits if character in ".,"]
    values = set()
    if not marks or _is_grouped(digits):
        values.add(Fraction(_unseparated(digits)))

    if marks and marks.count(marks[-1]) == 1:
        whole, _, decimals = digits.rpartition(marks[-1])
        if len(marks) == 1 or _is_grouped(whole):
            values.add(Fraction(f"{_unseparated(whole)}.{decimals}"))

    sign = -1 if number.startswith("-") else 1
    return {sign * value for value in values}


def _unseparated(digits: str) -> str:
    return re.sub(r"[.,]", "", digits)


def _is_grouped(digits: str) -> bool:
    """Whether one separator groups the digits in threes, or as in India: 12,34,567."""
    return GROUPED.fullmatch(digits) is not None


def ascii_digits(text: str) -> str:
    """A text with digits, signs and separators of any script in ASCII.

    LaTeX's spacing and invisible marks are removed.
    """
    text = text.replace("{,}", ",")
    text = re.sub(r"\\[,!;:]|\\left|\\right", "", text)
    return "".join(_ascii(character) for character in text if character not in INVISIBLE)


def _ascii(character: str) -> str:
    if character in SIGNS:
        return SIGNS[character]
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`, braces balanced; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for i in range(begin, len(text)):
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
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
