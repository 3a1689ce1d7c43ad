"""Cross-lingual consistency: does a policy get the same items right and the same ones wrong in all languages?

Agreement right or wrong on translations of one item (as MuBench asks, beside accuracy): with p and q the shares of right answers to an
item in two languages, one answer of each agrees with probability p q + (1 - p)(1 - q). Two languages of high accuracy agree by chance
alone; Cohen's kappa takes that out.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlalign.methods.metrics.answers import Items
from mlalign.methods.metrics.bootstrap import t_quantile


def table_columns(right: np.ndarray, counterpart: np.ndarray) -> np.ndarray:
    """An item and its counterpart, right or wrong, as a 2 x 2 table. I (shares of right answers), I (indices) -> I x 4.

    Items that are their own counterpart (those in its language) are left out.
    """
    p, q = right, np.where(counterpart < 0, np.nan, right[counterpart])
    cells = np.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], 1)
    return np.where((counterpart == np.arange(len(right)))[:, None], np.nan, cells)


def all_columns(items: Items, right: np.ndarray) -> np.ndarray:
    """Agreement of each item with the same item in every other language: sum, number of pairs. I x 2."""
    groups = list(zip(items.group, items.occurrence(), strict=True))
    known = ~np.isnan(right)
    sums: dict[tuple, np.ndarray] = defaultdict(lambda: np.zeros(2))  # of a group, and of a language within it: right, all
    for i in np.flatnonzero(known):
        told = np.array([right[i], 1.0])
        sums[groups[i]] += told
        sums[*groups[i], items.language[i]] += told
    others = np.array([sums[g] - sums[*g, lang] if k else (0, 0) for g, lang, k in zip(groups, items.language, known, strict=True)])
    others = others.reshape(-1, 2)
    agree = right * others[:, 0] + (1 - right) * (others[:, 1] - others[:, 0])
    return np.where((known & (others[:, 1] > 0))[:, None], np.stack([agree, others[:, 1]], 1), np.nan)


def matrix(language: Sequence[str], group: Sequence[str], right: np.ndarray, confidence: float) -> dict[str, Any]:
    """Agreement of every pair of languages, over the groups that both have. None where fewer than one (two for bounds).

    Intervals are mean -+ t * s / sqrt(n) over groups, cut to [0, 1]: with 100 languages a bootstrap of 4,950 pairs takes minutes.
    """
    languages, shares = _by_group(language, group, right)
    here = ~np.isnan(shares)
    p, q = np.nan_to_num(shares), np.where(here, 1 - shares, 0.0)
    n = here.T.astype(float) @ here
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (p.T @ p + q.T @ q) / n
        square = ((p**2).T @ p**2 + 2 * (p * q).T @ (p * q) + (q**2).T @ q**2) / n
        deviation = np.sqrt(np.maximum(square - mean**2, 0) / (n - 1))
    t = np.array([[t_quantile(0.5 + confidence / 2, int(m) - 1) if m > 1 else np.nan for m in row] for row in n])
    bounds = {"low": np.maximum(mean - t * deviation, 0), "high": np.minimum(mean + t * deviation, 1)}
    tables = {"values": mean, **bounds}
    return {"languages": languages, **{name: _listed(table) for name, table in tables.items()}, "n_groups": n.astype(int).tolist()}


def _by_group(language: Sequence[str], group: Sequence[str], right: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The mean of each group in each language: the languages, and groups x languages with nan where there is none."""
    known = np.flatnonzero(~np.isnan(right))
    languages = sorted({language[i] for i in known})
    places, columns = {g: k for k, g in enumerate(sorted(set(group)))}, {lang: k for k, lang in enumerate(languages)}
    sums, counts = np.zeros((len(places), len(languages))), np.zeros((len(places), len(languages)))
    cells = ([places[group[i]] for i in known], [columns[language[i]] for i in known])
    np.add.at(sums, cells, right[known])
    np.add.at(counts, cells, 1)
    return languages, np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _listed(table: np.ndarray) -> list[list[float | None]]:
    """Nested lists without the diagonal; nan becomes None."""
    return [[None if i == j or np.isnan(v) else round(float(v), 6) for j, v in enumerate(row)] for i, row in enumerate(table)]
