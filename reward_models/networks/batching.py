"""Batches by token budget: a pure function of the items, so a shard has always the same batches."""

from collections.abc import Sequence
from typing import Any


def pack(
    lengths: Sequence[int],
    ids: Sequence[Any],
    budget: int,
    padding: int | None = None,
) -> list[list[int]]:
    """Positions of the items in batches of at most `budget` tokens, padding counted.

    An item that is longer gets a batch of its own. Items are ordered by (length, id), so their
    order and position in the input do not matter. No batch gets more than `padding` tokens of
    padding: what one more batch costs, in tokens. None for no such limit.
    """
    batches: list[list[int]] = []
    padded = 0
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], ids[i])):
        if batches:
            batch, length = batches[-1], lengths[i]
            more = padded + len(batch) * (length - lengths[batch[-1]])
            within_budget = (len(batch) + 1) * length <= budget
            if within_budget and (padding is None or more <= padding):
                batch.append(i)
                padded = more
                continue
        batches.append([i])
        padded = 0
    return batches
