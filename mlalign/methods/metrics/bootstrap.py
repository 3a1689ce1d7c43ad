"""Percentile bootstrap over groups, which are the translations of one item.

Resampling whole groups keeps the dependence between an item's translations and samples (cluster
bootstrap: Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 3.8).
Intervals are percentiles (Efron & Tibshirani 1993, chapter 13). Where there are few groups
percentiles alone are too narrow, so they are set a little further out (`interval`).

Every metric is a function of sums over items (a mean: the sum of the values over their number), so
one matrix product gives all replicates of all languages. One set of draws serves all languages,
metrics and policies of a run: their replicates are of the same groups, so differences are paired.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist

import numpy as np

from mlalign.methods.metrics.ratios import ratio

# More groups than this are drawn in this many bundles, to bound memory. Bundles of whole groups are
# clusters too.
MAX_CLUSTERS = 4096
Combine = Callable[[np.ndarray], np.ndarray]  # sums, ... x K -> ...


@dataclasses.dataclass(frozen=True)
class Observed:
    """I items, with the numbers that are summed over them."""

    language: Sequence[str]
    group: Sequence[str]
    columns: np.ndarray  # I x K, nan in all K where nothing was observed


@dataclasses.dataclass(frozen=True)
class Draws:
    """How often each cluster is drawn in each replicate."""

    number: dict[str, int]  # group -> its place among the sorted groups; modulo C, its cluster
    weights: np.ndarray  # B x C, rows sum to C


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A quantity per language with its bootstrap replicates.

    nan where it is undefined, or where a replicate drew nothing of a language.
    """

    languages: list[str]  # L
    values: np.ndarray  # L
    replicates: np.ndarray  # B x L
    n: list[int]  # L, items
    n_groups: list[int]  # L
    total_groups: int


def draw(groups: Iterable[str], n: int, seed: int) -> Draws:
    """n replicates. They depend on the set of groups, not on its order."""
    number = {group: i for i, group in enumerate(sorted(set(groups)))}
    size = min(len(number), MAX_CLUSTERS)
    rng = np.random.default_rng(seed)
    counts = []
    for _ in range(n):
        drawn = rng.integers(0, size, size)
        counts.append(np.bincount(drawn, minlength=size))
    weights = np.stack(counts).astype(np.float64)
    return Draws(number, weights)


def estimate(observed: Observed, draws: Draws, combine: Combine = ratio) -> Estimate:
    """`combine` of the sums over each language's items.

    Languages are sorted; those that were never observed are left out.
    """
    is_missing = np.isnan(observed.columns).any(axis=1)
    seen = np.flatnonzero(~is_missing)
    columns = observed.columns[seen]
    codes = [observed.language[i] for i in seen]
    groups = [observed.group[i] for i in seen]
    languages = sorted(set(codes))
    place = {code: i for i, code in enumerate(languages)}
    language = np.array([place[code] for code in codes], np.int64)
    group = np.array([draws.number[name] for name in groups], np.int64)

    n_clusters = draws.weights.shape[1]
    n_languages = len(languages)
    n_columns = columns.shape[1]
    cluster = group % n_clusters
    cell = cluster * n_languages + language
    sums = np.empty((n_clusters * n_languages, n_columns))
    for k in range(n_columns):
        sums[:, k] = np.bincount(cell, columns[:, k], len(sums))
    sums = sums.reshape(n_clusters, n_languages, n_columns)
    drawn = draws.weights @ sums.reshape(n_clusters, -1)  # B x L*K
    drawn = drawn.reshape(-1, n_languages, n_columns)

    n = np.bincount(language, minlength=n_languages)
    in_group = np.unique(group * n_languages + language)
    n_groups = np.bincount(in_group % n_languages, minlength=n_languages)
    return Estimate(
        languages=languages,
        values=combine(sums.sum(axis=0)),
        replicates=combine(drawn),
        n=n.tolist(),
        n_groups=n_groups.tolist(),
        total_groups=len(np.unique(group)),
    )


def difference(ours: Estimate, theirs: Estimate) -> Estimate:
    """Ours minus theirs in the languages of both, paired by replicate: both need the same draws."""
    their_languages = set(theirs.languages)
    both = [code for code in ours.languages if code in their_languages]
    i_ours = [ours.languages.index(code) for code in both]
    i_theirs = [theirs.languages.index(code) for code in both]
    n = []
    n_groups = []
    for i, j in zip(i_ours, i_theirs, strict=True):
        n.append(min(ours.n[i], theirs.n[j]))
        n_groups.append(min(ours.n_groups[i], theirs.n_groups[j]))
    return Estimate(
        languages=both,
        values=ours.values[i_ours] - theirs.values[i_theirs],
        replicates=ours.replicates[:, i_ours] - theirs.replicates[:, i_theirs],
        n=n,
        n_groups=n_groups,
        total_groups=min(ours.total_groups, theirs.total_groups),
    )


def interval(
    replicates: np.ndarray,
    confidence: float,
    n_groups: int,
) -> tuple[float, float] | None:
    """Lower and upper bound of a quantity over n_groups groups; None for fewer than two groups.

    replicates: B; nan is left out. The percentile p becomes Phi(sqrt(n / (n - 1)) * t_p(n - 1)):
    for a mean of normal values that is the interval of the t test (Hesterberg 2015, "What Teachers
    Should Know About the Bootstrap", the expanded percentile interval).
    """
    known = np.sort(replicates[~np.isnan(replicates)])
    n_known = len(known)
    if n_groups < 2 or n_known == 0:
        return None
    t = t_quantile((1 - confidence) / 2, n_groups - 1)
    widening = math.sqrt(n_groups / (n_groups - 1))
    tail = NormalDist().cdf(widening * t)

    # The k-th of B sorted replicates has k / (B + 1) below it.
    places = (n_known + 1) * np.array([tail, 1 - tail]) - 1
    places = np.clip(places, 0, n_known - 1)
    below = places.astype(int)
    above = np.minimum(below + 1, n_known - 1)
    step = known[above] - known[below]
    low, high = known[below] + (places - below) * step
    return float(low), float(high)


def t_quantile(p: float, freedom: int) -> float:
    """The p-quantile of Student's t with `freedom` degrees of freedom.

    Exact for one and two degrees, else within 1% (Abramowitz & Stegun 26.7.5).
    """
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    v = float(freedom)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / v + g2 / v**2 + g3 / v**3 + g4 / v**4
