"""The verdict that a free text or a JSON object gives, and the schemas that servers are asked to
keep to. Pure.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.core.final_answers import ascii_digits
from mlalign.models.engine.replies import whole as whole_text

EDGES = " \t\r\n.,;:!*_#\"'`“”«»「」【】()[]{}<>$。！，"
ASKING = tuple("?？؟;՞")  # how a question ends in various scripts
JSON_OBJECT = re.compile(r"\{")
JSON_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
JSON_TRIES = 64  # places at which an object may begin, counted from the end of a text
DECODER = json.JSONDecoder(
    strict=False
)  # line ends within strings are the commonest mistake of models that write JSON
DECORATION = re.compile(
    r"\\(?:boxed|text(?:bf|it)?)\b|</?[a-z][^<>\n]{0,40}>|[\ufe0f\u20e3]", re.IGNORECASE
)
REASONING = re.compile(r".*</think>", re.DOTALL | re.IGNORECASE)
NUMBER = re.compile(r"(\d{1,6})(?:[.,](\d{1,2}))?(?![\d.,]*\d)")
OUT_OF = re.compile(r"[\W_]*(?:/|out of|of)[\W_]*(\d{1,6})")
SECOND = re.compile(r"\s*(?:[/|~〜–—-]|\b(?:or|to|and)\b)\s*")


def verdict(text: str, forms: Mapping[str, Sequence[str]], lead: str) -> str | None:
    """Which answer a text gives; None if it gives none.

    Digits of all scripts count, and the case of letters does not.

    The whole text may be the answer. Otherwise the last statement counts, and gives None if it is
    not one of the answers. A statement is a JSON object with the key `verdict`, or what follows
    `lead` ("Verdict: 7", "**verdict**：7"). A text without a statement may give its answer in double
    brackets ("[[7]]"). Reasoning up to `</think>` is not read.

    `7/10` is 7 where 10 is the highest number, and `7.0` is 7; `7.5`, `7-8` and `Yes/No` are no
    answers.
    """
    said = _after_reasoning(text)
    meant = {_plain(form): label for label, texts in forms.items() for form in texts}
    whole = _answer(_plain(said), meant, whole=True)
    if whole is not None:
        return whole

    stated = _normal(_with_objects_told(said))
    leads = list(_lead_pattern(lead).finditer(stated))
    if leads:
        return _answer(_plain(stated[leads[-1].end() :]), meant)

    bracketed = reversed(re.findall(r"\[\[(.+?)\]\]", stated))
    return next(
        (label for inner in bracketed if (label := _answer(_plain(inner), meant, whole=True))), None
    )


def explanation(text: str, lead: str) -> str | None:
    """What a judge that explains itself said besides its verdict."""
    objects = _verdict_objects(text)
    if objects:
        told = objects[-1][2]
        return whole_text(str(told["explanation"])) if "explanation" in told else None
    leads = list(_lead_pattern(lead).finditer(text))
    before = text[: leads[-1].start()] if leads else ""
    return before.strip(EDGES[:4] + "*#_") or text.strip()


def schema(forms: Mapping[str, Sequence[str]], reasoning: bool) -> dict[str, Any]:
    """The JSON schema of a verdict: the explanation comes before it, so that the verdict can follow
    from it.
    """
    fields: dict[str, Any] = {"explanation": {"type": "string"}} if reasoning else {}
    fields["verdict"] = {"type": "string", "enum": [texts[0] for texts in forms.values()]}
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def questions_schema(most: int, longest: int) -> dict[str, Any]:
    """The JSON schema of a checklist of at most `most` questions of at most `longest` characters."""
    question = {"type": "string", "minLength": 8, "maxLength": longest}
    several = {"type": "array", "items": question, "minItems": 1, "maxItems": most}
    return {
        "type": "object",
        "properties": {"questions": several},
        "required": ["questions"],
        "additionalProperties": False,
    }


def questions(text: str, most: int) -> list[str]:
    """The questions of a checklist, at most `most`: from JSON, else the lines of a text that ask
    something. Empty if there are none.
    """
    opened = re.search(r'"questions"\s*:\s*\[', text)
    if opened:  # whole strings only: the text may be cut off within the last one
        lines = [whole_text(json.loads(s)) for s in JSON_STRING.findall(text, opened.end())]
    else:
        lines = [line for line in text.splitlines() if line.rstrip()[-1:] in ASKING]
    return list(dict.fromkeys(q for line in lines if (q := _unnumbered(line))))[:most]


def _unnumbered(line: str) -> str:
    return re.sub(r"^\s*(?:[-*•]|\(?\d{1,2}[.):、])?\s*", "", line).strip()


def _after_reasoning(text: str) -> str:
    """What follows the reasoning; of a text that was cut off within it, what stands before it."""
    return re.split("<think>", REASONING.sub("", text), maxsplit=1, flags=re.IGNORECASE)[0]


def _verdict_objects(text: str) -> list[tuple[int, int, dict]]:
    """(start, end, content) of every JSON object in a text that has the key `verdict`, in their
    order.
    """
    objects: list[tuple[int, int, dict]] = []
    end = 0
    for start in [found.start() for found in JSON_OBJECT.finditer(text)][-JSON_TRIES:]:
        if start < end:
            continue  # within the object before
        try:
            content, stop = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if "verdict" in content:
            objects.append((start, stop, content))
            end = stop
    return objects


def _with_objects_told(text: str) -> str:
    """The text with `"verdict": VALUE` in the place of each JSON object, so that its other fields
    are not searched.
    """
    for start, stop, content in reversed(_verdict_objects(text)):
        text = f'{text[:start]}"verdict": {content["verdict"]}{text[stop:]}'
    return text


def _lead_pattern(lead: str) -> re.Pattern[str]:
    """Finds `Verdict:` as people and models write it: `verdict :`, `**Verdict**：`, a heading; also
    the key of (broken) JSON.
    """
    words = r"\s+".join(
        re.escape(word) for word in unicodedata.normalize("NFKC", lead).rstrip(" :").split()
    )
    markup = r"[\s*_`\"'”»)\]]*"
    heading = rf"^[\s*_#]*{words}[ \t*_#]*\n"
    return re.compile(
        rf"(?<!\w){words}{markup}[:：∶꞉=]|{heading}|(?<!\\)\"verdict\"\s*:",
        re.IGNORECASE | re.MULTILINE,
    )


def _answer(text: str, meant: Mapping[str, str], *, whole: bool = False) -> str | None:
    """The one answer that a plain text begins with, or, as a `whole`, is."""
    if all(form.isdecimal() for form in meant):
        return _number(text, meant, whole)
    fitting = [form for form in meant if text.startswith(form) and not _goes_on(text[len(form) :])]
    if not fitting:
        return None
    form = max(fitting, key=len)
    rest = text[len(form) :]
    second = SECOND.match(rest)
    others = [other for other, label in meant.items() if label != meant[form]]
    if second and any(rest[second.end() :].startswith(other) for other in others):
        return None
    if rest and (whole or re.match(r"\s+(?:tie|draw)\b", rest)):  # "a tie" is not the answer A
        return None
    return meant[form]


def _number(text: str, meant: Mapping[str, str], whole: bool) -> str | None:
    found = NUMBER.match(text)
    if found is None or (found[2] or "0").strip("0"):
        return None
    rest = text[found.end() :]
    highest = OUT_OF.match(rest)
    if highest is not None:
        if int(highest[1]) != max(map(int, meant)):
            return None
        rest = rest[highest.end() :]
    elif (second := SECOND.match(rest)) and rest[second.end() :][:1].isdecimal():
        return None
    if rest.lstrip().startswith("%") or (rest.strip(EDGES) if whole else _is_cased(rest[:1])):
        return None
    return meant.get(str(int(found[1])))


def _is_cased(character: str) -> bool:
    """Whether a letter right after a number belongs to it ("7th"); a unit of measure in a script
    without case does not ("7分").
    """
    return character == "_" or character.lower() != character.upper()


def _goes_on(rest: str) -> bool:
    """Whether a word does not end here."""
    return bool(re.match(r"\w", rest)) or (
        bool(rest) and unicodedata.category(rest[0]).startswith("M")
    )


def _normal(text: str) -> str:
    """A text without decoration (LaTeX's boxes, tags, key caps), its characters in their plain
    forms.
    """
    return ascii_digits(unicodedata.normalize("NFKC", DECORATION.sub("", text)))


def _plain(text: str) -> str:
    return _normal(text).strip(EDGES).casefold()


def begun(token: str, forms: Mapping[str, Sequence[str]]) -> str | None:
    """The one answer that a text is the beginning of; None if it begins none, or several."""
    start = _plain(token)
    found = (
        {
            label
            for label, texts in forms.items()
            if any(_plain(form).startswith(start) for form in texts)
        }
        if start
        else set()
    )
    return found.pop() if len(found) == 1 else None
