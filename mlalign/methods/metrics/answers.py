"""Answers to prompts as arrays, and how items find their counterparts: in another language, or of
another policy.

Shapes: I items (prompts, or preference rows), n answers each at most.
"""

import dataclasses
from collections.abc import Iterable, Sequence
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
    parts: dict[str, list[str]] = dataclasses.field(
        default_factory=dict
    )  # key of metadata -> value of each item, "" where it has none

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[str, str, str, str]],
        prompt_bytes: np.ndarray,
        parts: dict[str, list[str]],
    ) -> "Items":
        """From (id, language, group, origin) of each item."""
        identifier, language, group, origin = ([row[k] for row in rows] for k in range(4))
        return cls(identifier, language, group, origin, prompt_bytes, parts)

    def rows(self) -> list[tuple[str, str, str, str]]:
        return list(zip(self.id, self.language, self.group, self.origin, strict=True))

    def __len__(self) -> int:
        return len(self.id)

    def occurrence(self) -> list[int]:
        """How often each item's id came before: items that several policies (of several seeds, say)
        answered come several times.
        """
        out: list[int] = []
        seen: dict[str, int] = {}
        for identifier in self.id:
            seen[identifier] = n = seen.get(identifier, -1) + 1
            out.append(n)
        return out


@dataclasses.dataclass(frozen=True)
class Answers:
    """Up to n answers to each of I items; of a preference row they are the chosen and the rejected
    one.

    All arrays are I x n; nan (None in `detected`) where something is not known or an item has fewer
    answers.
    """

    items: Items
    scores: dict[str, np.ndarray]
    lengths: dict[
        str, np.ndarray
    ]  # tokens, characters, bytes; truncated: 1.0 if an answer was cut at the limit
    detected: np.ndarray  # the language that an answer was found to be in

    def score(self, column: str) -> np.ndarray:
        """I x n; a column that nobody wrote is nan everywhere."""
        return self.scores.get(column, np.full(self.detected.shape, np.nan))

    @property
    def present(self) -> np.ndarray:
        """I x n: whether there is an answer."""
        return ~np.isnan(self.lengths["characters"])

    def only(self, among: np.ndarray) -> "Answers":
        """The answers of some items (I, bool)."""
        keep, told = np.flatnonzero(among), self.items.rows()
        parts = {key: [values[i] for i in keep] for key, values in self.items.parts.items()}
        items = Items.of([told[i] for i in keep], self.items.prompt_bytes[keep], parts)
        scores, lengths = (
            {name: a[keep] for name, a in arrays.items()} for arrays in (self.scores, self.lengths)
        )
        return Answers(items, scores, lengths, self.detected[keep])


def counterparts(items: Items, language: str) -> np.ndarray:
    """For each item the index of the same item in `language`; -1 if there is none, or it cannot be
    told which of several it is.

    The same: equal group and, where rows say so, kind; the k-th occurrence belongs to the k-th.
    """
    keys = _keys(items)
    found: dict[tuple, int] = {}
    for i, key in enumerate(keys):
        if items.language[i] == language:
            found[key] = -1 if key in found else i
    return np.array([found.get(key, -1) for key in keys], np.int64)


def _keys(items: Items) -> list[tuple]:
    kinds = items.parts.get("kind", [""] * len(items))
    return list(zip(items.group, items.occurrence(), kinds, strict=True))


def pairs(ours: Items, theirs: Items) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the items that both have, the k-th occurrence of an id with the k-th."""
    place = {key: j for j, key in enumerate(zip(theirs.id, theirs.occurrence(), strict=True))}
    found = [
        (i, place[key])
        for i, key in enumerate(zip(ours.id, ours.occurrence(), strict=True))
        if key in place
    ]
    both = np.array(found, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def stored(answers: Answers, by: str) -> Answers:
    """The answers stored in the items' references, one for each, as those of a policy.

    `by` compares with them: 1 won, 0.5 a tie, 0 lost. By that column they themselves are worth a
    tie.
    """
    n = len(answers.items)
    lengths = {unit: answers.lengths[f"stored.{unit}"][:, :1] for unit in ("characters", "bytes")}
    lengths["tokens"] = np.full((n, 1), np.nan)
    return Answers(
        answers.items, {by: np.full((n, 1), 0.5)}, lengths, np.full((n, 1), None, object)
    )


def padded(values: np.ndarray, sizes: np.ndarray, width: int) -> np.ndarray:
    """A flat array of all answers, and how many each item has -> I x width, filled with nan (None
    for objects).
    """
    out = np.full(
        (len(sizes), width),
        None if values.dtype == object else np.nan,
        values.dtype if values.dtype == object else np.float64,
    )
    out[np.arange(width) < sizes[:, None]] = values
    return out


def joined(parts: Sequence[Answers]) -> Answers:
    """Several sets of answers, one after another; a column that one lacks is nan there.

    `parts` is not empty.
    """
    width = max(p.detected.shape[1] for p in parts)
    items = Items.of(
        [row for p in parts for row in p.items.rows()],
        np.concatenate([p.items.prompt_bytes for p in parts]),
        {
            key: [v for p in parts for v in p.items.parts.get(key, [""] * len(p.items))]
            for key in _names(p.items.parts for p in parts)
        },
    )
    scores = {
        name: _stacked([p.score(name) for p in parts], width)
        for name in _names(p.scores for p in parts)
    }
    lengths = {name: _stacked([p.lengths[name] for p in parts], width) for name in parts[0].lengths}
    return Answers(items, scores, lengths, _stacked([p.detected for p in parts], width))


def _names(found: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in found for name in names))


def _stacked(arrays: Sequence[np.ndarray], width: int) -> np.ndarray:
    fill: Any = None if arrays[0].dtype == object else np.nan
    return np.concatenate(
        [np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=fill) for a in arrays]
    )
