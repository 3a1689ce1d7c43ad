"""Where an answer leaves its language: line by line and word by word. Pure.

After the Language Confusion Benchmark (Marchisio et al. 2024): an answer passes by line if every
line is in the requested language, and by word if, besides, no word of another script stands in it.
Differences: instead of an English word list every Latin word of more than three letters in lower
case counts as foreign, so French words do as well and names, acronyms and units do not; and lines
are judged by their words in the language's script where these are most of them. As there, shorter
lines than of five words (in scripts without spaces: letters) are left out.
"""

import dataclasses
import re
from collections.abc import Sequence

from reward_models.families import scripts

MIN_WORDS = 5  # of a line that an identifier is asked about
MAX_UNIT = 3  # letters of Latin words that belong to no language: kg, km, USA
IGNORED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\\\[.*?\\\]|\$[^$\n]+\$|</?[A-Za-z][^<>\n]*>|(?:https?://|www\.)\S+|\S+@\S+\.\S+",
    re.DOTALL,
)  # code, formulas, tags, addresses


@dataclasses.dataclass(frozen=True)
class Switches:
    """Of one answer: shares of lines and words in the requested language, and whether all of them
    are; None: nothing to tell.
    """

    line_share: float | None
    line_pass: float | None
    word_share: float | None
    word_pass: (
        float | None
    )  # None too for languages in Latin script, and for answers that do not pass by line


def prose(text: str) -> str:
    """A text without code, formulas, tags and addresses; line ends stay."""
    return IGNORED.sub(lambda match: "\n" * match[0].count("\n") or " ", text)


def lines(text: str) -> list[str]:
    """The lines of a text that are long enough to have a language."""
    return [line for line in prose(text).splitlines() if len(scripts.words(line)) >= MIN_WORDS]


def own_part(line: str, language: str) -> str:
    """What an identifier sees of a line: the words in a script of the language if they are most of
    it, else the line.

    So a name or a borrowed word in another script, whose letters may outnumber those of a Chinese
    line, leaves its line alone.
    """
    words = scripts.words(line)
    own = [word for word in words if _in_script(word, language)]
    foreign = sum(_in_script(word, language) is False for word in words)
    return " ".join(own) if len(own) > foreign else line


def switches(text: str, language: str, verdicts: Sequence[float | None]) -> Switches:
    """What the verdict on each line of `lines(text)` (1.0, 0.0, None) and the script of each word
    say together.
    """
    told = [v for v in verdicts if v is not None]
    line_pass = float(min(told)) if told else None
    foreign_lines = {
        line for line, verdict in zip(lines(text), verdicts, strict=True) if verdict == 0.0
    }
    right = [
        (line not in foreign_lines, word)
        for line in prose(text).splitlines()
        for word in scripts.words(line)
    ]
    words = [
        ok
        for here, word in right
        if (ok := _in_script(word, language) if here else _foreign(word)) is not None
    ]
    latin = "Latn" in scripts.written_with(language)
    return Switches(
        line_share=sum(told) / len(told) if told else None,
        line_pass=line_pass,
        word_share=sum(words) / len(words) if words else None,
        word_pass=float(all(words)) if words and not latin and line_pass != 0.0 else None,
    )


def script_share(text: str, language: str) -> float | None:
    """Share of the letters that are in a script of the language; None without letters."""
    own = scripts.written_with(language)
    total = inside = 0
    for word in text.split():
        for script, n in scripts.letters_of(word):
            total += n
            inside += n if script in own else 0
    return inside / total if total else None


def _foreign(word: str) -> bool | None:
    """False for a word of a line in another language; None for numbers."""
    return False if any(scripts.script_of(c) for c in word) else None


def _in_script(word: str, language: str) -> bool | None:
    """Whether a word is in a script of the language; None for numbers, and for names and units in
    Latin script elsewhere.
    """
    found = {script for c in word if (script := scripts.script_of(c))}
    if not found:
        return None
    if found & set(scripts.written_with(language)):
        return True
    return None if found == {"Latn"} and (not word.islower() or len(word) <= MAX_UNIT) else False
