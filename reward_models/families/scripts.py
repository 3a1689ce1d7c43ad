"""Which script a text is written in, and the languages that a script alone decides.

Pure; only `unicodedata`.
"""

import unicodedata
from collections import Counter
from functools import cache, lru_cache

# first word of a character's Unicode name -> ISO 15924; the kinds of kana and Han are put together
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
    """ISO 15924 of a letter or combining mark; None for anything else and for scripts that are not
    told apart here.
    """
    if unicodedata.category(character)[0] not in "LM":
        return None
    return SCRIPTS.get(unicodedata.name(character, "").split(" ")[0])


def letters_of(word: str) -> tuple[tuple[str, int], ...]:
    """How many letters of a word are in which script, in the order in which scripts appear.

    `"KDFа"` gives `(("Latn", 3), ("Cyrl", 1))`. Words recur, so those of usual length are
    remembered.
    """
    return _remembered_letters(word) if len(word) <= MAX_REMEMBERED else _count_letters(word)


def _count_letters(word: str) -> tuple[tuple[str, int], ...]:
    found = Counter(script for c in word if (script := script_of(c)))
    return tuple(found.items())


_remembered_letters = lru_cache(maxsize=65_536)(_count_letters)


def dominant(text: str) -> tuple[str, float] | None:
    """The script of most letters and its share; None if there is no word.

    Han and kana together are one script.

    Single letters between spaces (`K D F`, `x = y`) are no words, except in scripts that write
    without spaces.
    """
    counts = dict.fromkeys(("Kana", "Hani"), 0)
    for word in text.split():
        letters = letters_of(word)
        if len(letters) == 1 and letters[0][1] == 1 and letters[0][0] not in SINGLE_LETTERS:
            continue
        for script, n in letters:
            counts[script] = counts.get(script, 0) + n
    total = sum(counts.values())
    if not total:
        return None
    if counts["Kana"] >= KANA_FRAC * (counts["Kana"] + counts["Hani"]) and counts["Kana"]:
        counts["Kana"] += counts.pop("Hani")
    else:
        counts["Hani"] += counts.pop("Kana")
    script = max(sorted(counts), key=counts.__getitem__)
    return script, counts[script] / total


def words(text: str) -> list[str]:
    """Words: runs of letters and digits; in scripts without spaces every letter, with its marks, by
    itself.

    `"Das ist 答案"` gives `["Das", "ist", "答", "案"]`. A hyphen separates, an apostrophe does not.
    """
    found: list[str] = []
    before = "gap"
    for c in text:
        kind = _kind(c)
        if kind in ("mark", "joiner"):
            if before != "gap":
                found[-1] += c
            continue
        if kind == "word" and before == "word":
            found[-1] += c
        elif kind != "gap":
            found.append(c)
        before = kind
    return [w.strip(JOINERS) for w in found]


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
    kept = []
    for word in text.split():
        letters = letters_of(word)
        if len(letters) == 1 and letters[0][0] == script:
            kept.append(word)
    return " ".join(kept)


def han_variant(text: str) -> str | None:
    """`Hans` or `Hant` by the characters that only one of the two standards (GB 2312, Big5) has;
    None if they are as many.
    """
    han = [c for c in text if script_of(c) == "Hani"]
    simplified = sum(_in(c, "gb2312") and not _in(c, "big5") for c in han)
    traditional = sum(_in(c, "big5") and not _in(c, "gb2312") for c in han)
    return None if simplified == traditional else "Hans" if simplified > traditional else "Hant"


@cache
def _in(character: str, standard: str) -> bool:
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
