"""Answers to prompts as arrays, and the counterparts of items.

An item's counterpart is the same item in another language, or as another policy answered it.

Shapes: I items (prompts, or preference rows), n answers each at most.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Items:
    """I prompts, or preference rows, in a fixed order."""

    id: list[str]
    language: list[str]
    group: list[str]
    origin: list[str]
    prompt_bytes: np.ndarray  # I, in UTF-8; nan where not known
    # Key of metadata -> value of each item, "" where it has none.
    parts: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[str, str, str, str]],
        prompt_bytes: np.ndarray,
        parts: dict[str, list[str]],
    ) -> "Items":
        """From (id, language, group, origin) of each item."""
        return cls(
            id=[row[0] for row in rows],
            language=[row[1] for row in rows],
            group=[row[2] for row in rows],
            origin=[row[3] for row in rows],
            prompt_bytes=prompt_bytes,
            parts=parts,
        )

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(id, language, group, origin) of each item."""
        return list(zip(self.id, self.language, self.group, self.origin, strict=True))

    def __len__(self) -> int:
        return len(self.id)

    def occurrence(self) -> list[int]:
        """How often each item's id came before. ["a", "b", "a"]  ->  [0, 0, 1]

        An id comes several times if several policies (of several seeds, say) answered the item.
        """
        counts: Counter[str] = Counter()
        n_before = []
        for identifier in self.id:
            n_before.append(counts[identifier])
            counts[identifier] += 1
        return n_before


@dataclasses.dataclass(frozen=True)
class Answers:
    """Up to n answers to each of I items; a preference row has two, the chosen and the rejected.

    All arrays are I x n; nan (None in `detected`) where something is not known or an item has fewer
    answers.
    """

    items: Items
    scores: dict[str, np.ndarray]
    # tokens, characters, bytes; truncated: 1.0 if an answer was cut at the limit
    lengths: dict[str, np.ndarray]
    detected: np.ndarray  # the language that an answer is in

    def score(self, column: str) -> np.ndarray:
        """I x n; a column that nobody wrote is nan everywhere."""
        if column in self.scores:
            return self.scores[column]
        return np.full(self.detected.shape, np.nan)

    @property
    def present(self) -> np.ndarray:
        """I x n: whether there is an answer."""
        return ~np.isnan(self.lengths["characters"])

    def only(self, among: np.ndarray) -> "Answers":
        """The answers of some items (I, bool)."""
        places = np.flatnonzero(among)
        rows = self.items.rows()
        parts = {}
        for key, values in self.items.parts.items():
            parts[key] = [values[i] for i in places]
        kept_rows = [rows[i] for i in places]
        return Answers(
            items=Items.of(kept_rows, self.items.prompt_bytes[places], parts),
            scores={name: array[places] for name, array in self.scores.items()},
            lengths={name: array[places] for name, array in self.lengths.items()},
            detected=self.detected[places],
        )


def counterparts(items: Items, language: str) -> np.ndarray:
    """For each item the index of the same item in `language`. I

    It is -1 if there is none, or if there are several and nothing tells which one it is. Items are
    the same if their groups are equal and, where rows say so, their kinds. The k-th occurrence
    belongs to the k-th.
    """
    keys = _keys(items)
    place_of: dict[tuple, int] = {}
    for i, key in enumerate(keys):
        if items.language[i] == language:
            place_of[key] = -1 if key in place_of else i
    return np.array([place_of.get(key, -1) for key in keys], np.int64)


def _keys(items: Items) -> list[tuple]:
    """(group, occurrence, kind) of each item."""
    kinds = items.parts.get("kind", [""] * len(items))
    return list(zip(items.group, items.occurrence(), kinds, strict=True))


def pairs(ours: Items, theirs: Items) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the items that both have, the k-th occurrence of an id with the k-th."""
    their_keys = zip(theirs.id, theirs.occurrence(), strict=True)
    place_of = {key: j for j, key in enumerate(their_keys)}
    our_keys = zip(ours.id, ours.occurrence(), strict=True)
    i_ours = []
    j_theirs = []
    for i, key in enumerate(our_keys):
        if key in place_of:
            i_ours.append(i)
            j_theirs.append(place_of[key])
    return np.array(i_ours, np.int64), np.array(j_theirs, np.int64)


def stored(answers: Answers, by: str) -> Answers:
    """The answers stored in the items' references, one for each, as those of a policy.

    The column `by` compares with them: 1 won, 0.5 a tie, 0 lost. So they themselves have 0.5 there.
    """
    shape = (len(answers.items), 1)
    lengths = {"tokens": np.full(shape, np.nan)}
    for unit in ("characters", "bytes"):
        every_answer = answers.lengths[f"stored.{unit}"]
        lengths[unit] = every_answer[:, :1]
    return Answers(
        items=answers.items,
        scores={by: np.full(shape, 0.5)},
        lengths=lengths,
        detected=np.full(shape, None, object),
    )


def padded(values: np.ndarray, sizes: np.ndarray, width: int) -> np.ndarray:
    """I x width, filled up with nan (None for objects).

    values: those of all answers, one item after another; sizes: I, how many answers each item has.

        [1, 2, 3], sizes [2, 1], width 2  ->  [[1, 2], [3, nan]]
    """
    shape = (len(sizes), width)
    if values.dtype == object:
        rows = np.full(shape, None, object)
    else:
        rows = np.full(shape, np.nan)
    is_answer = np.arange(width) < sizes[:, None]
    rows[is_answer] = values
    return rows


def joined(parts: Sequence[Answers]) -> Answers:
    """Several sets of answers, one after another; a column that one lacks is nan there.

    `parts` is not empty.
    """
    width = max(part.detected.shape[1] for part in parts)

    def stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([_widened(array, width) for array in arrays])

    scores = {}
    for name in _keys_of_all([part.scores for part in parts]):
        scores[name] = stacked([part.score(name) for part in parts])
    lengths = {}
    for name in parts[0].lengths:
        lengths[name] = stacked([part.lengths[name] for part in parts])
    return Answers(
        items=_joined_items([part.items for part in parts]),
        scores=scores,
        lengths=lengths,
        detected=stacked([part.detected for part in parts]),
    )


def _joined_items(parts: Sequence[Items]) -> Items:
    rows: list[tuple[str, str, str, str]] = []
    for items in parts:
        rows += items.rows()
    metadata: dict[str, list[str]] = {}
    for key in _keys_of_all([items.parts for items in parts]):
        metadata[key] = []
        for items in parts:
            metadata[key] += items.parts.get(key, [""] * len(items))
    prompt_bytes = np.concatenate([items.prompt_bytes for items in parts])
    return Items.of(rows, prompt_bytes, metadata)


def _keys_of_all(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of several mappings, each once, in the order in which they first come."""
    keys: dict[str, None] = {}
    for mapping in mappings:
        keys |= dict.fromkeys(mapping)
    return list(keys)


def _widened(array: np.ndarray, width: int) -> np.ndarray:
    """I x width: an array of I x n with further columns of nan (None for objects)."""
    fill: Any = None if array.dtype == object else np.nan
    n_missing = width - array.shape[1]
    return np.pad(array, ((0, 0), (0, n_missing)), constant_values=fill)
