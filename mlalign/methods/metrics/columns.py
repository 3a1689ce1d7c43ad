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
            before = values.get(name, np.nan)
            numbers = _numbers_at(places, scores, column)
            values[name] = np.where(np.isnan(numbers), before, numbers)
        if language_by in names.values():
            codes = scores["response_lang_detected"].to_pylist()
            by_place = np.array([*codes, None], object)
            detected = np.where(places >= 0, by_place[places], detected)

    def by_item(array: np.ndarray) -> np.ndarray:
        return padded(array, sizes, width)

    prompt_bytes = _prompt_bytes(_array(table, "prompt"))
    answers = Answers(
        items=_items(_rows(table), prompt_bytes, metadata, keys),
        scores={name: by_item(array) for name, array in values.items()},
        lengths={name: by_item(array) for name, array in _lengths(flat).items()},
        detected=by_item(detected),
    )
    is_unscored = by_item(is_scored.astype(float)) == 0
    return answers, is_unscored.sum(axis=1)


def _numbers_at(places: np.ndarray, scores: pa.Table, column: str) -> np.ndarray:
    """The numbers of a column at some places; nan at place -1."""
    numbers = _numbers(_array(scores, column))
    with_nan = np.append(numbers, np.nan)
    return with_nan[places]


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

    lengths = dict(answers.lengths)
    shape = answers.detected.shape
    for unit, values in {"characters": characters, "bytes": in_bytes}.items():
        column = np.array(values)[:, None]
        lengths[f"stored.{unit}"] = np.broadcast_to(column, shape)
    return dataclasses.replace(answers, lengths=lengths)


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
        places = [place_of[identifier] for identifier in table["id"].to_pylist()]
        sides = [_side(identifier) for identifier in table["candidate_id"].to_pylist()]
        cells = (np.array(places, np.int64), np.array(sides, np.int64))
        is_scored[cells] = True
        for column, name in names.items():
            numbers = _numbers(_array(table, column))
            before = scores[name][cells]
            scores[name][cells] = np.where(np.isnan(numbers), before, numbers)

    prompt_bytes = np.full(len(rows), np.nan)
    items = _items(list(rows.values()), prompt_bytes, metadata, keys)
    detected = np.full(shape, None, object)
    return Answers(items, scores, {}, detected), np.asarray(is_scored.all(axis=1))


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
    n = len(prompts)
    messages = prompts.flatten()
    content = pc.fill_null(messages.field("content"), "")
    n_bytes = _numbers(pc.binary_length(content))
    is_user = _numbers(pc.equal(messages.field("role"), "user"))
    conversation = np.repeat(np.arange(n), _sizes(prompts))
    return np.bincount(conversation, n_bytes * is_user, n)


def _array(table: pa.Table, column: str) -> Any:
    return table[column].combine_chunks()


def _sizes(lists: pa.ListArray) -> np.ndarray:
    """The length of each list; 0 for null."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    return np.asarray(lengths).astype(np.int64)


def _numbers(values: pa.Array) -> np.ndarray:
    """Numbers or truth values as floats; null becomes nan."""
    floats = values.cast(pa.float64())
    return np.asarray(floats.to_numpy(zero_copy_only=False), np.float64)
