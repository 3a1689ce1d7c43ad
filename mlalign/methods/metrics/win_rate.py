"""Win rate of answers against a baseline's, raw and length-controlled.

Raw: for each prompt all pairs of one of our answers and one of the baseline's; a higher score wins, equal scores are half a win.

Length-controlled, in the spirit of AlpacaEval 2 LC (Dubois et al. 2024, "Length-Controlled AlpacaEval", equation 1): per language fit

    logit P(win) = a + b * tanh(d / std(d)),     d = length of ours - length of the baseline's

and report sigmoid(a): the win rate were all lengths equal. Differences from the original: no term for the difficulty of an
instruction (it needs many models), one fit for each language, outcomes from scores (ties 0.5) not from a judge's log-probs, each
prompt weighs 1 however many pairs it gives, and a small ridge penalty instead of a cross-validated one. The tanh is rounded to
1/32, so that a replicate is fitted to at most 65 counts, not to all pairs again.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mlalign.methods.metrics.bootstrap import Draws, Estimate

RIDGE = 0.01  # in units of prompts: keeps the fit finite when one side always wins
MAX_STEPS = 50
GRID = 32  # values of tanh on either side of 0
CHUNK = 200_000  # prompts x pairs held at a time


def outcomes(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """1 where ours scores higher, 0.5 for a tie, 0 where lower, nan where a score is missing. I x n, I x m -> I x n*m, ours in the
    outer loop."""
    a, b = ours[:, :, None], theirs[:, None, :]
    wins = np.where(a > b, 1.0, np.where(a == b, 0.5, 0.0))
    return np.where(np.isnan(a) | np.isnan(b), np.nan, wins).reshape(len(ours), -1)


def raw(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The share of wins of each prompt; nan where no pair has both scores. I x n, I x m -> I."""
    out = np.full(len(ours), np.nan)
    for part in _chunks(len(ours), ours.shape[1] * theirs.shape[1]):
        wins = outcomes(ours[part], theirs[part])
        known = (~np.isnan(wins)).sum(1)
        np.divide(np.nansum(wins, 1), known, out=out[part], where=known > 0)
    return out


def _chunks(n: int, width: int) -> Iterator[slice]:
    step = max(1, CHUNK // max(1, width))
    return (slice(i, i + step) for i in range(0, n, step))


def length_controlled(wins: np.ndarray, totals: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The win rate at equal length. wins, totals: F x K weights won and in all at each x (K), a fit for each row; returns F."""
    a, b = np.zeros(len(wins)), np.zeros(len(wins))
    for _ in range(MAX_STEPS):  # Newton's method on two parameters, all fits at once
        p = _sigmoid(a[:, None] + b[:, None] * x)  # F x K
        residual, curvature = wins - totals * p, totals * p * (1 - p)
        ga, gb = residual.sum(1) - RIDGE * a, residual @ x - RIDGE * b
        haa, hab, hbb = curvature.sum(1) + RIDGE, curvature @ x, curvature @ (x * x) + RIDGE
        determinant = haa * hbb - hab * hab
        da, db = (hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant
        a, b = a + np.clip(da, -1, 1), b + np.clip(db, -1, 1)  # a bounded step: no overshoot where p is near 0 or 1
        if max(np.abs(da).max(), np.abs(db).max()) < 1e-9:
            break
    return _sigmoid(a)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * z))


def length_controlled_estimate(
    language: Sequence[str],
    group: Sequence[str],
    scores: tuple[np.ndarray, np.ndarray],
    lengths: tuple[np.ndarray, np.ndarray],
    draws: Draws,
) -> Estimate:
    """`length_controlled` per language, fitted again in each replicate. scores, lengths: ours and the baseline's, I x n and I x m.

    Pairs need both scores and both lengths.
    """
    seen = ~np.isnan(raw(*(np.where(np.isnan(s + d), np.nan, s) for s, d in zip(scores, lengths, strict=True))))
    languages = sorted({lang for lang, s in zip(language, seen, strict=True) if s})
    size = draws.weights.shape[1]
    values, replicates, n, n_groups = [], [], [], []
    all_groups: set[int] = set()
    for lang in languages:
        mine = np.array([i for i in np.flatnonzero(seen) if language[i] == lang])
        groups = np.array([draws.number[group[i]] for i in mine])
        wins, totals, x = _cells([s[mine] for s in scores], [d[mine] for d in lengths], groups % size, size)
        values.append(length_controlled(wins.sum(0)[None], totals.sum(0)[None], x)[0])
        drawn = draws.weights @ totals  # B x K
        fitted = length_controlled(draws.weights @ wins, drawn, x)
        replicates.append(np.where(drawn.sum(1) == 0, np.nan, fitted))
        n.append(len(mine))
        n_groups.append(len(np.unique(groups)))
        all_groups |= set(groups.tolist())
    stacked = np.stack(replicates, 1) if replicates else np.empty((len(draws.weights), 0))
    return Estimate(languages, np.array(values), stacked, n, n_groups, len(all_groups))


def _cells(scores: Sequence[np.ndarray], lengths: Sequence[np.ndarray], cluster: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """Weights won and in all, by cluster and rounded tanh (C x K each), and the K values of that."""
    wins = outcomes(*scores)
    d = (lengths[0][:, :, None] - lengths[1][:, None, :]).reshape(wins.shape)
    known = ~np.isnan(wins + d)
    share = np.where(known, 1 / np.maximum(known.sum(1, keepdims=True), 1), 0.0)[known]  # a prompt weighs 1
    deviation = d[known].std()
    x = np.tanh(d[known] / deviation) if deviation > 0 else np.zeros(int(known.sum()))
    grid, place = np.unique(np.rint(GRID * x), return_inverse=True)
    cell = np.broadcast_to(cluster[:, None], wins.shape)[known] * len(grid) + place
    table = [np.bincount(cell, weights, size * len(grid)).reshape(size, -1) for weights in (share * wins[known], share)]
    return table[0], table[1], grid / GRID
