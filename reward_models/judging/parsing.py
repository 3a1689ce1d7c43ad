"""Reads verdicts and checklists from free text or JSON, and gives servers the schemas. Pure."""

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
# Not strict, because models that write JSON often leave line ends within strings.
DECODER = json.JSONDecoder(strict=False)
DECORATION = re.compile(
    r"\\(?:boxed|text(?:bf|it)?)\b|</?[a-z][^<>\n]{0,40}>|[\ufe0f\u20e3]", re.IGNORECASE
)
REASONING = re.compile(r".*</think>", re.DOTALL | re.IGNORECASE)
NUMBER = re.compile(r"(\d{1,6})(?:[.,](\d{1,2}))?(?![\d.,]*\d)")
OUT_OF = re.compile(r"[\W_]*(?:/|out of|of)[\W_]*(\d{1,6})")
SECOND = re.compile(r"\s*(?:[/|~〜–—-]|\b(?:or|to|and)\b)\s*")


def verdict(text: str, forms: Mapping[str, Sequence[str]], lead: str) -> str | None:
    """Which answer a text gives; None if it gives none.

    Digits of all scripts count, and the case of letters does not matter.

    The whole text may be the answer. Otherwise the last statement counts, and gives None if it is
    not one of the answers. A statement is a JSON object with the key `verdict`, or what follows
    `lead` ("Verdict: 7", "**verdict**: 7"). A text without a statement may give its answer in
    double brackets ("[[7]]"). Reasoning up to `</think>` is not read.

    `7/10` is 7 where 10 is the highest number, and `7.0` is 7; `7.5`, `7-8` and `Yes/No` are no
    answers.
    """
    reply = _after_reasoning(text)
    labels = {}
    for label, texts in forms.items():
        for form in texts:
            labels[_plain(form)] = label
    whole = _answer(_plain(reply), labels, whole=True)
    if whole is not None:
        return whole

    reply = _normal(_with_statements(reply))
    leads = list(_lead_pattern(lead).finditer(reply))
    if leads:
        return _answer(_plain(reply[leads[-1].end() :]), labels)

    for inner in reversed(re.findall(r"\[\[(.+?)\]\]", reply)):
        answer = _answer(_plain(inner), labels, whole=True)
        if answer is not None:
            return answer
    return None


def explanation(text: str, lead: str) -> str | None:
    """What a judge that explains itself said besides its verdict."""
    objects = _verdict_objects(text)
    if objects:
        _, _, content = objects[-1]
        if "explanation" not in content:
            return None
        return whole_text(str(content["explanation"]))

    leads = list(_lead_pattern(lead).finditer(text))
    before = text[: leads[-1].start()] if leads else ""
    return before.strip(EDGES[:4] + "*#_") or text.strip()


def schema(forms: Mapping[str, Sequence[str]], reasoning: bool) -> dict[str, Any]:
    """The JSON schema of a verdict, after an explanation from which it can follow."""
    fields: dict[str, Any] = {}
    if reasoning:
        fields["explanation"] = {"type": "string"}
    fields["verdict"] = {"type": "string", "enum": [texts[0] for texts in forms.values()]}
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def questions_schema(most: int, longest: int) -> dict[str, Any]:
    """The JSON schema of a checklist: at most `most` questions of at most `longest` characters."""
    question = {"type": "string", "minLength": 8, "maxLength": longest}
    several = {"type": "array", "items": question, "minItems": 1, "maxItems": most}
    return {
        "type": "object",
        "properties": {"questions": several},
        "required": ["questions"],
        "additionalProperties": False,
    }


def questions(text: str, most: int) -> list[str]:
    """The questions of a checklist, at most `most`; empty if there are none.

    They come from JSON, or else are the lines of a text that ask something.
    """
    json_list = re.search(r'"questions"\s*:\s*\[', text)
    if json_list:
        # Whole strings only: the text may be cut off within the last one.
        strings = JSON_STRING.findall(text, json_list.end())
        lines = [whole_text(json.loads(string)) for string in strings]
    else:
        lines = [line for line in text.splitlines() if line.rstrip().endswith(ASKING)]
    distinct = dict.fromkeys(_unnumbered(line) for line in lines)
    return [question for question in distinct if question][:most]


def _unnumbered(line: str) -> str:
    return re.sub(r"^\s*(?:[-*•]|\(?\d{1,2}[.):、])?\s*", "", line).strip()


def _after_reasoning(text: str) -> str:
    """What follows the reasoning, or precedes it if the text was cut off within it."""
    after = REASONING.sub("", text)
    before_unfinished, *_ = re.split("<think>", after, maxsplit=1, flags=re.IGNORECASE)
    return before_unfinished


