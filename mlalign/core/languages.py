"""Canonical language codes such as `swh_Latn`.

A code is an ISO 639-3 language, an ISO 15924 script and, where they do not imply it, a region.
Reads named sets from `conf/languages/*.yaml`. Light: `langcodes` is imported when a code is first
looked at.

Rules of `normalise`
- A macrolanguage stands for its predominant individual language (`MACRO`, chosen as in the FLORES+
  codes): `zh` is `cmn_Hans`, `ar` is `arb_Arab`. If none predominates, the macrolanguage stays:
  `qu` is `que_Latn`.
- Without a script, the usual one is taken (CLDR likely subtags), which may depend on the region:
  `zh-TW` is `cmn_Hant`.
- A part or style of a script becomes the whole script: Hangul is `kor_Kore`, Hiragana `jpn_Jpan`,
  Fraktur `deu_Latn`.
- A region is kept only if it is not the one that language and script imply: `pt-BR` is `por_Latn`,
  `pt-PT` is `por_Latn_PT`.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlalign.core import language_names
from mlalign.core.errors import UserError, nearest
from mlalign.core.language_tables import (
    AMBIGUOUS,
    MACRO,
    NAMED_AS,
    NO_LANGUAGE,
    NO_SCRIPT,
    NO_TERRITORY,
    ONE_CODE,
    PARTS,
    RTL_SCRIPTS,
    STYLES,
    WITHDRAWN,
    WRITTEN_AS,
)

if TYPE_CHECKING:
    from langcodes import Language

LONGEST = 100  # characters of a code or name
MOST_ERRORS = 20  # after so many mistakes, the rest of a list of languages is not looked at
MOST_SETS = 1000  # files of language sets
TAG = re.compile(
    r"([a-z]{2,3})(?:-([a-z]{3}))?(?:-([a-z]{4}))?(?:-([a-z]{2}|[0-9]{3}))?", re.IGNORECASE
)
LOCALE = re.compile(r"\.[\w-]+$")  # en_US.UTF-8


def normalise(text: str) -> str:
    """The canonical code for a code of any standard (`sw`, `swh_Latn`, `zh-TW`) or a name.

        normalise("Swahili")   swh_Latn
        normalise("zh-TW")     cmn_Hant

    Raises: UserError that names the nearest languages for an unknown one, the choices for an
        ambiguous one, the mend for a boolean.
    """
    if isinstance(text, bool):
        raise UserError(
            f"language {text}: YAML reads a bare no, yes, on or off as true or false; quote it"
            " ('no'), or write nob_Latn"
        )
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f"language {text!r}: expected a code such as swh_Latn, sw or zh-TW,"
            " or a name such as Swahili"
        )
    if len(text.strip()) > LONGEST:
        raise UserError(
            f"language {text.strip()[:30]!r}…: too long for a code or a name;"
            " write a code such as swh_Latn"
        )
    return _normalise(text)


@cache
def _normalise(text: str) -> str:
    word = text.strip()
    if word == "NaN":
        raise UserError(
            "language 'NaN': a missing value; leave such rows out, or write the code of their"
            " language (Min Nan is nan_Hans)"
        )
    if word.casefold() in language_names.PROGRAMMING:
        raise UserError(f"language {text!r}: a programming language{_spoken_hint(word)}")

    tag = _from_tag(LOCALE.sub("", word)) or language_names.understood(word)
    if tag is None:
        raise UserError(f"language {text!r}: unknown{_nearest(word)}")
    return _canonical(tag, text)


def _spoken_hint(word: str) -> str:
    """A hint at the spoken language whose code a programming language's name is."""
    tag = _from_tag(word)
    if tag is None or not _has_script(tag):
        return ""
    return f"; the spoken language of this code is {_canonical(tag, word)}"


def _from_tag(text: str) -> "Language | None":
    """The language of a tag such as `sw`, `zh_Hant`, `pt-BR` or `zh-yue`; None for other texts."""
    import langcodes
    from langcodes.data_dicts import TERRITORY_REPLACEMENTS

    match = TAG.fullmatch(text.replace("_", "-"))
    if match is None:
        return None
    language, extended, script_, region = (part or "" for part in match.groups())

    language = _current_code(language.lower())
    extended = extended.lower()
    if extended:
        if not _extends(extended, language):
            return None
        language = extended

    region = TERRITORY_REPLACEMENTS.get(region.lower(), region.upper())
    tag = langcodes.Language.make(
        language, script=script_.title() or None, territory=region or None
    )
    if not tag.is_valid():
        return None
    if not extended and not script_:
        _refuse_pair(text, tag)
    return tag


def _extends(extended: str, language: str) -> bool:
    """Whether a language is one of a macrolanguage, as Cantonese in `zh-yue`."""
    from langcodes.data_dicts import MACROLANGUAGES

    if MACROLANGUAGES.get(extended) == language:
        return True
    return MACRO.get(_three_letters(language)) == extended


