import numpy as np
import pytest

from mlalign.methods.metrics import bootstrap, win_rate

NAN = np.nan


def fit(wins, differences) -> float:
    """The fit to single pairs, without rounding."""
    wins, differences = np.array(wins, float), np.array(differences, float)
    x = np.tanh(differences / (differences.std() or 1.0))
    return float(win_rate.length_controlled(wins[None], np.ones((1, len(wins))), x)[0])


def test_outcomes_of_all_pairs():
    ours, theirs = np.array([[2.0, 1.0], [5.0, NAN]]), np.array([[1.0, 3.0], [5.0, 4.0]])
    assert win_rate.outcomes(ours, theirs) == pytest.approx(
        np.array([[1, 0, 0.5, 0], [0.5, 1, NAN, NAN]]), nan_ok=True
    )


def test_raw_is_the_share_of_wins_of_each_prompt(monkeypatch):
    ours, theirs = (
        np.array([[2.0, 1.0], [NAN, 0.0], [NAN, NAN]]),
        np.array([[1.0, 3.0], [0.0, NAN], [1.0, 1.0]]),
    )
    assert win_rate.raw(ours, theirs) == pytest.approx([0.375, 0.5, NAN], nan_ok=True)
    monkeypatch.setattr(win_rate, "CHUNK", 4)  # a prompt at a time
    assert win_rate.raw(ours, theirs) == pytest.approx([0.375, 0.5, NAN], nan_ok=True)


def test_equal_lengths_give_the_raw_win_rate():
    assert fit([1] * 30 + [0] * 10, [0.0] * 40) == pytest.approx(0.75, abs=1e-3)


def test_a_win_rate_that_is_all_length_becomes_one_half():
    """Longer wins 80 of 100, and we are longer in 3 of 4: raw 0.65, at equal length 0.5 by symmetry
    of the fit.
    """
    wins = [1] * 60 + [0] * 15 + [1] * 5 + [0] * 20
    differences = [10] * 75 + [-10] * 25
    # logit 0.8 = a + b x and logit 0.2 = a - b x, so a = 0
    assert np.mean(wins) == 0.65
    assert fit(wins, differences) == pytest.approx(0.5, abs=1e-3)


def test_golden_value_with_two_lengths():
    """Two lengths d = 1 and 3 (std 1), wins 0.6 and 0.9: the line through both logits, read at x =
    0.
    """
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
    wins, x = rng.integers(0, 3, 60) / 2, np.tanh(rng.normal(size=60))
    weights = rng.integers(0, 3, (5, 60)).astype(float)
    together = win_rate.length_controlled(weights * wins, weights, x)
    alone = [win_rate.length_controlled((w * wins)[None], w[None], x)[0] for w in weights]
    assert together == pytest.approx(alone, abs=1e-9)


def estimated(language, group, scores, lengths, n=40) -> bootstrap.Estimate:
    scores, lengths = (tuple(np.array(a, float) for a in pair) for pair in (scores, lengths))
    return win_rate.length_controlled_estimate(
        language, group, scores, lengths, bootstrap.draw(group, n, 0)
    )


def test_estimate_weighs_prompts_equally_and_marks_empty_draws():
    """In `a` one prompt of four pairs is won and one of a single pair lost; `b` stands in one group
    only.
    """
    ours = ([[1, 1], [0, NAN], [1, 1]], [[0, 0], [1, NAN], [0, 0]])
    found = estimated(["a", "a", "b"], ["g1", "g2", "g2"], ours, (np.ones((3, 2)), np.ones((3, 2))))
    assert found.languages == ["a", "b"]
    assert found.values[0] == pytest.approx(0.5, abs=1e-6)
    assert (found.n, found.n_groups, found.total_groups) == ([2, 1], [2, 1], 2)
    assert np.isnan(found.replicates[:, 1]).any()
    assert not np.isnan(found.replicates[:, 0]).any()


def test_pairs_without_a_length_are_left_out():
    found = estimated(
        ["a", "b"], ["g1", "g2"], ([[1.0], [1.0]], [[0.0], [0.0]]), ([[5.0], [NAN]], [[5.0], [5.0]])
    )
    assert found.languages == ["a"]
    assert estimated(["a"], ["g1"], ([[NAN]], [[0.0]]), ([[5.0]], [[5.0]])).languages == []


def test_rounding_the_lengths_changes_nothing_that_matters():
    """Estimate and replicates from at most 65 counts against fits to all pairs."""
    rng = np.random.default_rng(0)
    n = 300
    ours, theirs = rng.normal(0.3, 1, (n, 3)), rng.normal(size=(n, 2))
    lengths = (
        np.round(30 + 4 * ours + rng.normal(size=(n, 3))),
        np.round(30 + rng.normal(size=(n, 2))),
    )
    group = [f"g{i:03}" for i in range(n)]
    draws = bootstrap.draw(group, 30, 0)
    found = win_rate.length_controlled_estimate(["a"] * n, group, (ours, theirs), lengths, draws)
    wins = win_rate.outcomes(ours, theirs)
    d = (lengths[0][:, :, None] - lengths[1][:, None, :]).reshape(n, -1)
    x, share = np.tanh(d / d.std()).ravel(), np.full(d.shape, 1 / d.shape[1])
    rows = [share, *(share * w[:, None] for w in draws.weights)]
    exact = [
        win_rate.length_controlled((r * wins).reshape(1, -1), r.reshape(1, -1), x)[0] for r in rows
    ]
    assert [found.values[0], *found.replicates[:, 0]] == pytest.approx(exact, abs=2e-3)