def _verdict_objects(text: str) -> list[tuple[int, int, dict]]:
    """(start, end, content) of every JSON object in a text that has the key `verdict`, in order."""
    objects: list[tuple[int, int, dict]] = []
    starts = [match.start() for match in JSON_OBJECT.finditer(text)]
    end = 0
    for start in starts[-JSON_TRIES:]:
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


def _with_statements(text: str) -> str:
    """The text with `"verdict": VALUE` in place of each JSON object.

    Otherwise the other fields of the object would be searched too.
    """
    for start, stop, content in reversed(_verdict_objects(text)):
        text = f'{text[:start]}"verdict": {content["verdict"]}{text[stop:]}'
    return text


def _lead_pattern(lead: str) -> re.Pattern[str]:
    """Finds `Verdict:` as people and models write it.

    Such as `verdict :`, `**Verdict**:`, a heading, or the key of (broken) JSON.
    """
    lead_words = unicodedata.normalize("NFKC", lead).rstrip(" :").split()
    words = r"\s+".join(map(re.escape, lead_words))
    markup = r"[\s*_`\"'”»)\]]*"
    heading = rf"^[\s*_#]*{words}[ \t*_#]*\n"
    return re.compile(
        rf"(?<!\w){words}{markup}[:：∶꞉=]|{heading}|(?<!\\)\"verdict\"\s*:",
        re.IGNORECASE | re.MULTILINE,
    )


def _answer(text: str, labels: Mapping[str, str], *, whole: bool = False) -> str | None:
    """The one answer that a plain text begins with, or, as a `whole`, is.

    `labels`: plain form of an answer -> its label.
    """
    if all(form.isdecimal() for form in labels):
        return _number(text, labels, whole)

    fitting = []
    for form in labels:
        if text.startswith(form) and not _word_continues(text[len(form) :]):
            fitting.append(form)
    if not fitting:
        return None

    longest = max(fitting, key=len)
    rest = text[len(longest) :]
    other_forms = [form for form, label in labels.items() if label != labels[longest]]
    if _is_alternative(rest, other_forms):
        return None
    if whole:
        return None if rest else labels[longest]
    if re.match(r"\s+(?:tie|draw)\b", rest):  # "a tie" is not the answer A
        return None
    return labels[longest]


def _is_alternative(rest: str, other_forms: Sequence[str]) -> bool:
    """Whether what follows an answer offers another one, as in `Yes/No`."""
    separator = SECOND.match(rest)
    return separator is not None and rest[separator.end() :].startswith(tuple(other_forms))


def _number(text: str, labels: Mapping[str, str], whole: bool) -> str | None:
    """The number that a text begins with, or, as a `whole`, is; None if it is no label."""
    number = NUMBER.match(text)
    if number is None:
        return None
    digits, decimals = number.groups(default="")
    if decimals.strip("0"):
        return None

    rest = text[number.end() :]
    out_of = OUT_OF.match(rest)
    separator = SECOND.match(rest)
    if out_of is not None:
        if int(out_of[1]) != max(map(int, labels)):
            return None
        rest = rest[out_of.end() :]
    elif separator is not None and rest[separator.end() :][:1].isdecimal():
        return None  # a range such as 7-8

    if rest.lstrip().startswith("%"):
        return None
    has_more = bool(rest.strip(EDGES)) if whole else _is_cased(rest[:1])
    return None if has_more else labels.get(str(int(digits)))


def _is_cased(character: str) -> bool:
    """Whether a letter right after a number belongs to it, as in "7th".

    A unit of measure in a script without case does not ("7分").
    """
    return character == "_" or character.lower() != character.upper()


def _word_continues(rest: str) -> bool:
    """Whether `rest` begins with a letter, a digit or a combining mark."""
    if not rest:
        return False
    is_mark = unicodedata.category(rest[0]).startswith("M")
    return is_mark or re.match(r"\w", rest) is not None


def _normal(text: str) -> str:
    """A text without decoration (LaTeX's boxes, tags, key caps), in plain forms of characters."""
    return ascii_digits(unicodedata.normalize("NFKC", DECORATION.sub("", text)))


def _plain(text: str) -> str:
    return _normal(text).strip(EDGES).casefold()


def begun(token: str, forms: Mapping[str, Sequence[str]]) -> str | None:
    """The one answer that a token is the beginning of; None if it begins none, or several."""
    start = _plain(token)
    if not start:
        return None
    labels = []
    for label, texts in forms.items():
        if any(_plain(form).startswith(start) for form in texts):
            labels.append(label)
    return labels[0] if len(labels) == 1 else None
