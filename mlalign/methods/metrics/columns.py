"""Arrow tables of candidates, preference rows' scores and metadata -> answers as arrays.

No file is opened here.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlalign.methods.metrics.answers import Answers, Items, padded

SIDES = ("chosen", "rejected")
ITEM = ("id", "prompt_lang", "group_id", "origin")
Marks = Sequence[
    tuple[pa.Table, Mapping[str, str]]
]  # tables of scores, each with: column there -> name here
Metadata = Mapping[str, Mapping[str, str]]  # row id -> key -> value


def of_candidates(
    table: pa.Table, marks: Marks, language_by: str, metadata: Metadata, keys: Sequence[str]
) -> tuple[Answers, np.ndarray]:
    """The answers of candidates rows with their scores, and how many of each row have none in any
    table.

    `language_by` names the score whose table says in `response_lang_detected` what language an
    answer is in.
    """
    responses = _array(table, "responses")
    flat, sizes = responses.flatten(), _sizes(responses)
    width = int(sizes.max(initial=0))
    values: dict[str, np.ndarray] = {}
    detected, scored = np.full(len(flat), None, object), np.zeros(len(flat), bool)
    for scores, names in marks:
        given = pc.fill_null(
            pc.index_in(flat.field("candidate_id"), value_set=_array(scores, "candidate_id")), -1
        )
        at = np.asarray(given).astype(np.int64)  # where each answer stands in the table
        scored |= at >= 0
        for old, new in names.items():
            found = np.append(_numbers(_array(scores, old)), np.nan)[at]
            values[new] = np.where(np.isnan(found), values.get(new, np.nan), found)
        if language_by in names.values():
            told = np.array([*scores["response_lang_detected"].to_pylist(), None], object)
            detected = np.where(at >= 0, told[at], detected)
    items = _items(_rows(table), _prompt_bytes(_array(table, "prompt")), metadata, keys)
    by_score, lengths = (
        {name: padded(a, sizes, width) for name, a in arrays.items()}
        for arrays in (values, _lengths(flat))
    )
    without = (padded(scored.astype(float), sizes, width) == 0).sum(1)
    return Answers(items, by_score, lengths, padded(detected, sizes, width)), without


def with_stored(answers: Answers, table: pa.Table) -> Answers:
    """The answers of a table's rows, with the lengths of the answer stored in each row's reference.

    They are the lengths `stored.characters` and `stored.bytes`; nan where nothing is stored.
    """
    texts = [
        json.loads(text)["answer"] if text else None for text in table["reference"].to_pylist()
    ]
    characters = [math.nan if text is None else float(len(text)) for text in texts]
    in_bytes = [math.nan if text is None else float(len(text.encode())) for text in texts]
    shape = answers.detected.shape
    stored = {
        "stored.characters": np.broadcast_to(np.array(characters)[:, None], shape),
        "stored.bytes": np.broadcast_to(np.array(in_bytes)[:, None], shape),
    }
    return dataclasses.replace(answers, lengths={**answers.lengths, **stored})


def of_sides(marks: Marks, metadata: Metadata, keys: Sequence[str]) -> tuple[Answers, np.ndarray]:
    """The scores of preference rows (I x 2: chosen, rejected), and for each row whether both sides
    have any.
    """
    common = {row[0]: row for sides, _ in marks for row in _rows(sides)}
    place = {identifier: i for i, identifier in enumerate(common)}
    shape = (len(place), 2)
    scored, found = (
        np.zeros(shape, bool),
        {name: np.full(shape, np.nan) for _, names in marks for name in names.values()},
    )
    for sides, names in marks:
        row = np.array([place[identifier] for identifier in sides["id"].to_pylist()], np.int64)
        side = np.array(
            [SIDES.index(c.rpartition(":")[2]) for c in sides["candidate_id"].to_pylist()], np.int64
        )
        scored[row, side] = True
        for old, new in names.items():
            numbers = _numbers(_array(sides, old))
            found[new][row, side] = np.where(np.isnan(numbers), found[new][row, side], numbers)
    items = _items(list(common.values()), np.full(len(place), np.nan), metadata, keys)
    return Answers(items, found, {}, np.full(shape, None, object)), np.asarray(scored.all(1))


def of_metadata(table: pa.Table, keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """Row id -> those of the keys that its metadata (a JSON string) has."""
    out = {}
    for identifier, text in zip(
        table["id"].to_pylist(), table["metadata"].to_pylist(), strict=True
    ):
        told = json.loads(text) if text else {}
        out[identifier] = {key: str(told[key]) for key in keys if told.get(key) is not None}
    return out


def _rows(table: pa.Table) -> list[tuple[str, str, str, str]]:
    return list(zip(*(table[c].to_pylist() for c in ITEM), strict=True))


def _items(
    rows: Sequence[tuple[str, str, str, str]],
    prompt_bytes: np.ndarray,
    metadata: Metadata,
    keys: Sequence[str],
) -> Items:
    parts = {key: [metadata.get(row[0], {}).get(key, "") for row in rows] for key in keys}
    return Items.of(
        rows, prompt_bytes, {key: values for key, values in parts.items() if any(values)}
    )


def _lengths(flat: pa.StructArray) -> dict[str, np.ndarray]:
    """Of N answers: tokens, characters, bytes; truncated: 1.0 if cut at the limit."""
    text = pc.fill_null(flat.field("text"), "")
    found = {
        "tokens": flat.field("n_tokens"),
        "characters": pc.utf8_length(text),
        "bytes": pc.binary_length(text),
        "truncated": pc.equal(flat.field("finish_reason"), "length"),
    }
    return {name: _numbers(values) for name, values in found.items()}


def _prompt_bytes(prompts: pa.ListArray) -> np.ndarray:
    """UTF-8 bytes of what the user says in each of N conversations."""
    flat = prompts.flatten()
    said = _numbers(pc.binary_length(pc.fill_null(flat.field("content"), ""))) * _numbers(
        pc.equal(flat.field("role"), "user")
    )
    return np.bincount(np.repeat(np.arange(len(prompts)), _sizes(prompts)), said, len(prompts))


def _array(table: pa.Table, column: str) -> Any:
    return table[column].combine_chunks()


def _sizes(lists: pa.ListArray) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)


def _numbers(values: pa.Array) -> np.ndarray:
    """Numbers or truth values as floats; null becomes nan."""
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
