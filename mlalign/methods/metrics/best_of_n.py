"""Best of k: the answer that a score picks among k samples, and that a perfect selector picks.

Unbiased for every k <= n: the mean over all subsets of k of an item's n answers, without listing
them. For values of 0 and 1 the oracle is pass@k, 1 - C(n - c, k) / C(n, k) (Chen et al. 2021,
"Evaluating Large Language Models Trained on Code", equation 1).
"""

from math import comb

import numpy as np


def selected(scores: np.ndarray, values: np.ndarray, k: int | None = None) -> np.ndarray:
    """The expected value of the answer with the highest score among k random ones.

    Equal scores share their chance equally.

    scores, values: I x n; answers that lack either do not take part. k: None for all of an item's
    answers. Returns I; nan where an item has fewer than k answers.

    The answer of rank r (1 is the lowest) of m is the best in C(r - 1, k - 1) of all C(m, k)
    subsets. A block of ties shares the sum of its ranks' subsets.
    """
    known = ~(np.isnan(scores) | np.isnan(values))
    # Answers that do not take part come first.
    order = np.argsort(np.where(known, scores, -np.inf), axis=1, kind="stable")
    score = np.take_along_axis(scores, order, axis=1)
    value = np.take_along_axis(values, order, axis=1)
    known = np.take_along_axis(known, order, axis=1)
    n_items, n = scores.shape
    m = known.sum(1, keepdims=True)
    rank = np.where(known, np.arange(n) - (n - m) + 1, 0)

    first, last = _tie_blocks(score, known)
    low = np.take_along_axis(rank, first, axis=1)
    high = np.take_along_axis(rank, last, axis=1)
    subsets = _subsets(n, k)
    weight = (subsets[m, high] - subsets[m, np.maximum(low - 1, 0)]) / (last - first + 1)

    best = np.where(known, weight * np.where(known, value, 0.0), 0.0).sum(1)
    total = subsets[m[:, 0], m[:, 0]]
    return np.divide(best, total, out=np.full(n_items, np.nan), where=total > 0)


def _tie_blocks(score: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the block of equal scores that an answer is in begins and ends.

    score, known: I x n, sorted. Returns two arrays of I x n.
    """
    n = score.shape[1]
    starts = np.ones_like(known)
    starts[:, 1:] = (score[:, 1:] != score[:, :-1]) | ~known[:, :-1]
    first = np.maximum.accumulate(np.where(starts, np.arange(n), 0), axis=1)

    ends = np.ones_like(known)
    ends[:, :-1] = starts[:, 1:]
    last_reversed = np.where(ends, np.arange(n), n - 1)[:, ::-1]
    last = np.minimum.accumulate(last_reversed, axis=1)[:, ::-1]
    return first, last


def _subsets(n: int, k: int | None) -> np.ndarray:
    """[m, r] -> the number of subsets of size k (m if None) with no rank above r; 0 for m = 0."""
    counts = np.zeros((n + 1, n + 1))
    for m in range(1, n + 1):
        counts[m] = [comb(rank, k or m) for rank in range(n + 1)]
    return counts


def oracle(values: np.ndarray, k: int | None = None) -> np.ndarray:
    """The expected highest value among k random answers. values: I x n; returns I."""
    return selected(values, values, k)


def sizes(n: int) -> list[int]:
    """The powers of two up to n, and n itself: 6 -> [1, 2, 4, 6]."""
    powers = {2**i for i in range(n.bit_length())}
    return sorted(powers | {n}) if n else []
