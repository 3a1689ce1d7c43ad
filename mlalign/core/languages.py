"""Canonical language codes: `swh_Latn` = ISO 639-3 language, ISO 15924 script and, only where it
says something, a region.

Reads named sets from `conf/languages/*.yaml`. Light: `langcodes` is imported when a code is first
looked at.

Rules of `normalise`
- A macrolanguage stands for its predominant individual language (`MACRO`, the choice of the FLORES+
  codes): `zh` is `cmn_Hans`, `ar` is `arb_Arab`. Where none predominates the macrolanguage stays:
  `qu` is `que_Latn`.
- A script that is not written is the usual one (CLDR likely subtags). A region may decide it:
  `zh-TW` is `cmn_Hant`.
- A script stands under the code of the language's whole way of writing: Hangul is `kor_Kore`,
  Hiragana `jpn_Jpan`, Fraktur `deu_Latn`.
- A region is kept only if it is not the one that language and script imply: `pt-BR` is `por_Latn`,
  `pt-PT` `por_Latn_PT`.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlalign.core import language_names
from mlalign.core.errors import UserError, nearest

if TYPE_CHECKING:
    from langcodes import Language

# macrolanguage -> the individual language that a person who names it most probably means
MACRO = {
    "ara": "arb",
    "aze": "azj",
    "est": "ekk",
    "fas": "pes",
    "kur": "kmr",
    "lav": "lvs",
    "mlg": "plt",
    "mon": "khk",
    "msa": "zsm",
    "nep": "npi",
    "nor": "nob",
    "ori": "ory",
    "orm": "gaz",
    "pus": "pbt",
    "sqi": "als",
    "swa": "swh",
    "uzb": "uzn",
    "yid": "ydd",
    "zho": "cmn",
}
# Individual languages that are named, and whose usual script is looked up, as their macrolanguage.
NAMED_AS = {individual: macro for macro, individual in MACRO.items() if individual != "nob"}
# Languages of which CLDR tells no script -> one that is written in the same.
WRITTEN_AS = {
    "twi": "aka",
    "fat": "aka",
    "ayr": "aym",
    "azb": "fas",
    "prs": "fas",
    **dict.fromkeys(("acm", "acq", "afb", "ajp", "ars"), "ara"),
}
# Two codes of one language: (language, territory) -> the code that it gets.
ONE_CODE = {("pes", "AF"): ("prs", None), ("cnr", None): ("srp", "ME")}
AMBIGUOUS = {"hbs": ("bos_Latn", "hrv_Latn", "srp_Cyrl", "srp_Latn")}
WITHDRAWN = {
    "in": "id",
    "iw": "he",
    "ji": "yi",
    "jw": "jv",
    "mo": "ro",
    "mol": "ro",
    "scc": "sr",
    "scr": "hr",
}
# Parts and styles of a script -> the script that a code names; of some languages only.
STYLES = {
    "Aran": "Arab",
    "Cyrs": "Cyrl",
    "Hanb": "Hant",
    "Latf": "Latn",
    "Latg": "Latn",
    "Syre": "Syrc",
    "Syrj": "Syrc",
    "Syrn": "Syrc",
}
PARTS = {
    "kor": {"Hang": "Kore", "Jamo": "Kore"},
    "jpn": {"Hira": "Jpan", "Kana": "Jpan", "Hrkt": "Jpan", "Hani": "Jpan"},
}
NO_SCRIPT = ("Zinh", "Zmth", "Zsye", "Zsym", "Zxxx", "Zyyy", "Zzzz", "Qaai")
NO_TERRITORY = ("001", "XX", "ZZ")  # the world; unknown, as in mBART's en_XX
LONGEST = 100  # characters of a code or name
MOST_ERRORS = 20  # mistakes in one list of languages that are told one by one
MOST_SETS = 1000  # files of language sets
NO_LANGUAGE = ("und", "mul", "mis", "zxx")
RTL_SCRIPTS = frozenset(
    ("Adlm", "Arab", "Aran", "Hebr", "Mand", "Mend", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa", "Yezi")
)
TAG = re.compile(
    r"([a-z]{2,3})(?:-([a-z]{3}))?(?:-([a-z]{4}))?(?:-([a-z]{2}|[0-9]{3}))?", re.IGNORECASE
)
LOCALE = re.compile(r"\.[\w-]+$")  # en_US.UTF-8


def normalise(text: str) -> str:
    """The canonical code for what a person wrote: a code of any standard (`sw`, `swh_Latn`,
    `zh-TW`) or a name (`Swahili`).

    Raises: UserError that names the nearest for an unknown one, the choices for an ambiguous one,
        the mend for a boolean.
    """
    if isinstance(text, bool):
        raise UserError(
            f"language {text}: YAML reads a bare no, yes, on or off as true or false; quote it"
            " ('no'), or write nob_Latn"
        )
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f"language {text!r}: expected a code such as swh_Latn, sw or zh-TW, or a name such as"
            " Swahili"
        )
    if len(text.strip()) > LONGEST:
        raise UserError(
            f"language {text.strip()[:30]!r}…: too long for a code or a name; write a code such as"
            " swh_Latn"
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
        tag = _from_tag(word)
        own = (
            f"; the spoken language of this code is {_canonical(tag, text)}"
            if tag and _has_script(tag)
            else ""
        )
        raise UserError(f"language {text!r}: a programming language{own}")
    tag = _from_tag(LOCALE.sub("", word)) or language_names.understood(word)
    if tag is None:
        raise UserError(f"language {text!r}: unknown{_nearest(word)}")
    return _canonical(tag, text)


def _from_tag(text: str) -> "Language | None":
    import langcodes
    from langcodes.data_dicts import MACROLANGUAGES, TERRITORY_REPLACEMENTS

    match = TAG.fullmatch(text.replace("_", "-"))
    if match is None:
        return None
    language, extended, script_, region = (part or "" for part in match.groups())
    language, extended = _current_code(language.lower()), extended.lower()
    if extended:  # zh-yue is Cantonese
        if (
            extended != MACRO.get(_three_letters(language))
            and MACROLANGUAGES.get(extended) != language
        ):
            return None
        language = extended
    region = TERRITORY_REPLACEMENTS.get(region.lower(), region.upper())
    tag = langcodes.Language.make(
        language, script=script_.title() or None, territory=region or None
    )
    if not tag.is_valid():
        return None
    if not (extended or script_) and _is_pair(text, tag):
        own, other = (
            _canonical(langcodes.Language.make(code), text) for code in (language, region.lower())
        )
        spoken = _canonical(tag, text)
        raise UserError(
            f"language {text!r}: a pair of languages? Write {own} or {other}; the {own} of {region}"
            f" is {spoken}"
        )
    return tag


def _is_pair(text: str, tag: "Language") -> bool:
    """Whether `en-fr` in small letters rather means English and French than the English of France;
    `pt-br` and `fr-ca` do not.
    """
    from langcodes import Language

    other = (tag.territory or "").lower()
    if not other.isalpha() or text != text.lower():
        return False
    at_home = Language.make(territory=tag.territory).maximize().language
    return (
        at_home == other != tag.language
        and Language.make(tag.language).maximize().territory != tag.territory
    )


def _current_code(code: str) -> str:
    """`sw` for `swa`; `he` for the withdrawn `iw`; `de` for the bibliographic `ger`; others as they
    are.
    """
    from langcodes.data_dicts import LANGUAGE_ALPHA3_BIBLIOGRAPHIC

    bibliographic = {three: two for two, three in LANGUAGE_ALPHA3_BIBLIOGRAPHIC.items()}
    return WITHDRAWN.get(code) or bibliographic.get(code) or _two_letters().get(code, code)


def _canonical(tag: "Language", text: str) -> str:
    code = tag.to_alpha3()
    if code in NO_LANGUAGE:
        raise UserError(
            f"language {text!r}: names no single language; write one code for each, such as"
            " swh_Latn"
        )
    if code in AMBIGUOUS:
        raise UserError(f"language {text!r}: ambiguous; write one of {', '.join(AMBIGUOUS[code])}")
    code = MACRO.get(code, code)
    territory = None if tag.territory in NO_TERRITORY else tag.territory
    code, territory = ONE_CODE.get((code, territory), (code, territory))
    script_ = _script_of(code, tag.script, territory)
    if script_ is None:
        raise UserError(
            f"language {text!r}: its usual script is not known; write it too, as in {code}_Latn or"
            f" {code}_Arab"
        )
    if script_ in NO_SCRIPT:
        raise UserError(
            f"language {text!r}: {script_} is no way of writing; write the script, as in"
            f" {code}_Latn"
        )
    implied = _likely(code, script_, None).territory
    return f"{code}_{script_}" + (f"_{territory}" if territory not in (None, implied) else "")


def _script_of(code: str, written: str | None, region: str | None) -> str | None:
    """The script that a code names: the one that is written, else the usual one; None if that is
    not known.
    """
    if written is not None:
        script_ = PARTS.get(code, {}).get(written, STYLES.get(written, written))
        if script_ != "Hani":
            return script_
    return _likely(code, None, region).script if _has_likely_script(code, region) else written


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
    """The code under which CLDR knows a language: that of its macrolanguage, of two letters where
    there is one.
    """
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
    """The nearest English names and codes, among the languages that have a code of two letters.

    Their names stand in `language_names.txt`: to load all names of all languages would cost more
    than the rest of an error message.
    """
    if country := _language_of_country(text):
        return country
    lines = Path(__file__).with_name("language_names.txt").read_text(encoding="utf-8").splitlines()
    if parts := language_names.within(text):
        return (
            "; did you mean "
            + " or ".join(map(repr, parts))
            + "?"
            + (" Write one language each" if len(parts) > 1 else "")
        )
    near = nearest(text, [word for line in lines for word in reversed(line.split(" ", 1))])
    return (
        near
        if "did you mean" in near
        else "; write an ISO 639 code (sw, swh_Latn), an English name, or the name of a set"
    )


def _language_of_country(text: str) -> str | None:
    """A hint for `jp` and `cn`, which are countries."""
    from langcodes import Language

    country = Language.make(territory=text.upper())
    if not re.fullmatch("[A-Za-z]{2}", text) or not country.is_valid():
        return None
    likely = country.maximize()
    return (
        f"; it is a country, whose language is {_canonical(likely, text)}"
        if likely.language not in (None, "und")
        else None
    )


def script(code: str) -> str:
    """`Latn` of `swh_Latn`."""
    return code.split("_")[1]


def direction(code: str) -> str:
    """The direction of writing, `rtl` or `ltr`."""
    return "rtl" if script(code) in RTL_SCRIPTS else "ltr"


@cache
def english_name(code: str) -> str:
    """`Swahili` for `swh_Latn`; script and region in brackets where they are not the usual ones:
    `Chinese (Traditional)`.
    """
    return _named(code).display_name()


@cache
def autonym(code: str) -> str:
    """The language's name in itself: `Kiswahili` for `swh_Latn`."""
    return _named(code).autonym()


