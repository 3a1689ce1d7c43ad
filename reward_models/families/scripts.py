"""Which script a text is written in, and the languages that a script alone decides.

Pure; only `unicodedata`.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

# First word of a character's Unicode name -> ISO 15924. The kinds of kana are one script, like Han.
SCRIPTS = {
    "LATIN": "Latn",
    "FULLWIDTH": "Latn",
    "CYRILLIC": "Cyrl",
    "GREEK": "Grek",
    "ARABIC": "Arab",
    "HEBREW": "Hebr",
    "DEVANAGARI": "Deva",
    "BENGALI": "Beng",
    "GURMUKHI": "Guru",
    "GUJARATI": "Gujr",
    "ORIYA": "Orya",
    "TAMIL": "Taml",
    "TELUGU": "Telu",
    "KANNADA": "Knda",
    "MALAYALAM": "Mlym",
    "SINHALA": "Sinh",
    "THAI": "Thai",
    "LAO": "Laoo",
    "TIBETAN": "Tibt",
    "MYANMAR": "Mymr",
    "KHMER": "Khmr",
    "GEORGIAN": "Geor",
    "ARMENIAN": "Armn",
    "ETHIOPIC": "Ethi",
    "HANGUL": "Hang",
    "HIRAGANA": "Kana",
    "KATAKANA": "Kana",
    "KATAKANA-HIRAGANA": "Kana",
    "HALFWIDTH": "Kana",
    "CJK": "Hani",
    "THAANA": "Thaa",
    "OL": "Olck",
    "MEETEI": "Mtei",
    "TIFINAGH": "Tfng",
}
# Scripts in which practically only one language is written.
ONLY = {
    "Grek": "ell_Grek",
    "Guru": "pan_Guru",
    "Gujr": "guj_Gujr",
    "Orya": "ory_Orya",
    "Taml": "tam_Taml",
    "Telu": "tel_Telu",
    "Knda": "kan_Knda",
    "Mlym": "mal_Mlym",
    "Sinh": "sin_Sinh",
    "Thai": "tha_Thai",
    "Laoo": "lao_Laoo",
    "Khmr": "khm_Khmr",
    "Mymr": "mya_Mymr",
    "Geor": "kat_Geor",
    "Armn": "hye_Armn",
    "Hang": "kor_Kore",
    "Kana": "jpn_Jpan",
    "Thaa": "div_Thaa",
}
# The scripts that a code's script stands for.
WRITTEN_WITH = {
    "Hans": ("Hani",),
    "Hant": ("Hani",),
    "Jpan": ("Kana", "Hani"),
    "Kore": ("Hang",),
    "Hang": ("Hang",),
}
# Scripts that write no spaces between words (Tibetan separates syllables only).
SPACELESS = frozenset(("Hani", "Kana", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"))
# Scripts in which a single letter may be a word.
SINGLE_LETTERS = frozenset(("Hani", "Kana", "Hang"))
MAX_REMEMBERED = 32  # characters of a word; a text without spaces is one word
JOINERS = "'’\u200c\u200d"  # apostrophes and the zero-width (non-)joiner stand inside words
KANA_FRAC = 0.1  # a text of Han characters with at least this share of kana is Japanese


@cache
def script_of(character: str) -> str | None:
    """ISO 15924 of a letter or combining mark; None for anything else and for unlisted scripts."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    first_word = unicodedata.name(character, "").split(" ")[0]
    return SCRIPTS.get(first_word)


def letters_of(word: str) -> tuple[tuple[str, int], ...]:
    """How many letters of a word are in which script, in the order in which scripts appear.

    `"KDFа"` gives `(("Latn", 3), ("Cyrl", 1))`. Words recur, so those of usual length are
    remembered.
    """
    return _remembered_letters(word) if len(word) <= MAX_REMEMBERED else _count_letters(word)


def _count_letters(word: str) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    for character in word:
        script = script_of(character)
        if script is not None:
            counts[script] += 1
    return tuple(counts.items())


_remembered_letters = lru_cache(maxsize=65_536)(_count_letters)


def dominant(text: str) -> tuple[str, float] | None:
    """The script of most letters and its share; None if there is no word.

    Han and kana count as one script: kana if the text is Japanese, else Han. Single letters between
    spaces (`K D F`, `x = y`) are no words, except in the scripts of `SINGLE_LETTERS`.
    """
    counts = {"Kana": 0, "Hani": 0}
    for word in text.split():
        letters = letters_of(word)
        if _is_single_letter(letters):
            continue
        for script, n in letters:
            counts[script] = counts.get(script, 0) + n
    total = sum(counts.values())
    if not total:
        return None

    n_japanese = counts["Kana"] + counts["Hani"]
    if counts["Kana"] > 0 and counts["Kana"] >= KANA_FRAC * n_japanese:
        counts["Kana"] += counts.pop("Hani")
    else:
        counts["Hani"] += counts.pop("Kana")
    script = max(sorted(counts), key=counts.__getitem__)
    return script, counts[script] / total


def _is_single_letter(letters: Sequence[tuple[str, int]]) -> bool:
    """Whether a word has one letter only, of a script in which that is no word."""
    if len(letters) != 1:
        return False
    script, n = letters[0]
    return n == 1 and script not in SINGLE_LETTERS


def words(text: str) -> list[str]:
    """Words: runs of letters and digits; in scripts without spaces, letters with their marks.

    `"Das ist 答案"` gives `["Das", "ist", "答", "案"]`. A hyphen separates, an apostrophe does not.
    """
    words_found: list[str] = []
    previous = "gap"
    for character in text:
        kind = _kind(character)
        if kind in ("mark", "joiner"):
            if previous != "gap":
                words_found[-1] += character
            continue
        if kind == "word" and previous == "word":
            words_found[-1] += character
        elif kind != "gap":
            words_found.append(character)
        previous = kind
    return [word.strip(JOINERS) for word in words_found]


@cache
def _kind(character: str) -> str:
    """`word`, `letter` (of a script without spaces), `mark`, `joiner` or `gap`."""
    category = unicodedata.category(character)[0]
    if character in JOINERS:
        return "joiner"
    if category == "M":
        return "mark"
    if category not in "LN":
        return "gap"
    return "letter" if script_of(character) in SPACELESS else "word"


def words_in(text: str, script: str) -> str:
    """The words of a text whose letters are all of one script."""
    matching = []
    for word in text.split():
        word_scripts = [word_script for word_script, _ in letters_of(word)]
        if word_scripts == [script]:
            matching.append(word)
    return " ".join(matching)


def han_variant(text: str) -> str | None:
    """`Hans` or `Hant`, by which of GB 2312 and Big5 alone has more of the characters.

    None if they have equally many.
    """
    n_simplified = 0
    n_traditional = 0
    for character in text:
        if script_of(character) != "Hani":
            continue
        in_gb2312 = _is_encodable(character, "gb2312")
        in_big5 = _is_encodable(character, "big5")
        n_simplified += in_gb2312 and not in_big5
        n_traditional += in_big5 and not in_gb2312

    if n_simplified == n_traditional:
        return None
    return "Hans" if n_simplified > n_traditional else "Hant"


@cache
def _is_encodable(character: str, standard: str) -> bool:
    try:
        character.encode(standard)
    except UnicodeEncodeError:
        return False
    return True


@cache
def written_with(code: str) -> tuple[str, ...]:
    """The scripts, as `dominant` names them, in which a language's text is written."""
    script = code.split("_")[1]
    return WRITTEN_WITH.get(script, (script,))
