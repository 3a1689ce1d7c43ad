"""What a scorer takes and gives, and how rows become items.

Reads rows as people have them (plain strings or chat messages) and mlalign's candidates and
preference rows.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from mlalign.core import conversations, languages, rows
from mlalign.core.conversations import Row
from mlalign.core.conversations.messages import conversation
from mlalign.core.errors import UserError

LANGUAGE_COLUMNS = (
    "language",
    "response_lang_requested",
    "prompt_lang",
)  # the first that a row has says its language


@dataclasses.dataclass(frozen=True)
class Item:
    """One answer to score.

    `language` is the one it should be in (canonical), `reference` a JSON string.

    `row` is the id of the row that it is in: answers of one row share the prompt, and scorers that
    compare compare these. `group_id` is the same for an item in all its languages, `english_prompt`
    the prompt in English, where rows say so.

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
    """A message for readers without a chat template: its text, and its tool calls as JSON, a line
    each.
    """
    calls = [
        json.dumps(call, ensure_ascii=False, default=str)
        for call in message.get("tool_calls") or []
    ]
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])


def of_candidates(row: Mapping) -> list[Item]:
    """The items of a candidates row, one per response."""
    language, reference = row["response_lang_requested"] or row["prompt_lang"], row["reference"]
    told = (language, reference, row["id"], row["group_id"])
    return [
        Item(r["candidate_id"], row["prompt"], r["text"] or "", *told) for r in row["responses"]
    ]


def of_preference(row: Mapping) -> list[Item]:
    """The chosen and the rejected side of a preference row; the language asked for is the prompt's."""
    told = {"language": row["prompt_lang"], "row": row["id"], "group_id": row["group_id"]}
    items = []
    for side in ("chosen", "rejected"):
        *before, answer = row[side]
        items.append(
            _item(rows.side_id(row["id"], side), [*row["prompt"], *before], answer, **told)
        )
    return items


def of_ranking(row: Mapping) -> list[Item]:
    """The responses of a ranking row, in its order; the language asked for is the prompt's."""
    told = {"language": row["prompt_lang"], "row": row["id"], "group_id": row["group_id"]}
    ids = [rows.side_id(row["id"], str(place)) for place in range(len(row["responses"]))]
    return [
        Item(name, row["prompt"], text, **told)
        for name, text in zip(ids, row["responses"], strict=True)
    ]


def of_row(
    row: Mapping, where: str, read: Row | None = None, name: str | None = None
) -> list[Item]:
    """The items of a person's row.

    `where` (file and line) names it in errors; `name`, or else `where`, stands in for a missing id.

    `read`: what `conversations.read` made of the row, if that is known already.
    Raises: UserError for what is no row (see `conversations`), or an unknown language.
    """
    read = read or read_row(row, where)
    identifier = name or where if row.get("id") in (None, "") else str(row["id"])
    common = {
        "language": _language(row, where),
        "reference": _reference(row.get("reference")),
        "row": identifier,
        "group_id": None if row.get("group_id") is None else str(row["group_id"]),
        "english_prompt": _english(row, where),
        "tools": read.tools,
    }
    return [
        _item(name, read.prompt, answer, **common)
        for name, answer in zip(_names(read, identifier), read.answers, strict=True)
    ]


def read_row(row: Mapping, where: str) -> Row:
    """What a row says. Raises: UserError that names the place."""
    try:
        return conversations.read(row)
    except (conversations.Malformed, conversations.Dropped) as error:
        raise UserError(f"{where}: {error}") from None


def _names(read: Row, identifier: str) -> list[str]:
    """An id for each answer of a row."""
    if read.shape == "pair":
        return [rows.side_id(identifier, side) for side in ("chosen", "rejected")]
    if read.shape == "one":
        return [read.names[0] or identifier]
    return [name or f"{identifier}:{i}" for i, name in enumerate(read.names)]


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
    told = next((row[name] for name in LANGUAGE_COLUMNS if row.get(name)), None)
    try:
        return languages.normalise(told) if told else None
    except UserError as error:
        raise UserError(*(f"{where}: {m}" for m in error.messages)) from None


def _reference(value: Any) -> str | None:
    return (
        value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )
