"""What a scorer takes and returns, and how rows become items.

Reads users' rows (plain strings or chat messages) and mlalign's candidates, preference and ranking
rows.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from mlalign.core import conversations, languages, rows
from mlalign.core.conversations import Row
from mlalign.core.conversations.messages import conversation
from mlalign.core.errors import UserError

# The first of these columns that a row has names its language.
LANGUAGE_COLUMNS = ("language", "response_lang_requested", "prompt_lang")


@dataclasses.dataclass(frozen=True)
class Item:
    """One answer to score.

    `language` is the one it should be in (canonical), `reference` a JSON string.

    `row` is the id of its row: answers of one row share the prompt, and some scorers compare them.
    `group_id` is the same for an item in all its languages, `english_prompt` the prompt in English,
    if the row has these.

    Messages of `prompt` hold `role`, `content` (None only beside `tool_calls`) and, where the row
    has them, `tool_calls`, `reasoning_content`, `name`, `tool_call_id`. `answer_extra` has the keys
    of the answering message besides its role and text, `tools` the tools of the row. Chat templates
    are given all of it.
    """

    id: str
    prompt: list[dict]
    response: str
    language: str | None = None
    reference: str | None = None
    row: str | None = None
    group_id: str | None = None
    english_prompt: list[dict] | None = None
    answer_extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tools: list | None = None

    @property
    def answer(self) -> dict:
        """The answering message."""
        return {"role": "assistant", "content": self.response, **self.answer_extra}

    @property
    def messages(self) -> list[dict]:
        """The whole conversation, the answer last."""
        return [*self.prompt, self.answer]


@dataclasses.dataclass(frozen=True)
class Scores:
    """One value per item, higher is better; None where the scorer cannot say (never NaN).

    `flags` are facts to count (`truncated`, …), `columns` further numbers, `texts` what a judge
    said; `detected` is the language each answer was found to be in. All lists are as long as
    `values`. `tokens` is how many tokens the model read for all of them.
    """

    values: list[float | None]
    flags: dict[str, list[bool]] = dataclasses.field(default_factory=dict)
    columns: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    texts: dict[str, list[str | None]] = dataclasses.field(default_factory=dict)
    detected: list[str | None] | None = None
    tokens: int = 0


def readable(message: Mapping) -> str:
    """A message without a chat template: its text, then its tool calls as JSON, a line each."""
    lines = []
    if message["content"]:
        lines.append(message["content"])
    for call in message.get("tool_calls") or []:
        lines.append(json.dumps(call, ensure_ascii=False, default=str))
    return "\n".join(lines)


def of_candidates(row: Mapping) -> list[Item]:
    """The items of a candidates row, one per response."""
    language = row["response_lang_requested"] or row["prompt_lang"]
    common = (language, row["reference"], row["id"], row["group_id"])
    items = []
    for response in row["responses"]:
        text = response["text"] or ""
        items.append(Item(response["candidate_id"], row["prompt"], text, *common))
    return items


def of_preference(row: Mapping) -> list[Item]:
    """The chosen and the rejected side of a preference row; their language is the prompt's."""
    common = {"language": row["prompt_lang"], "row": row["id"], "group_id": row["group_id"]}
    items = []
    for side in ("chosen", "rejected"):
        *before, answer = row[side]
        prompt = [*row["prompt"], *before]
        items.append(_item(rows.side_id(row["id"], side), prompt, answer, **common))
    return items


def of_ranking(row: Mapping) -> list[Item]:
    """The responses of a ranking row, in its order; their language is the prompt's."""
    common = {"language": row["prompt_lang"], "row": row["id"], "group_id": row["group_id"]}
    items = []
    for place, text in enumerate(row["responses"]):
        identifier = rows.side_id(row["id"], str(place))
        items.append(Item(identifier, row["prompt"], text, **common))
    return items


def of_row(
    row: Mapping, where: str, read: Row | None = None, name: str | None = None
) -> list[Item]:
    """The items of a user's row.

    `where` (file and line) names it in errors; `name`, or else `where`, replaces a missing id.
    `read`: the result of `conversations.read`, if the row was read already.
    Raises: UserError for what is no row (see `conversations`), or an unknown language.
    """
    read = read or read_row(row, where)
    if row.get("id") in (None, ""):
        row_id = name or where
    else:
        row_id = str(row["id"])
    group_id = row.get("group_id")
    common = {
        "language": _language(row, where),
        "reference": _reference(row.get("reference")),
        "row": row_id,
        "group_id": None if group_id is None else str(group_id),
        "english_prompt": _english(row, where),
        "tools": read.tools,
    }
    items = []
    for identifier, answer in zip(_ids(read, row_id), read.answers, strict=True):
        items.append(_item(identifier, read.prompt, answer, **common))
    return items


def of_rows(rows: Iterable[tuple[str, Mapping]]) -> list[Item]:
    """The items of several (place, row)."""
    items: list[Item] = []
    for where, row in rows:
        items += of_row(row, where)
    return items


def read_row(row: Mapping, where: str) -> Row:
    """The conversation in a row. Raises: UserError that names the place."""
    try:
        return conversations.read(row)
    except (conversations.Malformed, conversations.Dropped) as error:
        raise UserError(f"{where}: {error}") from None


def _ids(read: Row, row_id: str) -> list[str]:
    """An id for each answer of a row."""
    if read.shape == "pair":
        return [rows.side_id(row_id, side) for side in ("chosen", "rejected")]
    if read.shape == "one":
        return [read.names[0] or row_id]
    return [name or f"{row_id}:{i}" for i, name in enumerate(read.names)]


def _item(identifier: str, prompt: list[dict], answer: Mapping, **common: Any) -> Item:
    extra = {key: value for key, value in answer.items() if key not in ("role", "content")}
    if answer["content"] is None:
        extra["content"] = None  # templates tell null from empty text
    return Item(identifier, prompt, answer["content"] or "", answer_extra=extra, **common)


def _english(row: Mapping, where: str) -> list[dict] | None:
    try:
        return conversation(row.get("english_prompt") or None, "user", "english_prompt") or None
    except (conversations.Malformed, conversations.Dropped) as error:
        raise UserError(f"{where}: {error}") from None


def _language(row: Mapping, where: str) -> str | None:
    name = named_language(row)
    if not name:
        return None
    try:
        return languages.normalise(name)
    except UserError as error:
        messages = [f"{where}: {message}" for message in error.messages]
        raise UserError(*messages) from None


def named_language(row: Mapping) -> Any:
    """The language of a row as it stands there; None if it names none."""
    for column in LANGUAGE_COLUMNS:
        if row.get(column):
            return row[column]
    return None


def _reference(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