def _refuse_pair(text: str, tag: "Language") -> None:
    """Refuse `en-fr` in small letters, which rather means two languages than the English of France.

    `pt-br` and `fr-ca` pass.
    Raises: UserError.
    """
    from langcodes import Language

    region = tag.territory or ""
    second = region.lower()
    if not second.isalpha() or text != text.lower():
        return
    spoken_there = Language.make(territory=region).maximize().language
    home = Language.make(tag.language).maximize().territory
    if spoken_there != second or second == tag.language or home == region:
        return

    own = _canonical(Language.make(tag.language), text)
    other = _canonical(Language.make(second), text)
    raise UserError(
        f"language {text!r}: a pair of languages? Write {own} or {other};"
        f" the {own} of {region} is {_canonical(tag, text)}"
    )


def _current_code(code: str) -> str:
    """`sw` for `swa`, `he` for the withdrawn `iw`, `de` for bibliographic `ger`; else `code`."""
    from langcodes.data_dicts import LANGUAGE_ALPHA3_BIBLIOGRAPHIC

    bibliographic = {three: two for two, three in LANGUAGE_ALPHA3_BIBLIOGRAPHIC.items()}
    return WITHDRAWN.get(code) or bibliographic.get(code) or _two_letters().get(code, code)


def _canonical(tag: "Language", text: str) -> str:
    code = tag.to_alpha3()
    if code in NO_LANGUAGE:
        raise UserError(
            f"language {text!r}: names no single language;"
            " write one code for each, such as swh_Latn"
        )
    if code in AMBIGUOUS:
        raise UserError(f"language {text!r}: ambiguous; write one of {', '.join(AMBIGUOUS[code])}")

    code = MACRO.get(code, code)
    territory = None if tag.territory in NO_TERRITORY else tag.territory
    code, territory = ONE_CODE.get((code, territory), (code, territory))
    script_ = _script_of(code, tag.script, territory)
    if script_ is None:
        raise UserError(
            f"language {text!r}: its usual script is not known;"
            f" write it too, as in {code}_Latn or {code}_Arab"
        )
    if script_ in NO_SCRIPT:
        raise UserError(
            f"language {text!r}: {script_} is no way of writing;"
            f" write the script, as in {code}_Latn"
        )

    implied = _likely(code, script_, None).territory
    if territory in (None, implied):
        return f"{code}_{script_}"
    return f"{code}_{script_}_{territory}"


def _script_of(code: str, written: str | None, region: str | None) -> str | None:
    """The script of a tag: the written one, or else the usual one; None if that is not known."""
    if written is not None:
        script_ = PARTS.get(code, {}).get(written, STYLES.get(written, written))
        if script_ != "Hani":  # Simplified or Traditional, which the region may decide
            return script_
    if not _has_likely_script(code, region):
        return written
    return _likely(code, None, region).script


def _has_script(tag: "Language") -> bool:
    code = MACRO.get(tag.to_alpha3(), tag.to_alpha3())
    return _script_of(code, tag.script, tag.territory) is not None


def _likely(code: str, script_: str | None, region: str | None) -> "Language":
    """Language, script and region completed by CLDR's likely subtags."""
    from langcodes import Language

    return Language.make(
        language=_lookup_code(WRITTEN_AS.get(code, code)), script=script_, territory=region
    ).maximize()


def _has_likely_script(code: str, region: str | None) -> bool:
    from langcodes.data_dicts import LIKELY_SUBTAGS

    short = _lookup_code(WRITTEN_AS.get(code, code))
    return short in LIKELY_SUBTAGS or f"{short}-{region}" in LIKELY_SUBTAGS


def _lookup_code(code: str) -> str:
    """CLDR's code of a language: its macrolanguage's, with two letters if there is such a code."""
    code = NAMED_AS.get(code, code)
    return _two_letters().get(code, code)


def _three_letters(code: str) -> str:
    return {two: three for three, two in _two_letters().items()}.get(code, code)


@cache
def _two_letters() -> dict[str, str]:
    from langcodes.data_dicts import LANGUAGE_ALPHA3

    return {
        three: two
        for two, three in LANGUAGE_ALPHA3.items()
        if len(two) == 2 and two not in WITHDRAWN
    }


def _nearest(text: str) -> str:
    """A hint at what an unknown text may mean: the language of a country, or similar names.

    Only languages with a code of two letters are searched. Their names are in `language_names.txt`,
    because loading all names of all languages is slow.
    """
    country_hint = _language_of_country(text)
    if country_hint:
        return country_hint

    names = language_names.within(text)
    if names:
        hint = f"; did you mean {' or '.join(map(repr, names))}?"
        return f"{hint} Write one language each" if len(names) > 1 else hint

    hint = nearest(text, _common_names())
    if "did you mean" in hint:
        return hint
    return "; write an ISO 639 code (sw, swh_Latn), an English name, or the name of a set"


