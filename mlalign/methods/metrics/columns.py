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
# Tables of scores, each with: column there -> name here.
Marks = Sequence[tuple[pa.Table, Mapping[str, str]]]
Metadata = Mapping[str, Mapping[str, str]]  # row id -> key -> value


def of_candidates(
    table: pa.Table, marks: Marks, language_by: str, metadata: Metadata, keys: Sequence[str]
) -> tuple[Answers, np.ndarray]:
    """The answers of candidates rows with their scores, and how many of each row have none.

    `language_by` names the score whose table says in `response_lang_detected` what language an
    answer is in. `keys` are those of the metadata to keep.
    """
    responses = _array(table, "responses")
    flat = responses.flatten()
    sizes = _sizes(responses)
    width = int(sizes.max(initial=0))

    values: dict[str, np.ndarray] = {}
    detected = np.full(len(flat), None, object)
    is_scored = np.zeros(len(flat), bool)
    for scores, names in marks:
        places = _places(flat, scores)
        is_scored |= places >= 0
        for column, name in names.items():
            # Place -1 is the nan behind the column.
            numbers = np.append(_numbers(_array(scores, column)), np.nan)[places]
            before = values.get(name, np.nan)
            values[name] = np.where(np.isnan(numbers), before, numbers)
        if language_by in names.values():
            codes = np.array([*scores["response_lang_detected"].to_pylist(), None], object)
            detected = np.where(places >= 0, codes[places], detected)

    items = _items(_rows(table), _prompt_bytes(_array(table, "prompt")), metadata, keys)
    by_score = {name: padded(array, sizes, width) for name, array in values.items()}
    lengths = {name: padded(array, sizes, width) for name, array in _lengths(flat).items()}
    n_unscored = (padded(is_scored.astype(float), sizes, width) == 0).sum(1)
    return Answers(items, by_score, lengths, padded(detected, sizes, width)), n_unscored


def _places(flat: pa.StructArray, scores: pa.Table) -> np.ndarray:
    """Where each of N answers stands in a table of scores; -1 where it does not."""
    ids = _array(scores, "candidate_id")
    places = pc.index_in(flat.field("candidate_id"), value_set=ids)
    return np.asarray(pc.fill_null(places, -1)).astype(np.int64)


def with_stored(answers: Answers, table: pa.Table) -> Answers:
    """The answers of a table's rows, with the lengths of the answer stored in each row's reference.

    They are the lengths `stored.characters` and `stored.bytes`; nan where nothing is stored.
    """
    characters: list[float] = []
    in_bytes: list[float] = []
    for reference in table["reference"].to_pylist():
        text = json.loads(reference)["answer"] if reference else None
        if text is None:
            characters.append(math.nan)
            in_bytes.append(math.nan)
        else:
            characters.append(float(len(text)))
            in_bytes.append(float(len(text.encode())))

    shape = answers.detected.shape
    stored = {
        "stored.characters": np.broadcast_to(np.array(characters)[:, None], shape),
        "stored.bytes": np.broadcast_to(np.array(in_bytes)[:, None], shape),
    }
    return dataclasses.replace(answers, lengths={**answers.lengths, **stored})


def of_sides(marks: Marks, metadata: Metadata, keys: Sequence[str]) -> tuple[Answers, np.ndarray]:
    """The scores of preference rows (I x 2: chosen, rejected), and which rows have both (I)."""
    rows: dict[str, tuple[str, str, str, str]] = {}
    scores: dict[str, np.ndarray] = {}
    for table, _ in marks:
        for row in _rows(table):
            rows[row[0]] = row
    place_of = {identifier: i for i, identifier in enumerate(rows)}
    shape = (len(rows), len(SIDES))
    for _, names in marks:
        for name in names.values():
            scores[name] = np.full(shape, np.nan)

    is_scored = np.zeros(shape, bool)
    for table, names in marks:
        row = np.array([place_of[identifier] for identifier in table["id"].to_pylist()], np.int64)
        side = np.array([_side(name) for name in table["candidate_id"].to_pylist()], np.int64)
        is_scored[row, side] = True
        for column, name in names.items():
            numbers = _numbers(_array(table, column))
            before = scores[name][row, side]
            scores[name][row, side] = np.where(np.isnan(numbers), before, numbers)

    items = _items(list(rows.values()), np.full(len(rows), np.nan), metadata, keys)
    answers = Answers(items, scores, {}, np.full(shape, None, object))
    return answers, np.asarray(is_scored.all(1))


def _side(candidate_id: str) -> int:
    """0 for `ID:chosen`, 1 for `ID:rejected`."""
    return SIDES.index(candidate_id.rpartition(":")[2])


def of_metadata(table: pa.Table, keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """Row id -> those of the keys that its metadata (a JSON string) has."""
    ids = table["id"].to_pylist()
    texts = table["metadata"].to_pylist()
    by_id: dict[str, dict[str, str]] = {}
    for identifier, text in zip(ids, texts, strict=True):
        metadata = json.loads(text) if text else {}
        by_id[identifier] = {}
        for key in keys:
            if metadata.get(key) is not None:
                by_id[identifier][key] = str(metadata[key])
    return by_id


def _rows(table: pa.Table) -> list[tuple[str, str, str, str]]:
    columns = [table[name].to_pylist() for name in ITEM]
    return list(zip(*columns, strict=True))


def _items(
    rows: Sequence[tuple[str, str, str, str]],
    prompt_bytes: np.ndarray,
    metadata: Metadata,
    keys: Sequence[str],
) -> Items:
    parts = {}
    for key in keys:
        values = [metadata.get(row[0], {}).get(key, "") for row in rows]
        if any(values):
            parts[key] = values
    return Items.of(rows, prompt_bytes, parts)


def _lengths(flat: pa.StructArray) -> dict[str, np.ndarray]:
    """Of N answers: tokens, characters, bytes; truncated: 1.0 if cut at the limit."""
    text = pc.fill_null(flat.field("text"), "")
    columns = {
        "tokens": flat.field("n_tokens"),
        "characters": pc.utf8_length(text),
        "bytes": pc.binary_length(text),
        "truncated": pc.equal(flat.field("finish_reason"), "length"),
    }
    return {name: _numbers(values) for name, values in columns.items()}


def _prompt_bytes(prompts: pa.ListArray) -> np.ndarray:
    """UTF-8 bytes of what the user says in each of N conversations."""
    messages = prompts.flatten()
    n_bytes = _numbers(pc.binary_length(pc.fill_null(messages.field("content"), "")))
    is_user = _numbers(pc.equal(messages.field("role"), "user"))
    conversation = np.repeat(np.arange(len(prompts)), _sizes(prompts))
    return np.bincount(conversation, n_bytes * is_user, len(prompts))


def _array(table: pa.Table, column: str) -> Any:
    return table[column].combine_chunks()


def _sizes(lists: pa.ListArray) -> np.ndarray:
    """The length of each list; 0 for null."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)


def _numbers(values: pa.Array) -> np.ndarray:
    """Numbers or truth values as floats; null becomes nan."""
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
