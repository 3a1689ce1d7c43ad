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
from mlalign.methods.metrics.ratios import divided

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
    shares = np.empty(len(ours))
    n_pairs = ours.shape[1] * theirs.shape[1]
    for chunk in _chunks(len(ours), n_pairs):
        wins = outcomes(ours[chunk], theirs[chunk])
        n_known = (~np.isnan(wins)).sum(axis=1)
        n_wins = np.nansum(wins, axis=1)
        shares[chunk] = divided(n_wins, n_known)
    return shares


def _chunks(n: int, width: int) -> Iterator[slice]:
    """Slices of n prompts, so that each holds about `CHUNK` values of prompts x `width`."""
    step = max(1, CHUNK // max(1, width))
    for start in range(0, n, step):
        yield slice(start, start + step)


def length_controlled(wins: np.ndarray, totals: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The win rate at equal length, by Newton's method on a and b, for all F fits at once.

    wins, totals: F x K, the weight of the wins and of all pairs at each of the K values `x`.
    Returns F.
    """
    a = np.zeros(len(wins))
    b = np.zeros(len(wins))
    for _ in range(MAX_STEPS):
        logits = a[:, None] + b[:, None] * x
        p = _sigmoid(logits)  # F x K
        # Gradient and negative Hessian of the penalised log-likelihood
        #   sum_k wins log p + (totals - wins) log(1 - p)  -  RIDGE (a^2 + b^2) / 2
        residual = wins - totals * p
        gradient_a = residual.sum(axis=1) - RIDGE * a
        gradient_b = residual @ x - RIDGE * b
        curvature = totals * p * (1 - p)
        h_aa = curvature.sum(axis=1) + RIDGE
        h_ab = curvature @ x
        h_bb = curvature @ (x * x) + RIDGE

        determinant = h_aa * h_bb - h_ab * h_ab
        step_a = (h_bb * gradient_a - h_ab * gradient_b) / determinant
        step_b = (h_aa * gradient_b - h_ab * gradient_a) / determinant

        # Bounded steps do not overshoot where p is near 0 or 1.
        a = a + np.clip(step_a, -1, 1)
        b = b + np.clip(step_b, -1, 1)
        largest = max(np.abs(step_a).max(), np.abs(step_b).max())
        if largest < 1e-9:
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
    seen = np.flatnonzero(_have_a_pair(scores, lengths))
    for i in seen.tolist():
        items_of.setdefault(language[i], []).append(i)
    languages = sorted(items_of)

    values = np.empty(len(languages))
    replicates = np.empty((len(draws.weights), len(languages)))
    groups_of: list[set[int]] = []
    for place, code in enumerate(languages):
        items = items_of[code]
        groups = np.array([draws.number[group[i]] for i in items])
        groups_of.append(set(groups.tolist()))
        own_scores = [side[items] for side in scores]
        own_lengths = [side[items] for side in lengths]
        value, drawn = _of_language(own_scores, own_lengths, groups, draws)
        values[place] = value
        replicates[:, place] = drawn

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
    clusters = groups % n_clusters
    wins, totals, x = _cells(scores, lengths, clusters, n_clusters)
    all_wins = wins.sum(axis=0)
    all_totals = totals.sum(axis=0)
    value = length_controlled(all_wins[None], all_totals[None], x)[0]

    drawn_wins = draws.weights @ wins  # B x K
    drawn_totals = draws.weights @ totals
    fitted = length_controlled(drawn_wins, drawn_totals, x)
    is_empty = drawn_totals.sum(axis=1) == 0
    return value, np.where(is_empty, np.nan, fitted)


def _have_a_pair(scores: Sequence[np.ndarray], lengths: Sequence[np.ndarray]) -> np.ndarray:
    """Whether each item has an answer with score and length on both sides. Returns I."""
    our_scores, their_scores = scores
    our_lengths, their_lengths = lengths
    ours = ~np.isnan(our_scores + our_lengths)
    theirs = ~np.isnan(their_scores + their_lengths)
    return ours.any(axis=1) & theirs.any(axis=1)


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
    our_lengths, their_lengths = lengths
    difference = our_lengths[:, :, None] - their_lengths[:, None, :]
    difference = difference.reshape(wins.shape)
    known = ~np.isnan(wins + difference)
    # A prompt weighs 1, shared by its pairs.
    n_pairs = known.sum(axis=1, keepdims=True)
    shares = np.where(known, 1 / np.maximum(n_pairs, 1), 0.0)
    weight = shares[known]

    # tanh(d / std(d)), rounded to the grid
    d = difference[known]
    deviation = d.std()
    x = np.zeros(len(weight))
    if deviation > 0:
        x = np.tanh(d / deviation)
    grid, place = np.unique(np.rint(GRID * x), return_inverse=True)
    cluster_of_pair = np.broadcast_to(cluster[:, None], wins.shape)[known]
    cell = cluster_of_pair * len(grid) + place

    def table(weights: np.ndarray) -> np.ndarray:
        """The sum of the weights in each cell, C x K."""
        sums = np.bincount(cell, weights, n_clusters * len(grid))
        return sums.reshape(n_clusters, -1)

    return table(weight * wins[known]), table(weight), grid / GRID
