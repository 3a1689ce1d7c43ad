"""Published preference sets that only their name tells (`--format`): a record in, the columns of a
row out. Pure.

`convert` makes rows of a whole file. A record of the wrong form raises `Malformed`; one that is no
pair raises `Dropped`.
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
    """The records of a file, as (place, record), in the rows that `rm-score` takes; `path` names
    the language of a set that has a file for each. What gives no row is counted in `dropped` as
    (reason, language).

    Raises: UserError naming the record for one of the wrong form.
    """
    if name == ROWS:
        yield from rows
        return
    for place, record in rows:
        try:
            yield place, as_row(name, path, place, record)
        except Dropped as drop:
            dropped[drop.reason, _place(name, path)[1]] += 1


@cache
def _place(name: str, path: Path) -> tuple[str, str]:
    """What groups of a file are named after, and its language."""
    return PLACE_OF[name](path)


def as_row(name: str, path: Path, place: str, record: Mapping) -> dict[str, Any]:
    """One record as a row.

    Raises: UserError naming it for one of the wrong form, Dropped for one that gives no row.
    """
    stem, language = _place(name, path)
    try:
        row = FORMATS[name](record, language)
    except Malformed as error:
        raise UserError(f"{place}: {error} (--format {name})") from None
    if "group_id" in row:
        row |= {
            "group_id": f"{stem}:{row['group_id']}",
            "id": f"{stem}:{row['group_id']}:{language}",
        }
    return {"language": language, **row}


def hh_rlhf(record: Any, language: str = "eng_Latn") -> dict[str, Any]:
    """Anthropic HH-RLHF: two transcripts; what comes before the last assistant turn is the prompt
    and must be shared.
    """
    prompt, chosen = _last_turn(_field(record, "chosen"), "chosen")
    other, rejected = _last_turn(_field(record, "rejected"), "rejected")
    if prompt != other:
        raise Dropped(
            "prompts_differ",
            "the transcripts `chosen` and `rejected` differ before their last turn",
        )
    sides = {"chosen": messages(chosen, "assistant"), "rejected": messages(rejected, "assistant")}
    return {"prompt": transcript(prompt), **sides, "method": "human"}


def _last_turn(text: Any, name: str) -> tuple[str, str]:
    if not isinstance(text, str) or ASSISTANT not in text or HUMAN not in text:
        raise Malformed(
            f"`{name}` is no transcript of \\n\\nHuman: and \\n\\nAssistant: turns: not in the form"
            " of HH-RLHF"
        )
    prompt, _, answer = text.rpartition(ASSISTANT)
    return prompt, answer.strip()


def xcopa(record: Any, language: str) -> dict[str, Any]:
    """XCOPA (Ponti et al. 2020): premise and question, the right choice preferred over the wrong
    one. Items are parallel by `idx`.
    """
    questions = xcopa_questions().get(language)
    if questions is None:
        raise Malformed(f"XCOPA has no language {language}; it has {', '.join(xcopa_questions())}")
    premise, question, label = (_field(record, name) for name in ("premise", "question", "label"))
    choices = [_field(record, name) for name in ("choice1", "choice2")]
    if question not in questions or label not in (0, 1):
        raise Malformed(
            f"`question` must be cause or effect and `label` 0 or 1, found {question!r} and"
            f" {label!r}"
        )
    sides = {
        "chosen": messages(choices[label], "assistant"),
        "rejected": messages(choices[1 - label], "assistant"),
    }
    told = {"group_id": str(_field(record, "idx")), "metadata": to_json({"question": question})}
    return {
        "prompt": messages(f"{premise} {questions[question]}"),
        **sides,
        "method": "gold",
        **told,
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


def _by_file(path: Path) -> tuple[str, str]:
    """Name and language of `test.et.jsonl`: the language is the last part before the endings."""
    stem, _, language = path.name.removesuffix(".gz").rpartition(".")[0].rpartition(".")
    try:
        return stem, languages.normalise(language)
    except UserError as error:
        raise UserError(
            f"{path}: expected a name such as test.sw.jsonl, with the language before the ending:"
            f" {error}"
        ) from None


FORMATS: dict[str, Callable[[Any, str], dict[str, Any]]] = {"hh_rlhf": hh_rlhf, "xcopa": xcopa}
# what groups of a file are named after, and its language
PLACE_OF: dict[str, Callable[[Path], tuple[str, str]]] = {
    "hh_rlhf": lambda path: (path.name, "eng_Latn"),
    "xcopa": _by_file,
}
NAMES = (ROWS, *FORMATS)
