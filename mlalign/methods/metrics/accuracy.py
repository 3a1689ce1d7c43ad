"""Means over answers, and verdicts of reward models on preference rows.

Arrays are I x n as in `mlalign.methods.metrics.answers`. Functions called `…_columns` return the
I x K numbers that are summed over items before a ratio is taken; nan where nothing is observed.
"""

import numpy as np


def mean(values: np.ndarray) -> np.ndarray:
    """The mean of each item's known values; nan without any. I x n -> I."""
    n_known = (~np.isnan(values)).sum(1)
    means = np.full(len(values), np.nan)
    return np.divide(np.nansum(values, 1), n_known, out=means, where=n_known > 0)


def mean_columns(values: np.ndarray) -> np.ndarray:
    """The value of each item, and 1: a mean in which every item has the same weight.

    I or I x n -> I x 2.
    """
    each = mean(values) if values.ndim == 2 else values
    return np.stack([each, np.where(np.isnan(each), np.nan, 1.0)], 1)


def sum_columns(*values: np.ndarray) -> np.ndarray:
    """Sums over the answers for which all of the K arrays (I x n) have a value. I x K."""
    known = ~np.isnan(np.stack(values)).any(0)
    sums = np.stack([np.where(known, v, 0.0).sum(1) for v in values], 1)
    return np.where(known.any(1)[:, None], sums, np.nan)


def verdict(scores: np.ndarray) -> np.ndarray:
    """1 if the chosen side scores higher, 0.5 for a tie, 0 if lower; nan if a score is missing.

    I x 2 (chosen, rejected) -> I.
    """
    chosen = scores[:, 0]
    rejected = scores[:, 1]
    value = np.where(chosen > rejected, 1.0, np.where(chosen == rejected, 0.5, 0.0))
    return np.where(np.isnan(chosen) | np.isnan(rejected), np.nan, value)


def tie(verdicts: np.ndarray) -> np.ndarray:
    """1 for a tie, else 0. I -> I."""
    return np.where(np.isnan(verdicts), np.nan, (verdicts == 0.5).astype(float))


def agreement_columns(verdicts: np.ndarray, counterpart: np.ndarray) -> np.ndarray:
    """Verdicts (1, 0.5, 0) on an item and on its counterpart, as a 3 x 3 table of counts.

    verdicts: I; counterpart: I indices, -1 for none. Returns I x 9. Items that are their own
    counterpart are left out.
    """
    other = np.where(counterpart < 0, np.nan, verdicts[counterpart])
    is_other = counterpart != np.arange(len(verdicts))
    known = ~np.isnan(verdicts) & ~np.isnan(other) & is_other
    cell = np.where(known, 6 * verdicts + 2 * other, 0).astype(int)
    return np.where(known[:, None], np.eye(9)[cell], np.nan)


def on_diagonal(columns: np.ndarray) -> np.ndarray:
    """Of m x m tables of counts: how many are on the diagonal, and in all. I x m*m -> I x 2."""
    m = round(columns.shape[1] ** 0.5)
    return np.stack([columns[:, :: m + 1].sum(1), columns.sum(1)], 1)
