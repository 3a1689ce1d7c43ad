"""Best of k: the answer that a score picks among k samples, and that a perfect selector picks.

Unbiased for every k <= n: the mean over all subsets of k of an item's n answers, without listing
them. For values of 0 and 1 the oracle is pass@k, 1 - C(n - c, k) / C(n, k) (Chen et al. 2021,
"Evaluating Large Language Models Trained on Code", equation 1).
"""

from math import comb

import numpy as np

from mlalign.methods.metrics.ratios import divided


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
    sortable = np.where(known, scores, -np.inf)
    order = np.argsort(sortable, axis=1, kind="stable")
    score = np.take_along_axis(scores, order, axis=1)
    value = np.take_along_axis(values, order, axis=1)
    known = np.take_along_axis(known, order, axis=1)
    n = scores.shape[1]
    m = known.sum(axis=1, keepdims=True)
    n_before = n - m
    rank = np.where(known, np.arange(n) - n_before + 1, 0)

    first, last = _tie_blocks(score, known)
    lowest = np.take_along_axis(rank, first, axis=1)
    highest = np.take_along_axis(rank, last, axis=1)
    below = np.maximum(lowest - 1, 0)
    n_ties = last - first + 1
    # Subsets whose best answer is in the block, shared by the answers in it.
    subsets = _subsets(n, k)
    weight = (subsets[m, highest] - subsets[m, below]) / n_ties

    counted = np.where(known, value, 0.0)
    best = np.where(known, weight * counted, 0.0).sum(axis=1)
    n_in_item = m[:, 0]
    n_subsets = subsets[n_in_item, n_in_item]
    return divided(best, n_subsets)


def _tie_blocks(score: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the block of equal scores that an answer is in begins and ends.

    score, known: I x n, sorted. Returns two arrays of I x n.
    """
    n = score.shape[1]
    places = np.arange(n)
    starts = np.ones_like(known)
    differs = score[:, 1:] != score[:, :-1]
    starts[:, 1:] = differs | ~known[:, :-1]
    # The last start so far, from left to right.
    start_places = np.where(starts, places, 0)
    first = np.maximum.accumulate(start_places, axis=1)

    ends = np.ones_like(known)
    ends[:, :-1] = starts[:, 1:]
    # The next end, from right to left.
    end_places = np.where(ends, places, n - 1)
    reversed_ends = end_places[:, ::-1]
    last = np.minimum.accumulate(reversed_ends, axis=1)[:, ::-1]
    return first, last


def _subsets(n: int, k: int | None) -> np.ndarray:
    """[m, r] -> the number of subsets of size k (m if None) with no rank above r; 0 for m = 0."""
    counts = np.zeros((n + 1, n + 1))
    for m in range(1, n + 1):
        size = k or m
        counts[m] = [comb(rank, size) for rank in range(n + 1)]
    return counts


def oracle(values: np.ndarray, k: int | None = None) -> np.ndarray:
    """The expected highest value among k random answers. values: I x n; returns I."""
    return selected(values, values, k)


def sizes(n: int) -> list[int]:
    """The powers of two up to n, and n itself: 6 -> [1, 2, 4, 6]."""
    if n == 0:
        return []
    powers = {2**i for i in range(n.bit_length())}
    return sorted(powers | {n})
