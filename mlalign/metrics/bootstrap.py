"""Percentile bootstrap over groups (translations of one item), all languages of a group drawn together.

Resampling whole groups keeps the dependence between an item's translations and samples (cluster bootstrap: Davison & Hinkley 1997,
"Bootstrap Methods and their Application", section 3.8; percentile interval: Efron & Tibshirani 1993, chapter 13).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlalign.metrics import Observation


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A quantity per language with its bootstrap replicates; nan where a replicate drew nothing of a language."""

    languages: list[str]  # L
    values: np.ndarray  # L
    replicates: np.ndarray  # B x L
    n: list[int]  # L, observations
    n_groups: list[int]  # L
    total_groups: int


def resample(n_groups: int, n: int, seed: int) -> np.ndarray:
    """How often each group is drawn in each replicate: n x n_groups, rows sum to n_groups."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups) for _ in range(n)]).astype(np.float64)


def interval(replicates: np.ndarray, confidence: float) -> tuple[float, float]:
    """Lower and upper percentile bounds of B replicates; nan ones are left out."""
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(replicates, [tail, 100 - tail])
    return float(low), float(high)


def means(observations: Sequence[Observation], n: int, seed: int) -> Estimate:
    """The mean of the observations of each language, with n replicates."""
    languages, groups = index(observations)
    place = {g: i for i, g in enumerate(groups)}
    column = {lang: i for i, lang in enumerate(languages)}
    sums, counts = np.zeros((len(groups), len(languages))), np.zeros((len(groups), len(languages)))  # G x L
    for o in observations:
        sums[place[o.group_id], column[o.language]] += o.value
        counts[place[o.group_id], column[o.language]] += 1
    weights = resample(len(groups), n, seed)  # B x G
    with np.errstate(invalid="ignore"):
        replicates = (weights @ sums) / (weights @ counts)
    values = sums.sum(0) / counts.sum(0)
    return Estimate(languages, values, replicates, counts.sum(0).astype(int).tolist(), (counts > 0).sum(0).tolist(), len(groups))


def index(observations: Sequence[Observation]) -> tuple[list[str], list[str]]:
    """The languages and the groups, sorted: results do not depend on the order of rows."""
    return sorted({o.language for o in observations}), sorted({o.group_id for o in observations})