def _named(code: str) -> "Language":
    from langcodes import Language

    language, script_, *region = code.split("_")
    unusual = script_ if script_ != _likely(language, None, None).script else None
    return Language.make(
        language=_lookup_code(language), script=unusual, territory=region[0] if region else None
    )


def resolve(value: str | Iterable[str] | None, sets: Mapping[str, list[str]]) -> list[str]:
    """Canonical codes, in order and once each, for a set's name, a comma list, or a list of codes,
    names and sets.

    None gives an empty list. Raises: UserError with every mistake.
    """
    items = _items(value)
    codes: list[str] = []
    errors: list[str] = []
    members = {code for codes_ in sets.values() for code in codes_}
    for i, item in enumerate(items):
        if len(errors) >= MOST_ERRORS:
            errors.append(
                f"languages: {len(items) - i} more were not looked at, after {MOST_ERRORS} mistakes"
                f" in {len(items)} languages"
            )
            break
        word = item.strip() if isinstance(item, str) else item
        if isinstance(word, str) and (
            word in sets or word in members
        ):  # canonical: langcodes need not be imported
            codes.extend(sets.get(word, [word]))
            continue
        try:
            codes.append(normalise(word))
        except UserError as error:
            errors.extend(_with_sets(message, word, sets) for message in error.messages)
    if errors:
        raise UserError(*errors)
    return list(dict.fromkeys(codes))


