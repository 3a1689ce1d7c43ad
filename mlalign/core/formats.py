"""Published preference sets that only their name tells apart (`--format`). Pure.

A record goes in, the columns of a row come out; `convert` does that for a whole file. A record of
the wrong form raises `Malformed`; one that is no pair raises `Dropped`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mlalign.core import languages
from mlalign.core.conversations import Dropped, Malformed
from mlalign.core.conversations.messages import ASSISTANT, HUMAN, transcript
from mlalign.core.errors import UserError, nearest
from mlalign.core.rows import messages, to_json

ROWS = "rows"  # the rows that `rm-score` takes: nothing to convert


def convert(
    name: str, path: Path, rows: Iterable[tuple[str, dict]], dropped: Counter
) -> Iterator[tuple[str, dict]]:
    """The records of a file, as (place, record), turned into the rows that `rm-score` takes.

    Some sets have a file for each language, which `path` then names. Records that give no row are
    counted in `dropped` by (reason, language).

    Raises: UserError naming a record of the wrong form.
    """
    if name == ROWS:
        yield from rows
        return
    for place, record in rows:
        try:
            yield place, as_row(name, path, place, record)
        except Dropped as drop:
            _, language = _stem_and_language(name, path)
            dropped[drop.reason, language] += 1


@cache
def _stem_and_language(name: str, path: Path) -> tuple[str, str]:
    """What a file's groups are named after, and its language."""
    return NAMING[name](path)


def as_row(name: str, path: Path, place: str, record: Mapping) -> dict[str, Any]:
    """One record as a row.

    Raises: UserError naming a record of the wrong form, Dropped for one that gives no row.
    """
    stem, language = _stem_and_language(name, path)
    try:
        row = FORMATS[name](record, language)
    except Malformed as error:
        raise UserError(f"{place}: {error} (--format {name})") from None

    if "group_id" in row:
        group = f"{stem}:{row['group_id']}"
        row |= {"group_id": group, "id": f"{group}:{language}"}
    return {"language": language, **row}


def hh_rlhf(record: Any, language: str = "eng_Latn") -> dict[str, Any]:
    """Anthropic HH-RLHF: two transcripts that differ in the last assistant turn.

    What comes before that turn is the prompt.
    """
    prompt, chosen = _last_turn(_field(record, "chosen"), "chosen")
    other_prompt, rejected = _last_turn(_field(record, "rejected"), "rejected")
    if prompt != other_prompt:
        raise Dropped(
            "prompts_differ",
            "the transcripts `chosen` and `rejected` differ before their last turn",
        )
    return {
        "prompt": transcript(prompt),
        "chosen": messages(chosen, "assistant"),
        "rejected": messages(rejected, "assistant"),
        "method": "human",
    }


def _last_turn(text: Any, name: str) -> tuple[str, str]:
    """A transcript split into what comes before its last answer, and that answer."""
    if not isinstance(text, str) or ASSISTANT not in text or HUMAN not in text:
        raise Malformed(
            f"`{name}` is no transcript of \\n\\nHuman: and \\n\\nAssistant: turns:"
            " not in the form of HH-RLHF"
        )
    prompt, _, answer = text.rpartition(ASSISTANT)
    return prompt, answer.strip()


def xcopa(record: Any, language: str) -> dict[str, Any]:
    """XCOPA (Ponti et al. 2020): of two choices after a premise, the right one is preferred.

    Items are parallel by `idx`.
    """
    questions = xcopa_questions().get(language)
    if questions is None:
        raise Malformed(f"XCOPA has no language {language}; it has {', '.join(xcopa_questions())}")

    premise = _field(record, "premise")
    question = _field(record, "question")
    label = _field(record, "label")
    choices = [_field(record, "choice1"), _field(record, "choice2")]
    if question not in questions or label not in (0, 1):
        raise Malformed(
            "`question` must be cause or effect and `label` 0 or 1,"
            f" found {question!r} and {label!r}"
        )
    return {
        "prompt": messages(f"{premise} {questions[question]}"),
        "chosen": messages(choices[label], "assistant"),
        "rejected": messages(choices[1 - label], "assistant"),
        "method": "gold",
        "group_id": str(_field(record, "idx")),
        "metadata": to_json({"question": question}),
    }


@cache
def xcopa_questions() -> dict[str, dict[str, str]]:
    """language -> the question for a cause and for an effect."""
    import yaml

    return yaml.safe_load(Path(__file__).with_name("xcopa.yaml").read_text(encoding="utf-8"))


def _field(record: Any, name: str) -> Any:
    if not isinstance(record, Mapping):
        raise Malformed(f"has no named columns, and {name!r} is needed")
    if name not in record:
        raise Malformed(
            f"no column {name!r}; it has {', '.join(map(str, record))}{nearest(name, record)}"
        )
    return record[name]


def _from_name(path: Path) -> tuple[str, str]:
    """(test, est_Latn) of `test.et.jsonl`: the language stands before the ending."""
    without_ending = path.name.removesuffix(".gz").rpartition(".")[0]
    stem, _, language = without_ending.rpartition(".")
    try:
        return stem, languages.normalise(language)
    except UserError as error:
        raise UserError(
            f"{path}: expected a name such as test.sw.jsonl, with the language before the ending:"
            f" {error}"
        ) from None


FORMATS: dict[str, Callable[[Any, str], dict[str, Any]]] = {"hh_rlhf": hh_rlhf, "xcopa": xcopa}
# path -> what the file's groups are named after, and its language
NAMING: dict[str, Callable[[Path], tuple[str, str]]] = {
    "hh_rlhf": lambda path: (path.name, "eng_Latn"),
    "xcopa": _from_name,
}
NAMES = (ROWS, *FORMATS)
