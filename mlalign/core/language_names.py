"""What a person means by a language's name: `Swahili`, `Serbian (Latin)`, `Deutsch`, `العربية`.

Every word must be understood: the language by its exact name in English or in any other language,
and the words in brackets as a script, a territory or a variety. (`langcodes.find` guesses instead:
it takes the first words that fit.)
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langcodes import Language

BRACKETS = re.compile(r"([^()（）]+?)\s*[(（]([^()（）]+)[)）]")
# What ISO 639-3 writes after some names.
COMMENTS = ("individual language", "macrolanguage", "language")
LATIN = (
    "latin",
    "roman",
    "romanized",
    "romanised",
    "romanization",
    "romanisation",
    "transliterated",
)
# Programming languages whose name is also a name or code of a spoken language: `java` is Javanese
# in Basque.
PROGRAMMING = frozenset(
    "ada awk bat cpp css elm java logo lua nim php sas sed sql tcl tex vim xml".split()
)


def understood(text: str) -> "Language | None":
    """The language, script and territory that a name says; None if a word is not understood."""
    text = unicodedata.normalize("NFKC", text).strip()
    language = _exact("language", text)
    if language is not None:
        return language

    match = BRACKETS.fullmatch(text)
    if match is None:
        return None
    name, qualifiers = match.groups()
    language = _exact("language", name)
    for qualifier in re.split(r"\s*[,;]\s*", qualifiers):
        if language is None:
            return None
        language = _qualified(language, name, qualifier.strip())
    return language


def within(text: str) -> list[str]:
    """The names that a text which is no name may mean, at most three.

    within("Serbian Latin")        ["Serbian (Latin)"]
    within("English to French")    ["English", "French"]
    """
    first, _, last = text.rpartition(" ")
    bracketed = f"{first} ({last})"
    if first and understood(bracketed) is not None:
        return [bracketed]

    words = [word for word in re.split(r"[^\w']+", text) if len(word) > 3]
    if len(words) < 2:
        return []
    names = [word for word in words if _exact("language", word, ("en",)) is not None]
    return list(dict.fromkeys(names))[:3]


def _qualified(language: "Language", name: str, word: str) -> "Language | None":
    """A language narrowed by a word in brackets: Latin, Arabic script, Taiwan, Bokmål."""
    from langcodes import Language

    folded = word.casefold()
    plain = re.sub(r"\s+(?:script|alphabet|letters|characters)$", "", folded)
    if plain in COMMENTS:
        return language

    script = "Latn" if plain in LATIN else _script(plain)
    if script is not None:
        return Language.make(
            language=language.language, script=script, territory=language.territory
        )
    if plain != folded:
        return None  # "xyz script" can be nothing else

    territory = _exact("territory", word)
    if territory is not None:
        return Language.make(
            language=language.language, script=language.script, territory=territory.territory
        )
    return _exact("language", f"{word} {name}") or _variety(language, word)


def _variety(language: "Language", word: str) -> "Language | None":
    """A language that is part of another: Bokmål of Norwegian, Cantonese of Chinese."""
    from langcodes.data_dicts import MACROLANGUAGES

    variety = _exact("language", word)
    if variety is None:
        return None
    whole = language.language
    if variety.language == whole or MACROLANGUAGES.get(variety.language or "") == whole:
        return variety
    return None


def _script(word: str) -> str | None:
    """The code of a script by its code or English name."""
    from langcodes import Language

    code = word.title()
    may_be_code = re.fullmatch("[a-z]{4}", word) and word not in PROGRAMMING
    if may_be_code and Language.make(script=code).is_valid():
        return code
    named = _exact("script", word) or _exact("script", f"{word} han")
    return None if named is None else named.script


@cache
def _names(table: str) -> Any:
    """One of the tables of names in `language_data`, whose own look-up guesses."""
    from language_data import names, util

    return names.load_trie(util.data_filename(f"trie/{table}.marisa"))


def _exact(kind: str, name: str, languages: Sequence[str] = ("en", "und")) -> "Language | None":
    """The language, script or territory (`kind`) with exactly this name.

    `und` stands for names in all languages.
    """
    from langcodes import Language
    from language_data import names

    if "/" in name or len(name.strip()) < 2:
        return None
    if re.fullmatch("[A-Za-z]{2}", name.strip()):  # a code
        return None
    if any(unicodedata.category(character) in ("Cc", "Cn", "Cs") for character in name):
        return None  # the tables end a name at NUL

    key = names.normalize_name(name)
    for language in languages:
        trie = _names(f"{language}/name_to_{kind}")
        if key in trie:
            code = names.get_trie_value(trie, key)
            tag = code if kind == "language" else f"und-{code}"
            return Language.get(tag, normalize=False)
    return None
