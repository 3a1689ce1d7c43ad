"""Win rate of answers against a baseline's, raw and length-controlled.

Raw: for each prompt, all pairs of one of our answers and one of the baseline's. The higher score
wins; equal scores are half a win.

Length-controlled, in the spirit of AlpacaEval 2 LC (Dubois et al. 2024, "Length-Controlled
AlpacaEval", equation 1): fit per language

    logit P(win) = a + b * tanh(d / std(d)),     d = length of ours - length of the baseline's

and report sigmoid(a), the win rate if all lengths were equal. It differs from the original: there
is no term for the difficulty of an instruction (which needs many models), one fit for each
language, outcomes from scores (ties 0.5) instead of a judge's log-probs, each prompt weighs 1
however many pairs it gives, and a small ridge penalty replaces the cross-validated one. The tanh is
rounded to 1/32, so that a replicate is fitted to at most 65 counts instead of all pairs.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mlalign.methods.metrics.bootstrap import Draws, Estimate

RIDGE = 0.01  # in units of prompts: keeps the fit finite when one side always wins
MAX_STEPS = 50
GRID = 32  # values of tanh on either side of 0
CHUNK = 200_000  # prompts x pairs held at a time


def outcomes(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """1 where ours scores higher, 0.5 for a tie, 0 where lower; nan where a score is missing.

    ours: I x n; theirs: I x m. Returns I x n*m, ours in the outer loop.
    """
    a = ours[:, :, None]
    b = theirs[:, None, :]
    wins = np.where(a > b, 1.0, np.where(a == b, 0.5, 0.0))
    is_missing = np.isnan(a) | np.isnan(b)
    return np.where(is_missing, np.nan, wins).reshape(len(ours), -1)


def raw(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The share of wins of each prompt; nan where no pair has both scores. I x n, I x m -> I."""
    shares = np.full(len(ours), np.nan)
    for chunk in _chunks(len(ours), ours.shape[1] * theirs.shape[1]):
        wins = outcomes(ours[chunk], theirs[chunk])
        n_known = (~np.isnan(wins)).sum(1)
        np.divide(np.nansum(wins, 1), n_known, out=shares[chunk], where=n_known > 0)
    return shares


def _chunks(n: int, width: int) -> Iterator[slice]:
    step = max(1, CHUNK // max(1, width))
    return (slice(i, i + step) for i in range(0, n, step))


def length_controlled(wins: np.ndarray, totals: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The win rate at equal length, by Newton's method on a and b, for all F fits at once.

    wins, totals: F x K, the weight of the wins and of all pairs at each of the K values `x`.
    Returns F.
    """
    a = np.zeros(len(wins))
    b = np.zeros(len(wins))
    for _ in range(MAX_STEPS):
        p = _sigmoid(a[:, None] + b[:, None] * x)  # F x K
        residual = wins - totals * p
        curvature = totals * p * (1 - p)
        gradient_a = residual.sum(1) - RIDGE * a
        gradient_b = residual @ x - RIDGE * b

        h_aa = curvature.sum(1) + RIDGE
        h_ab = curvature @ x
        h_bb = curvature @ (x * x) + RIDGE
        determinant = h_aa * h_bb - h_ab * h_ab
        step_a = (h_bb * gradient_a - h_ab * gradient_b) / determinant
        step_b = (h_aa * gradient_b - h_ab * gradient_a) / determinant

        # Bounded steps do not overshoot where p is near 0 or 1.
        a = a + np.clip(step_a, -1, 1)
        b = b + np.clip(step_b, -1, 1)
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < 1e-9:
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
    """`length_controlled` per language, fitted again in each replicate.

    scores, lengths: ours (I x n) and the baseline's (I x m). A pair needs both scores and both
    lengths.
    """
    items_of: dict[str, list[int]] = {}
    for i in np.flatnonzero(_have_a_pair(scores, lengths)).tolist():
        items_of.setdefault(language[i], []).append(i)
    languages = sorted(items_of)

    values = np.empty(len(languages))
    replicates = np.empty((len(draws.weights), len(languages)))
    groups_of: list[set[int]] = []
    for place, code in enumerate(languages):
        items = items_of[code]
        groups = np.array([draws.number[group[i]] for i in items])
        groups_of.append(set(groups.tolist()))
        values[place], replicates[:, place] = _of_language(
            [side[items] for side in scores], [side[items] for side in lengths], groups, draws
        )

    return Estimate(
        languages=languages,
        values=values,
        replicates=replicates,
        n=[len(items_of[code]) for code in languages],
        n_groups=[len(groups) for groups in groups_of],
        total_groups=len(set().union(*groups_of)),
    )


def _of_language(
    scores: Sequence[np.ndarray],
    lengths: Sequence[np.ndarray],
    groups: np.ndarray,
    draws: Draws,
) -> tuple[float, np.ndarray]:
    """The value and its B replicates for the items of one language; groups: I numbers."""
    n_clusters = draws.weights.shape[1]
    wins, totals, x = _cells(scores, lengths, groups % n_clusters, n_clusters)
    value = length_controlled(wins.sum(0)[None], totals.sum(0)[None], x)[0]
    drawn = draws.weights @ totals  # B x K
    fitted = length_controlled(draws.weights @ wins, drawn, x)
    return value, np.where(drawn.sum(1) == 0, np.nan, fitted)


def _have_a_pair(scores: Sequence[np.ndarray], lengths: Sequence[np.ndarray]) -> np.ndarray:
    """Whether each item has an answer with score and length on both sides. Returns I."""
    ours = ~np.isnan(scores[0] + lengths[0])
    theirs = ~np.isnan(scores[1] + lengths[1])
    return ours.any(1) & theirs.any(1)


def _cells(
    scores: Sequence[np.ndarray],
    lengths: Sequence[np.ndarray],
    cluster: np.ndarray,
    n_clusters: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The weight of the wins and of all pairs, by cluster and rounded tanh, and the K values of it.

    cluster: I. Both weights are C x K.
    """
    wins = outcomes(*scores)
    difference = (lengths[0][:, :, None] - lengths[1][:, None, :]).reshape(wins.shape)
    known = ~np.isnan(wins + difference)
    # A prompt weighs 1, shared by its pairs.
    weight = np.where(known, 1 / np.maximum(known.sum(1, keepdims=True), 1), 0.0)[known]

    deviation = difference[known].std()
    x = np.tanh(difference[known] / deviation) if deviation > 0 else np.zeros(len(weight))
    grid, place = np.unique(np.rint(GRID * x), return_inverse=True)
    cell = np.broadcast_to(cluster[:, None], wins.shape)[known] * len(grid) + place

    def table(weights: np.ndarray) -> np.ndarray:
        return np.bincount(cell, weights, n_clusters * len(grid)).reshape(n_clusters, -1)

    return table(weight * wins[known]), table(weight), grid / GRID
