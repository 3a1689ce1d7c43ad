"""Best of k: the answer that a score would pick among k samples, and the one that a perfect selector would pick.

Unbiased for every k <= n: the mean over all subsets of k of an item's n answers, computed without listing them. For values of 0 and 1
the oracle is pass@k, 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1).
"""

from math import comb

import numpy as np


def selected(scores: np.ndarray, values: np.ndarray, k: int | None = None) -> np.ndarray:
    """The value of the answer with the highest score among k at random; of equal ones each counts in equal parts.

    scores, values: I x n; answers that lack either do not take part. k None: all that an item has. Returns I; nan where an item
    has fewer than k answers.

    The answer of rank r (1 the lowest) of m is the best of C(r - 1, k - 1) subsets of all C(m, k); a block of ties shares the sum
    of its ranks.
    """
    known = ~(np.isnan(scores) | np.isnan(values))
    order = np.argsort(np.where(known, scores, -np.inf), axis=1, kind="stable")  # those that do not take part first
    score, value, known = (np.take_along_axis(a, order, axis=1) for a in (scores, values, known))
    m = known.sum(1, keepdims=True)
    n_items, n = scores.shape
    rank = np.where(known, np.arange(n) - (n - m) + 1, 0)  # I x n
    starts = np.ones_like(known)
    starts[:, 1:] = (score[:, 1:] != score[:, :-1]) | ~known[:, :-1]
    first = np.maximum.accumulate(np.where(starts, np.arange(n), 0), axis=1)  # where the block of ties of each answer begins
    ends = np.ones_like(known)
    ends[:, :-1] = starts[:, 1:]
    last = np.minimum.accumulate(np.where(ends, np.arange(n), n - 1)[:, ::-1], axis=1)[:, ::-1]
    subsets = _subsets(n, k)  # m x rank
    low, high = (np.take_along_axis(rank, place, axis=1) for place in (first, last))
    weight = (subsets[m, high] - subsets[m, np.maximum(low - 1, 0)]) / (last - first + 1)
    total = subsets[m[:, 0], m[:, 0]]
    best = np.where(known, weight * np.where(known, value, 0.0), 0.0).sum(1)
    return np.divide(best, total, out=np.full(n_items, np.nan), where=total > 0)


def _subsets(n: int, k: int | None) -> np.ndarray:
    """[m, r] -> how many subsets of size k (all m if None) have no rank above r."""
    return np.array([[float(comb(r, k or m)) if m else 0.0 for r in range(n + 1)] for m in range(n + 1)])


def oracle(values: np.ndarray, k: int | None = None) -> np.ndarray:
    """The highest value among k answers at random. values: I x n; returns I."""
    return selected(values, values, k)


def sizes(n: int) -> list[int]:
    """1, 2, 4, … and n."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | ({n} if n else set()))