def _items(value: Any) -> list[Any]:
    """What was given as languages, one by one; something that is no list is one item, and refused
    as such.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return value.split(",")
    return list(value) if isinstance(value, Iterable) else [value]


def _with_sets(message: str, word: Any, sets: Mapping[str, list[str]]) -> str:
    near = nearest(word, sets) if isinstance(word, str) and ": unknown" in message else ""
    return (
        f"language or language set {word!r}: unknown{near}" if "did you mean" in near else message
    )


def sets(folder: Path, *, canonical: bool = False) -> dict[str, list[str]]:
    """The named sets in a folder: `NAME.yaml` holds `languages`, a list of codes; `canonical` says
    that they need no normalising.

    Raises: UserError naming the file and the entry.
    """
    from mlalign.core import yaml_files

    found: dict[str, list[str]] = {}
    errors: list[str] = []
    paths = sorted(Path(folder).glob("*.yaml"))
    if len(paths) > MOST_SETS:
        raise UserError(
            f"{folder}: holds {len(paths):,} files of language sets, and at most {MOST_SETS:,} are"
            " read; move the others away"
        )
    for path in paths:
        told = yaml_files.read(path)
        if not isinstance(told, dict) or not isinstance(told.get("languages"), list):
            errors.append(f"{path}: expected `languages:` with a list of codes")
            continue
        try:
            found[path.stem] = told["languages"] if canonical else resolve(told["languages"], {})
        except UserError as error:
            errors.extend(f"{path}: {message}" for message in error.messages)
    if errors:
        raise UserError(*errors)
    return found
