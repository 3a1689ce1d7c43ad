"""Intervals and agreement of measured verdicts. Pure: arrays in, arrays out.

Shapes: B bootstrap replicates, C categories, G groups, K cells (languages, subsets, …), N
observations, V kinds of value.

The bootstrap draws G groups with replacement and takes each group whole: an item with all its
translations and answers. This keeps their dependence (cluster bootstrap: Davison & Hinkley 1997,
"Bootstrap Methods and their Application", section 3.8). Intervals are percentiles of the
replicates (Efron & Tibshirani 1993, chapter 13).
"""

from collections.abc import Iterator

import numpy as np


def draws(n_groups: int, n: int, seed: int) -> Iterator[np.ndarray]:
    """For n replicates, how often each group is drawn: (G), sums to G; fixed by the arguments."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        drawn = rng.integers(0, n_groups, n_groups)
        yield np.bincount(drawn, minlength=n_groups).astype(np.float64)


def sums(values: np.ndarray, cells: np.ndarray, n_cells: int) -> np.ndarray:
    """The sum of each kind of value in each cell: V x N and N to V x K."""
    return np.stack([np.bincount(cells, kind, n_cells) for kind in values])


def resampled_sums(
    values: np.ndarray,
    groups: np.ndarray,
    cells: np.ndarray,
    shape: tuple[int, int],
    n: int,
    seed: int,
) -> np.ndarray:
    """`sums` of n bootstrap replicates: B x V x K.

    `groups` are numbers below G, `shape` is (G, K); the order of observations does not matter.
    Memory is of the order of N and of the result, never B x N.
    """
    order = np.lexsort((*values, groups, cells))
    ordered_values = values[:, order]
    ordered_groups = groups[order]
    used_cells, starts = np.unique(cells[order], return_index=True)

    n_groups, n_cells = shape
    replicates = np.zeros((n, len(values), n_cells))
    for replicate, times in zip(replicates, draws(n_groups, n, seed), strict=True):
        weighted = ordered_values * times[ordered_groups]
        replicate[:, used_cells] = np.add.reduceat(weighted, starts, axis=1)
    return replicates


def interval(replicates: np.ndarray, confidence: float) -> tuple[float, float]:
    """Lower and upper percentile bounds of B replicates; nan ones are left out."""
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(replicates, [tail, 100 - tail])
    return float(low), float(high)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient; nan where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def agreement(counts: np.ndarray) -> np.ndarray:
    """The share of equal labels in tables ... x C x C; nan for an empty table."""
    n_equal = np.trace(counts, axis1=-2, axis2=-1)
    return ratio(n_equal, counts.sum((-2, -1)))


def kappa(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa (Cohen 1960) of tables of two raters' labels, ... x C x C.

    (p_o - p_e) / (1 - p_e), where p_o is `agreement` and p_e is the sum over labels of the product
    of both raters' shares. nan where p_e is 1: both raters only ever give one label.
    """
    total = counts.sum((-2, -1))
    products = counts.sum(-1) * counts.sum(-2)
    expected = ratio(products.sum(-1), total**2)
    return ratio(agreement(counts) - expected, 1 - expected)
