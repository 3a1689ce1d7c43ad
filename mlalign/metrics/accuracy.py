"""Accuracy of reward models on preference rows, of answers, and of what a score would select among them."""

import math
from collections.abc import Sequence

from mlalign.metrics import Item


def mean_score(item: Item, column: str) -> float | None:
    """Mean of a score column over the item's answers that have a value; None if none has."""
    return mean([a.scores.get(column) for a in item.answers])


def mean_tokens(item: Item) -> float | None:
    return mean([a.n_tokens for a in item.answers])


def mean_characters(item: Item) -> float | None:
    return mean([a.n_characters for a in item.answers])


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there; None if none is."""
    present = [v for v in values if v is not None]
    return math.fsum(present) / len(present) if present else None


def reward_accuracy(item: Item, column: str) -> float | None:
    """1 if the chosen side scores higher, 0.5 for a tie, 0 if lower; None if a side has no score."""
    chosen, rejected = (a.scores.get(column) for a in item.answers)
    if chosen is None or rejected is None:
        return None
    return 1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0


def tie(item: Item, column: str) -> float | None:
    """1 if both sides have the same score, else 0; None if a side has no score."""
    value = reward_accuracy(item, column)
    return None if value is None else float(value == 0.5)


def selected(item: Item, by: str, column: str) -> float | None:
    """`column` of the answer that `by` scores highest: best-of-n as a metric. Equal highest scores count in equal parts."""
    both = [(a.scores.get(by), a.scores.get(column)) for a in item.answers]
    known = [(score, value) for score, value in both if score is not None and value is not None]
    best = max((score for score, _ in known), default=None)
    return mean([value for score, value in known if score == best])


def oracle(item: Item, column: str) -> float | None:
    """The highest value of `column` among the answers: what a perfect selector would reach."""
    values = [a.scores.get(column) for a in item.answers]
    return max((v for v in values if v is not None), default=None)
