"""Percentile bootstrap over groups (translations of one item), all languages, metrics and policies of a group drawn together.

Resampling whole groups keeps the dependence between an item's translations and samples (cluster bootstrap: Davison & Hinkley 1997,
"Bootstrap Methods and their Application", section 3.8). Intervals are percentiles (Efron & Tibshirani 1993, chapter 13), set a little
further out where there are few groups, because percentiles alone are too narrow there (`interval`).

Every metric is a function of sums over items (a mean: the sum of the values over the number of them), so that all replicates of
all languages are one matrix product. One set of draws serves a whole run: replicates of two metrics or policies are of the same
groups, and their differences are paired.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist

import numpy as np

from mlalign.methods.metrics.ratios import ratio

MAX_CLUSTERS = 4096  # more groups are drawn in this many bundles: it bounds memory, and bundles of whole groups are clusters too
Combine = Callable[[np.ndarray], np.ndarray]  # sums, ... x K -> ...


@dataclasses.dataclass(frozen=True)
class Observed:
    """Of I items: language, group, and the K numbers that are summed; nan in all K where nothing was observed."""

    language: Sequence[str]
    group: Sequence[str]
    columns: np.ndarray  # I x K


@dataclasses.dataclass(frozen=True)
class Draws:
    """How often each cluster is drawn in each replicate."""

    number: dict[str, int]  # group -> its place among all groups in order; the cluster is this modulo C
    weights: np.ndarray  # B x C, rows sum to C


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A quantity per language with its bootstrap replicates; nan where it is not defined, or a replicate drew nothing of a language."""

    languages: list[str]  # L
    values: np.ndarray  # L
    replicates: np.ndarray  # B x L
    n: list[int]  # L, items
    n_groups: list[int]  # L
    total_groups: int


def draw(groups: Iterable[str], n: int, seed: int) -> Draws:
    """n replicates. They depend on the set of groups alone, not on its order."""
    number = {g: i for i, g in enumerate(sorted(set(groups)))}
    size = min(len(number), MAX_CLUSTERS)
    rng = np.random.default_rng(seed)
    counts = [np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(n)]
    return Draws(number, np.stack(counts).astype(np.float64))


def estimate(observed: Observed, draws: Draws, combine: Combine = ratio) -> Estimate:
    """`combine` of each language's sums. Languages in order; those without any observation are left out."""
    seen = np.flatnonzero(~np.isnan(observed.columns).any(axis=1))
    columns = observed.columns[seen]
    languages = sorted({observed.language[i] for i in seen})
    place = {lang: i for i, lang in enumerate(languages)}
    code = np.fromiter((place[observed.language[i]] for i in seen), np.int64, len(seen))
    group = np.fromiter((draws.number[observed.group[i]] for i in seen), np.int64, len(seen))
    size, n_lang, n_columns = draws.weights.shape[1], len(languages), columns.shape[1]
    cell = group % size * n_lang + code
    sums = np.stack([np.bincount(cell, columns[:, k], size * n_lang) for k in range(n_columns)], axis=-1)  # C*L x K
    drawn = draws.weights @ sums.reshape(size, -1)  # B x L*K
    n_groups = np.bincount(np.unique(group * n_lang + code) % n_lang, minlength=n_lang)
    return Estimate(
        languages,
        combine(sums.reshape(size, n_lang, n_columns).sum(axis=0)),
        combine(drawn.reshape(-1, n_lang, n_columns)),
        np.bincount(code, minlength=n_lang).tolist(),
        n_groups.tolist(),
        len(np.unique(group)),
    )


def difference(ours: Estimate, theirs: Estimate) -> Estimate:
    """Ours minus theirs in the languages of both, paired by replicate: both must come from the same draws."""
    both = [lang for lang in ours.languages if lang in set(theirs.languages)]
    a, b = ([e.languages.index(lang) for lang in both] for e in (ours, theirs))
    n, n_groups = ([min(getattr(ours, x)[i], getattr(theirs, x)[j]) for i, j in zip(a, b, strict=True)] for x in ("n", "n_groups"))
    values, replicates = ours.values[a] - theirs.values[b], ours.replicates[:, a] - theirs.replicates[:, b]
    return Estimate(both, values, replicates, n, n_groups, min(ours.total_groups, theirs.total_groups))


def interval(replicates: np.ndarray, confidence: float, n_groups: int) -> tuple[float, float] | None:
    """Lower and upper bound from B replicates (nan left out) of a quantity over n_groups groups; None for fewer than two.

    The percentile p becomes Phi(sqrt(n / (n - 1)) * t_p(n - 1)): for a mean of normal values that is the interval of the t test
    (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", the expanded percentile interval).
    """
    known = replicates[~np.isnan(replicates)]
    if n_groups < 2 or not len(known):
        return None
    tail = NormalDist().cdf(math.sqrt(n_groups / (n_groups - 1)) * t_quantile((1 - confidence) / 2, n_groups - 1))
    known = np.sort(known)
    places = np.clip((len(known) + 1) * np.array([tail, 1 - tail]) - 1, 0, len(known) - 1)  # the k-th of B has k / (B + 1) below
    below = places.astype(int)
    above = np.minimum(below + 1, len(known) - 1)
    low, high = known[below] + (places - below) * (known[above] - known[below])
    return float(low), float(high)


def t_quantile(p: float, freedom: int) -> float:
    """The p-quantile of Student's t: exact for one and two degrees of freedom, else within 1% (Abramowitz & Stegun 26.7.5)."""
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z, v = NormalDist().inv_cdf(p), float(freedom)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / v + g2 / v**2 + g3 / v**3 + g4 / v**4