def _common_names() -> list[str]:
    """Names and codes of the languages that have a code of two letters."""
    file = Path(__file__).with_name("language_names.txt")
    words = []
    for line in file.read_text(encoding="utf-8").splitlines():
        code, name = line.split(" ", 1)
        words += [name, code]
    return words


def _language_of_country(text: str) -> str | None:
    """A hint for `jp` and `cn`, which are countries."""
    from langcodes import Language

    country = Language.make(territory=text.upper())
    if not re.fullmatch("[A-Za-z]{2}", text) or not country.is_valid():
        return None
    likely = country.maximize()
    if likely.language in (None, "und"):
        return None
    return f"; it is a country, whose language is {_canonical(likely, text)}"


def script(code: str) -> str:
    """`Latn` of `swh_Latn`."""
    return code.split("_")[1]


def direction(code: str) -> str:
    """The direction of writing, `rtl` or `ltr`."""
    return "rtl" if script(code) in RTL_SCRIPTS else "ltr"


@cache
def english_name(code: str) -> str:
    """`Swahili` for `swh_Latn`, `Chinese (Traditional)` for `cmn_Hant`.

    Script and region stand in brackets if they are not the usual ones.
    """
    return _named(code).display_name()


@cache
def autonym(code: str) -> str:
    """The language's name in itself: `Kiswahili` for `swh_Latn`."""
    return _named(code).autonym()


def _named(code: str) -> "Language":
    from langcodes import Language

    language, script_, *regions = code.split("_")
    usual = _likely(language, None, None).script
    unusual = None if script_ == usual else script_
    region = next(iter(regions), None)
    return Language.make(language=_lookup_code(language), script=unusual, territory=region)


def resolve(value: str | Iterable[str] | None, sets: Mapping[str, list[str]]) -> list[str]:
    """Canonical codes, each once and in order, of a set's name or a list of codes, names and sets.

    The list may be a text with commas; None gives an empty list.
    Raises: UserError with every mistake.
    """
    items = _items(value)
    codes: list[str] = []
    errors: list[str] = []
    canonical: set[str] = set().union(*sets.values())
    for i, item in enumerate(items):
        if len(errors) >= MOST_ERRORS:
            errors.append(
                f"languages: {len(items) - i} more were not looked at, after {MOST_ERRORS} mistakes"
                f" in {len(items)} languages"
            )
            break

        word = item.strip() if isinstance(item, str) else item
        if isinstance(word, str) and word in sets:
            codes.extend(sets[word])
        elif isinstance(word, str) and word in canonical:  # langcodes need not be imported
            codes.append(word)
        else:
            try:
                codes.append(normalise(word))
            except UserError as error:
                errors.extend(_with_sets(message, word, sets) for message in error.messages)
    if errors:
        raise UserError(*errors)
    return list(dict.fromkeys(codes))


def _items(value: Any) -> list[Any]:
    """The languages of a list, one by one; what is no list is one item, which is then refused."""
    if value is None:
        return []
    if isinstance(value, str):
        return value.split(",")
    if isinstance(value, Iterable):
        return list(value)
    return [value]


def _with_sets(message: str, word: Any, sets: Mapping[str, list[str]]) -> str:
    """A message about an unknown language, with the nearest sets if there are any."""
    if not isinstance(word, str) or ": unknown" not in message:
        return message
    hint = nearest(word, sets)
    if "did you mean" not in hint:
        return message
    return f"language or language set {word!r}: unknown{hint}"


def sets(folder: Path, *, canonical: bool = False) -> dict[str, list[str]]:
    """The named sets in a folder: `NAME.yaml` holds `languages`, a list of codes.

    `canonical`: the codes are known to be canonical already.
    Raises: UserError naming the file and the entry.
    """
    from mlalign.core import yaml_files

    paths = sorted(Path(folder).glob("*.yaml"))
    if len(paths) > MOST_SETS:
        raise UserError(
            f"{folder}: holds {len(paths):,} files of language sets,"
            f" and at most {MOST_SETS:,} are read; move the others away"
        )

    by_name: dict[str, list[str]] = {}
    errors: list[str] = []
    for path in paths:
        content = yaml_files.read(path)
        if not isinstance(content, dict) or not isinstance(content.get("languages"), list):
            errors.append(f"{path}: expected `languages:` with a list of codes")
            continue
        codes = content["languages"]
        try:
            by_name[path.stem] = codes if canonical else resolve(codes, {})
        except UserError as error:
            errors.extend(f"{path}: {message}" for message in error.messages)
    if errors:
        raise UserError(*errors)
    return by_name
