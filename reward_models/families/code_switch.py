"""Where an answer leaves its language: line by line and word by word. Pure.

After the Language Confusion Benchmark (Marchisio et al. 2024): an answer passes by line if every
line is in the requested language, and by word if, besides, it has no word of another script. Lines
of fewer than five words (letters, in scripts without spaces) are left out, as in the benchmark.

There are two differences. Instead of using an English word list, every Latin word of more than
three letters in lower case counts as foreign: so do French words, but no names, acronyms and units.
And lines are judged by the words that are in the language's script, where these are most of them.
"""

import dataclasses
import re
from collections.abc import Sequence, Set

from reward_models.families import scripts

MIN_WORDS = 5  # of a line that an identifier is asked about
MAX_UNIT = 3  # letters of Latin words that belong to no language: kg, km, USA
IGNORED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`"  # code
    r"|\$\$.*?\$\$|\\\[.*?\\\]|\$[^$\n]+\$"  # formulas
    r"|</?[A-Za-z][^<>\n]*>"  # tags
    r"|(?:https?://|www\.)\S+|\S+@\S+\.\S+",  # addresses
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Switches:
    """Shares of one answer's lines and words in the requested language; `pass`: all of them are.

    None where there is nothing to judge.
    """

    line_share: float | None
    line_pass: float | None
    word_share: float | None
    # Also None for languages in Latin script, and for answers that do not pass by line.
    word_pass: float | None


def prose(text: str) -> str:
    """A text without code, formulas, tags and addresses; line ends stay."""
    return IGNORED.sub(lambda match: "\n" * match[0].count("\n") or " ", text)


def lines(text: str) -> list[str]:
    """The lines of a text that are long enough to have a language."""
    return [line for line in prose(text).splitlines() if len(scripts.words(line)) >= MIN_WORDS]


def own_part(line: str, language: str) -> str:
    """The part of a line for an identifier: its words in a script of the language.

    It is the whole line if these are not most of it. Without this, the letters of a foreign name
    could outnumber those of a Chinese line around it.
    """
    words = scripts.words(line)
    own = [word for word in words if _in_script(word, language)]
    foreign = sum(_in_script(word, language) is False for word in words)
    return " ".join(own) if len(own) > foreign else line


def switches(text: str, language: str, verdicts: Sequence[float | None]) -> Switches:
    """The verdict on each line of `lines(text)` (1.0, 0.0, None), with the script of each word."""
    foreign_lines = set()
    for line, verdict in zip(lines(text), verdicts, strict=True):
        if verdict == 0.0:
            foreign_lines.add(line)

    line_share = line_pass = None
    known = [verdict for verdict in verdicts if verdict is not None]
    if known:
        line_share = sum(known) / len(known)
        line_pass = float(min(known))

    word_share = word_pass = None
    words = _word_verdicts(text, language, foreign_lines)
    if words:
        word_share = sum(words) / len(words)
        latin = "Latn" in scripts.written_with(language)
        if not latin and line_pass != 0.0:
            word_pass = float(all(words))
    return Switches(line_share, line_pass, word_share, word_pass)


def _word_verdicts(text: str, language: str, foreign_lines: Set[str]) -> list[bool]:
    """Whether each word is in the language; words that belong to no language are left out."""
    verdicts = []
    for line in prose(text).splitlines():
        for word in scripts.words(line):
            verdict = _foreign(word) if line in foreign_lines else _in_script(word, language)
            if verdict is not None:
                verdicts.append(verdict)
    return verdicts


def script_share(text: str, language: str) -> float | None:
    """Share of the letters that are in a script of the language; None without letters."""
    own_scripts = scripts.written_with(language)
    n_letters = 0
    n_own = 0
    for word in text.split():
        for script, n in scripts.letters_of(word):
            n_letters += n
            if script in own_scripts:
                n_own += n
    return n_own / n_letters if n_letters else None


def _foreign(word: str) -> bool | None:
    """The verdict on a word of a line in another language: False; None for numbers."""
    has_letters = any(scripts.script_of(character) for character in word)
    return False if has_letters else None


def _in_script(word: str, language: str) -> bool | None:
    """Whether a word is in a script of the language.

    None for numbers and, in languages of other scripts, for Latin names and units.
    """
    word_scripts = {scripts.script_of(character) for character in word} - {None}
    if not word_scripts:
        return None
    if not word_scripts.isdisjoint(scripts.written_with(language)):
        return True
    is_name_or_unit = not word.islower() or len(word) <= MAX_UNIT
    if word_scripts == {"Latn"} and is_name_or_unit:
        return None
    return False
