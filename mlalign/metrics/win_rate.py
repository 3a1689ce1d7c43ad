"""Win rate of answers against a baseline's, raw and length-controlled.

Raw: for each prompt all pairs of one of our answers and one of the baseline's; a higher score wins, equal scores are half a win.

Length-controlled, in the spirit of AlpacaEval 2 LC (Dubois et al. 2024, "Length-Controlled AlpacaEval", equation 1): per language fit

    logit P(win) = a + b * tanh(d / std(d)),     d = length of ours - length of the baseline's

and report sigmoid(a): the win rate were all lengths equal. Differences from the original: no term for the difficulty of an
instruction (it needs many models), one fit for each language, outcomes from scores (ties 0.5) not from a judge's log-probs, each
prompt weighs 1 however many pairs it gives, and a small ridge penalty instead of a cross-validated one.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlalign.metrics import Observation
from mlalign.metrics.bootstrap import Estimate, index, resample

RIDGE = 0.01  # in units of prompts: keeps the fit finite when one side always wins
MAX_STEPS = 50
CHUNK = 2_000_000  # numbers held at a time while bootstrapping


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All pairs of one prompt: outcomes in {0, 0.5, 1} and differences of length, ours minus the baseline's."""

    language: str
    group_id: str
    wins: tuple[float, ...]
    differences: tuple[float, ...]


def outcomes(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """1 where ours scores higher, 0.5 for a tie, 0 where lower, for all pairs, ours in the outer loop."""
    return tuple(1.0 if a > b else 0.5 if a == b else 0.0 for a in ours for b in theirs)


def raw(comparisons: Sequence[Comparison]) -> list[Observation]:
    """The share of wins of each prompt."""
    return [Observation(c.language, c.group_id, sum(c.wins) / len(c.wins)) for c in comparisons]


def length_controlled(wins: np.ndarray, differences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The win rate at equal length. wins, differences: N; weights: B x N, a fit for each row; returns B."""
    deviation = differences.std()
    x = np.tanh(differences / deviation) if deviation > 0 else np.zeros_like(differences)
    a, b = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(MAX_STEPS):  # Newton's method on two parameters, all fits at once
        p = _sigmoid(a[:, None] + b[:, None] * x)  # B x N
        residual, curvature = weights * (wins - p), weights * p * (1 - p)
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


def length_controlled_estimate(comparisons: Sequence[Comparison], n: int, seed: int) -> Estimate:
    """`length_controlled` per language, refitted on each of n bootstrap draws of groups."""
    observations = raw(comparisons)
    languages, groups = index(observations)
    place = {g: i for i, g in enumerate(groups)}
    drawn = resample(len(groups), n, seed)  # B x G
    values, replicates, of_language = [], [], [[c for c in comparisons if c.language == lang] for lang in languages]
    for mine in of_language:
        wins, differences = np.concatenate([c.wins for c in mine]), np.concatenate([c.differences for c in mine]).astype(float)
        share = np.concatenate([np.full(len(c.wins), 1 / len(c.wins)) for c in mine])  # a prompt weighs 1
        group = np.concatenate([np.full(len(c.wins), place[c.group_id]) for c in mine])
        values.append(length_controlled(wins, differences, share[None])[0])
        step = max(1, CHUNK // len(wins))
        parts = [length_controlled(wins, differences, drawn[i : i + step, group] * share) for i in range(0, n, step)]
        empty = drawn[:, np.unique(group)].sum(1) == 0
        replicates.append(np.where(empty, np.nan, np.concatenate(parts)))
    n_groups = [len({c.group_id for c in mine}) for mine in of_language]
    return Estimate(languages, np.array(values), np.stack(replicates, 1), [len(m) for m in of_language], n_groups, len(groups))
