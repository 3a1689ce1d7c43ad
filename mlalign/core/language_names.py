"""What a person means by a language's name: `Swahili`, `Serbian (Latin)`, `Chinese (Taiwan)`,
`Deutsch`, `العربية`.

A name counts only if every word of it is understood: the language by its exact name in English or
in any other language, and what stands in brackets as a script, a territory or a variety.
`langcodes.find` guesses instead: it takes the first words that fit.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langcodes import Language

BRACKETS = re.compile(r"([^()（）]+?)\s*[(（]([^()（）]+)[)）]")
COMMENTS = (
    "individual language",
    "macrolanguage",
    "language",
)  # what ISO 639-3 writes after some names
LATIN = (
    "latin",
    "roman",
    "romanized",
    "romanised",
    "romanization",
    "romanisation",
    "transliterated",
)
# Programming languages whose names are also those, or the codes, of languages that people speak:
# `java` is Javanese in Basque.
PROGRAMMING = frozenset(
    "ada awk bat cpp css elm java logo lua nim php sas sed sql tcl tex vim xml".split()
)


def understood(text: str) -> "Language | None":
    """The language, script and territory that a name says; None if any word of it is not
    understood.
    """
    text = unicodedata.normalize("NFKC", text).strip()
    known = _exact("language", text)
    if known is not None:
        return known
    parts = BRACKETS.fullmatch(text)
    if parts is None:
        return None
    language = _exact("language", parts[1])
    if language is None:
        return None
    for word in re.split(r"\s*[,;]\s*", parts[2]):
        language = _qualified(language, parts[1], word.strip())
        if language is None:
            return None
    return language


def within(text: str) -> list[str]:
    """What a text that is no name may mean: `Serbian (Latin)` of `Serbian Latin`, English and
    French of `English to French`.
    """
    first, _, last = text.rpartition(" ")
    if first and understood(f"{first} ({last})") is not None:
        return [f"{first} ({last})"]
    words = [word for word in re.split(r"[^\w']+", text) if len(word) > 3]
    return (
        list(
            dict.fromkeys(word for word in words if _exact("language", word, ("en",)) is not None)
        )[:3]
        if len(words) > 1
        else []
    )


def _qualified(language: "Language", name: str, word: str) -> "Language | None":
    """A language with what a word in brackets says of it: Latin, Arabic script, Taiwan, Bokmål."""
    from langcodes import Language

    plain = re.sub(r"\s+(?:script|alphabet|letters|characters)$", "", word.casefold())
    if plain in COMMENTS:
        return language
    script = "Latn" if plain in LATIN else _script(plain)
    if script is not None:
        return Language.make(
            language=language.language, script=script, territory=language.territory
        )
    if plain != word.casefold():
        return None  # "xyz script" can be nothing else
    territory = _exact("territory", word)
    if territory is not None:
        return Language.make(
            language=language.language, script=language.script, territory=territory.territory
        )
    return _exact("language", f"{word} {name}") or _variety(language, word)


def _variety(language: "Language", word: str) -> "Language | None":
    """Bokmål of Norwegian, Cantonese of Chinese: a language within the other one."""
    from langcodes.data_dicts import MACROLANGUAGES

    variety = _exact("language", word)
    if variety is None:
        return None
    within = (
        variety.language == language.language
        or MACROLANGUAGES.get(variety.language or "") == language.language
    )
    return (
        variety
        if within or (variety.language, language.language) in (("nb", "no"), ("nn", "no"))
        else None
    )


def _script(word: str) -> str | None:
    """The code of a script by its code or English name."""
    from langcodes import Language

    if (
        re.fullmatch("[a-z]{4}", word)
        and word not in PROGRAMMING
        and Language.make(script=word.title()).is_valid()
    ):
        return word.title()
    found = _exact("script", word) or _exact("script", f"{word} han")
    return found.script if found is not None else None


@cache
def _names(table: str) -> Any:
    """One of the tables of names in `language_data`; its own look-up guesses."""
    from language_data import names, util

    return names.load_trie(util.data_filename(f"trie/{table}.marisa"))


def _exact(kind: str, name: str, languages: Sequence[str] = ("en", "und")) -> "Language | None":
    """What has exactly this name: in English, else (`und`) in any language."""
    from langcodes import Language
    from language_data import names

    if "/" in name or len(name.strip()) < 2 or re.fullmatch("[A-Za-z]{2}", name.strip()):
        return None  # two letters are a code
    if any(unicodedata.category(c) in ("Cc", "Cn", "Cs") for c in name):
        return None  # the tables end a name at NUL
    key = names.normalize_name(name)
    for language in languages:
        trie = _names(f"{language}/name_to_{kind}")
        if key in trie:
            code = names.get_trie_value(trie, key)
            return Language.get(f"und-{code}" if kind != "language" else code, normalize=False)
    return None
