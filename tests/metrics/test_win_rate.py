import numpy as np
import pytest

from mlalign.metrics import win_rate
from mlalign.metrics.win_rate import Comparison


def fit(wins, differences) -> float:
    wins, differences = np.array(wins, float), np.array(differences, float)
    return float(win_rate.length_controlled(wins, differences, np.ones((1, len(wins))))[0])


def test_outcomes_of_all_pairs():
    assert win_rate.outcomes([2.0, 1.0], [1.0, 3.0]) == (1.0, 0.0, 0.5, 0.0)


def test_raw_is_the_share_of_wins_of_each_prompt():
    observed = win_rate.raw([Comparison("l", "g", (1.0, 0.0, 0.5, 0.0), (0, 0, 0, 0))])
    assert (observed[0].group_id, observed[0].value) == ("g", 0.375)


def test_equal_lengths_give_the_raw_win_rate():
    assert fit([1] * 30 + [0] * 10, [0.0] * 40) == pytest.approx(0.75, abs=1e-3)


def test_a_win_rate_that_is_all_length_becomes_one_half():
    """Longer wins 80 of 100, and we are longer in 3 of 4: raw 0.65, at equal length 0.5 by symmetry of the fit."""
    wins = [1] * 60 + [0] * 15 + [1] * 5 + [0] * 20
    differences = [10] * 75 + [-10] * 25
    # logit 0.8 = a + b x and logit 0.2 = a - b x, so a = 0
    assert np.mean(wins) == 0.65
    assert fit(wins, differences) == pytest.approx(0.5, abs=1e-3)


def test_golden_value_with_two_lengths():
    """Two lengths d = 1 and 3 (std 1), wins 0.6 and 0.9: the line through both logits, read at x = 0."""
    wins, differences = [1] * 60 + [0] * 40 + [1] * 90 + [0] * 10, [1] * 100 + [3] * 100
    x1, x2, y1, y2 = np.tanh(1), np.tanh(3), np.log(0.6 / 0.4), np.log(0.9 / 0.1)
    a = y1 - x1 * (y2 - y1) / (x2 - x1)
    assert fit(wins, differences) == pytest.approx(1 / (1 + np.exp(-a)), abs=2e-3)


def test_always_winning_stays_finite():
    assert 0.99 < fit([1] * 50, np.arange(50) - 25) < 1.0
    assert 0.0 < fit([0] * 50, np.arange(50)) < 0.5
    assert np.isfinite(fit([1, 0], [5, -5]))


def test_each_row_of_weights_is_a_fit_of_its_own():
    rng = np.random.default_rng(0)
    wins, differences = rng.integers(0, 3, 60) / 2, rng.normal(size=60)
    weights = rng.integers(0, 3, (5, 60)).astype(float)
    together = win_rate.length_controlled(wins, differences, weights)
    alone = [win_rate.length_controlled(wins, differences, w[None])[0] for w in weights]
    assert together == pytest.approx(alone, abs=1e-9)


def test_estimate_weighs_prompts_equally_and_marks_empty_draws():
    comparisons = [Comparison("a", "g1", (1.0,) * 8, (0,) * 8), Comparison("a", "g2", (0.0,), (0,)), Comparison("b", "g2", (1.0,), (0,))]
    estimate = win_rate.length_controlled_estimate(comparisons, n=40, seed=0)
    assert estimate.languages == ["a", "b"]
    assert estimate.values[0] == pytest.approx(0.5, abs=1e-6)  # one prompt won, one lost
    assert estimate.n == [2, 1]
    assert np.isnan(estimate.replicates[:, 1]).any()
    assert not np.isnan(estimate.replicates[:, 0]).any()
