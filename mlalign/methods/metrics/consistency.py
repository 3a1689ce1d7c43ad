"""Cross-lingual consistency: is a policy right, and wrong, on the same items in all languages?

Agreement on translations of one item (which MuBench reports beside accuracy): let p and q be the
shares of right answers to an item in two languages. One answer from each agrees with probability

    p q + (1 - p)(1 - q)

Two languages of high accuracy often agree by chance; Cohen's kappa corrects for that.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlalign.methods.metrics.accuracy import kept
from mlalign.methods.metrics.answers import Items
from mlalign.methods.metrics.bootstrap import t_quantile
from mlalign.methods.metrics.ratios import divided


def table_columns(right: np.ndarray, counterpart: np.ndarray) -> np.ndarray:
    """An item and its counterpart, right or wrong, as a 2 x 2 table.

    right: I shares of right answers; counterpart: I indices, -1 for none. Returns I x 4. Items that
    are their own counterpart are left out.
    """
    p = right
    q = np.where(counterpart < 0, np.nan, right[counterpart])
    both_right = p * q
    only_item = p * (1 - q)
    only_counterpart = (1 - p) * q
    both_wrong = (1 - p) * (1 - q)
    cells = np.stack([both_right, only_item, only_counterpart, both_wrong], axis=1)

    is_itself = counterpart == np.arange(len(right))
    return kept(cells, ~is_itself)


def all_columns(items: Items, right: np.ndarray) -> np.ndarray:
    """Agreement of each item with the same item in every other language.

    I x 2: the sum of the agreements, and the number of pairs.
    """
    others = _in_other_languages(items, right)
    right_elsewhere = others[:, 0]
    n_elsewhere = others[:, 1]
    wrong_elsewhere = n_elsewhere - right_elsewhere
    agreement = right * right_elsewhere + (1 - right) * wrong_elsewhere

    columns = np.stack([agreement, n_elsewhere], axis=1)
    has_pair = ~np.isnan(right) & (n_elsewhere > 0)
    return kept(columns, has_pair)


def _in_other_languages(items: Items, right: np.ndarray) -> np.ndarray:
    """Of an item's group in other languages: the sum of `right`, and the number of items. I x 2"""
    group_sums: dict[tuple, np.ndarray] = defaultdict(lambda: np.zeros(2))
    language_sums: dict[tuple, np.ndarray] = defaultdict(lambda: np.zeros(2))
    groups = list(zip(items.group, items.occurrence(), strict=True))
    known = np.flatnonzero(~np.isnan(right))
    for i in known:
        group = groups[i]
        language = items.language[i]
        counted = np.array([right[i], 1.0])
        group_sums[group] += counted
        language_sums[*group, language] += counted

    others = np.zeros((len(right), 2))
    for i in known:
        group = groups[i]
        language = items.language[i]
        others[i] = group_sums[group] - language_sums[*group, language]
    return others


def matrix(
    language: Sequence[str],
    group: Sequence[str],
    right: np.ndarray,
    confidence: float,
) -> dict[str, Any]:
    """Agreement of every pair of languages over the groups that both have; None if there are none.

    Intervals are mean -+ t * s / sqrt(n) over groups, cut to [0, 1], and None for fewer than two
    groups. There is no bootstrap: for the 4,950 pairs of 100 languages it takes minutes.
    """
    languages, shares = _by_group(language, group, right)
    known = ~np.isnan(shares)
    p = np.nan_to_num(shares)
    q = np.where(known, 1 - shares, 0.0)
    pq = p * q
    n = known.T.astype(float) @ known
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of the agreement a = p_i p_j + q_i q_j in languages i and j: its mean over groups, the
        # mean of a^2, and s / sqrt(n) with s^2 = n / (n - 1) (mean of a^2 - mean^2).
        mean = (p.T @ p + q.T @ q) / n
        square = ((p**2).T @ p**2 + 2 * pq.T @ pq + (q**2).T @ q**2) / n
        variance = np.maximum(square - mean**2, 0)
        error = np.sqrt(variance / (n - 1))

    margin = _t_quantiles(n, 0.5 + confidence / 2) * error
    low = np.maximum(mean - margin, 0)
    high = np.minimum(mean + margin, 1)
    return {
        "languages": languages,
        "values": _listed(mean),
        "low": _listed(low),
        "high": _listed(high),
        "n_groups": n.astype(int).tolist(),
    }


def _t_quantiles(n: np.ndarray, p: float) -> np.ndarray:
    """The p-quantile of Student's t for each sample size in `n` (L x L); nan below two."""
    quantiles = np.full(n.shape, np.nan)
    for i, j in np.argwhere(n > 1):
        quantiles[i, j] = t_quantile(p, int(n[i, j]) - 1)
    return quantiles


def _by_group(
    language: Sequence[str],
    group: Sequence[str],
    right: np.ndarray,
) -> tuple[list[str], np.ndarray]:
    """The languages, and the mean of each group in each of them.

    The means are groups x languages, nan where a group has nothing in a language.
    """
    known = np.flatnonzero(~np.isnan(right))
    languages = sorted({language[i] for i in known})
    row_of = {name: row for row, name in enumerate(sorted(set(group)))}
    column_of = {name: column for column, name in enumerate(languages)}
    rows = [row_of[group[i]] for i in known]
    columns = [column_of[language[i]] for i in known]

    sums = np.zeros((len(row_of), len(languages)))
    counts = np.zeros_like(sums)
    np.add.at(sums, (rows, columns), right[known])
    np.add.at(counts, (rows, columns), 1)
    return languages, divided(sums, counts)


def _listed(table: np.ndarray) -> list[list[float | None]]:
    """Nested lists; nan and the diagonal become None."""
    rows: list[list[float | None]] = []
    for i, values in enumerate(table.tolist()):
        row: list[float | None] = []
        for j, value in enumerate(values):
            shown = None if i == j or np.isnan(value) else round(value, 6)
            row.append(shown)
        rows.append(row)
    return rows
