"""Means over answers, and verdicts of reward models on preference rows.

Arrays are I x n as in `mlalign.methods.metrics.answers`. Functions called `…_columns` return the
I x K numbers that are summed over items before a ratio is taken; nan where nothing is observed.
"""

import numpy as np

from mlalign.methods.metrics.ratios import divided


def mean(values: np.ndarray) -> np.ndarray:
    """The mean of each item's known values; nan without any. I x n -> I."""
    is_known = ~np.isnan(values)
    n_known = is_known.sum(axis=1)
    sums = np.nansum(values, axis=1)
    return divided(sums, n_known)


def mean_columns(values: np.ndarray) -> np.ndarray:
    """The value of each item, and 1: a mean in which every item has the same weight.

    I or I x n -> I x 2.
    """
    if values.ndim == 2:
        values = mean(values)
    weights = np.where(np.isnan(values), np.nan, 1.0)
    return np.stack([values, weights], axis=1)


def kept(columns: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The columns of the items to keep (I, bool), nan for the others. I x K -> I x K."""
    return np.where(keep[:, None], columns, np.nan)


def sum_columns(*values: np.ndarray) -> np.ndarray:
    """Sums over the answers for which all of the K arrays (I x n) have a value. I x K."""
    is_missing = np.isnan(np.stack(values))
    has_all = ~is_missing.any(axis=0)  # I x n
    sums = []
    for array in values:
        counted = np.where(has_all, array, 0.0)
        sums.append(counted.sum(axis=1))

    has_any = has_all.any(axis=1)
    columns = np.stack(sums, axis=1)
    return kept(columns, has_any)


def verdict(scores: np.ndarray) -> np.ndarray:
    """1 if the chosen side scores higher, 0.5 for a tie, 0 if lower; nan if a score is missing.

    I x 2 (chosen, rejected) -> I.
    """
    chosen = scores[:, 0]
    rejected = scores[:, 1]
    verdicts = np.zeros(len(scores))
    verdicts[chosen > rejected] = 1.0
    verdicts[chosen == rejected] = 0.5
    verdicts[np.isnan(chosen)] = np.nan
    verdicts[np.isnan(rejected)] = np.nan
    return verdicts


def tie(verdicts: np.ndarray) -> np.ndarray:
    """1 for a tie, else 0; nan without a verdict. I -> I."""
    is_tie = (verdicts == 0.5).astype(float)
    return np.where(np.isnan(verdicts), np.nan, is_tie)


def agreement_columns(verdicts: np.ndarray, counterpart: np.ndarray) -> np.ndarray:
    """Verdicts (1, 0.5, 0) on an item and on its counterpart, as a 3 x 3 table of counts.

    verdicts: I; counterpart: I indices, -1 for none. Returns I x 9. Items that are their own
    counterpart are left out.
    """
    of_counterpart = np.where(counterpart < 0, np.nan, verdicts[counterpart])
    is_itself = counterpart == np.arange(len(verdicts))
    has_both = ~np.isnan(verdicts) & ~np.isnan(of_counterpart)
    is_counted = has_both & ~is_itself

    # Row by row: a verdict v stands in row 2 v, its counterpart's in column 2 v.
    row = 2 * verdicts
    column = 2 * of_counterpart
    cell = np.where(is_counted, 3 * row + column, 0).astype(int)
    tables = np.eye(9)[cell]
    return kept(tables, is_counted)


def on_diagonal(columns: np.ndarray) -> np.ndarray:
    """Of m x m tables of counts: how many are on the diagonal, and in all. I x m*m -> I x 2."""
    m = round(columns.shape[1] ** 0.5)
    diagonal = columns[:, :: m + 1]
    n_diagonal = diagonal.sum(axis=1)
    n_all = columns.sum(axis=1)
    return np.stack([n_diagonal, n_all], axis=1)
