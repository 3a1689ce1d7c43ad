"""What a scorer takes and gives, and how rows become items.

Reads rows as people have them (plain strings or chat messages) and mlalign's candidates and preference rows.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlalign import languages, rows
from mlalign.errors import UserError

LANGUAGE_COLUMNS = ("language", "response_lang_requested", "prompt_lang")  # the first that a row has says its language
SHAPES = "prompt and response, prompt and responses, messages, or chosen and rejected"


@dataclasses.dataclass(frozen=True)
class Item:
    """One answer to score. `language` is the one it should be in (canonical), `reference` a JSON string.

    `row` is the id of the row that it is in: answers of one row share the prompt, and scorers that compare compare these.
    `group_id` is the same for an item in all its languages, `english_prompt` the prompt in English, where rows say so.
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


@dataclasses.dataclass(frozen=True)
class Scores:
    """One value per item, higher is better; None where the scorer cannot say (never NaN).

    `flags` are facts to count (`truncated`, …), `columns` further numbers, `texts` what a judge said; `detected` is the language
    each answer was found to be in. All lists are as long as `values`. `tokens` is how many tokens the model read for all of them.
    """

    values: list[float | None]
    flags: dict[str, list[bool]] = dataclasses.field(default_factory=dict)
    columns: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    texts: dict[str, list[str | None]] = dataclasses.field(default_factory=dict)
    detected: list[str | None] | None = None
    tokens: int = 0


def of_candidates(row: Mapping) -> list[Item]:
    """The items of a candidates row, one per response."""
    language, reference = row["response_lang_requested"] or row["prompt_lang"], row["reference"]
    told = (language, reference, row["id"], row["group_id"])
    return [Item(r["candidate_id"], row["prompt"], r["text"] or "", *told) for r in row["responses"]]


def of_preference(row: Mapping) -> list[Item]:
    """The chosen and the rejected side of a preference row; the language asked for is the prompt's."""
    told = {"language": row["prompt_lang"], "row": row["id"], "group_id": row["group_id"]}
    return [_conversation(rows.side_id(row["id"], side), row["prompt"] + row[side], row["id"], **told) for side in ("chosen", "rejected")]


def of_row(row: Mapping, where: str) -> list[Item]:
    """The items of a person's row. `where` (file and line) names it in errors and stands in for a missing `id`.

    Raises: UserError for missing columns, empty prompts, an unknown language.
    """
    identifier = str(row.get("id") or where)
    told = {
        "language": _language(row, where), "reference": _reference(row.get("reference")), "row": identifier,
        "group_id": None if row.get("group_id") is None else str(row["group_id"]),
        "english_prompt": _messages(row["english_prompt"], "user", where) if row.get("english_prompt") else None,
    }  # fmt: skip
    prompt = _messages(row["prompt"], "user", where) if row.get("prompt") else []
    if row.get("messages"):
        return [_conversation(identifier, _messages(row["messages"], "user", where), where, **told)]
    if row.get("chosen") is not None and row.get("rejected") is not None:
        sides = [(rows.side_id(identifier, side), row[side]) for side in ("chosen", "rejected")]
    elif prompt and row.get("responses") is not None:
        sides = [(f"{identifier}:{i}", response) for i, response in enumerate(row["responses"])]
    elif prompt and row.get("response") is not None:
        sides = [(identifier, row["response"])]
    else:
        raise UserError(f"{where}: needs {SHAPES}; it has {', '.join(map(str, row)) or 'nothing'}")
    return [_conversation(_candidate_id(r, i), prompt + _messages(r, "assistant", where), where, **told) for i, r in sides]


def _candidate_id(response: Any, otherwise: str) -> str:
    return response.get("candidate_id", otherwise) if isinstance(response, Mapping) else otherwise


def _conversation(identifier: str, messages: list[dict], where: str, **told: Any) -> Item:
    *prompt, last = messages
    if last["role"] != "assistant" or not prompt:
        raise UserError(f"{where}: a conversation to score has a prompt and ends with an assistant's message")
    return Item(identifier, prompt, last["content"], **told)


def _messages(value: Any, role: str, where: str) -> list[dict]:
    if isinstance(value, Mapping) and "text" in value:  # a response as mlalign's candidates rows have it
        value = value["text"] or ""
    if isinstance(value, str):
        return rows.messages(value, role)
    good = isinstance(value, Sequence) and len(value) and all(isinstance(m, Mapping) and isinstance(m.get("content"), str) for m in value)
    if not good or not all("role" in m for m in value):
        raise UserError(f"{where}: expected text or a list of messages ({{role, content}}), got {type(value).__name__}")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _language(row: Mapping, where: str) -> str | None:
    told = next((row[name] for name in LANGUAGE_COLUMNS if row.get(name)), None)
    try:
        return languages.normalise(told) if told else None
    except UserError as error:
        raise UserError(*(f"{where}: {m}" for m in error.messages)) from None


def _reference(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
