import numpy as np
import pytest

from mlalign.methods.metrics import accuracy, bootstrap
from mlalign.methods.metrics.bootstrap import Draws, Observed


def observe(values: dict[str, dict[str, list[float]]]) -> Observed:
    """language -> group -> values, as a mean is made of them."""
    told = [
        (lang, group, v)
        for lang, groups in values.items()
        for group, vs in groups.items()
        for v in vs
    ]
    return Observed(
        [t[0] for t in told],
        [t[1] for t in told],
        accuracy.mean_columns(np.array([t[2] for t in told])),
    )


def draws_of(observed: Observed, n: int, seed: int = 0) -> Draws:
    return bootstrap.draw(observed.group, n, seed)


def test_means_by_hand():
    observed = observe({"b": {"g1": [1.0, 0.0], "g2": [1.0]}, "a": {"g2": [0.5]}})
    estimate = bootstrap.estimate(observed, draws_of(observed, 20))
    assert estimate.languages == ["a", "b"]
    assert estimate.values.tolist() == pytest.approx([0.5, 2 / 3])
    assert (estimate.n, estimate.n_groups, estimate.total_groups) == ([1, 3], [1, 2], 2)
    # each replicate draws g1,g1 | g1,g2 | g2,g2: language b is 1/2, 2/3 or 1; language a is missing
    # where g2 is
    by_b = estimate.replicates[:, 1]
    assert set(np.round(by_b, 6)) == {0.5, 0.666667, 1.0}
    assert np.array_equal(np.isnan(estimate.replicates[:, 0]), by_b == 0.5)


def test_each_replicate_is_the_estimate_of_what_was_drawn():
    rng = np.random.default_rng(0)
    groups, languages = [f"g{i % 7}" for i in range(40)], [f"l{i % 3}" for i in range(40)]
    values = rng.normal(size=40)
    draws = bootstrap.draw(groups, 5, 0)
    estimate = bootstrap.estimate(Observed(languages, groups, accuracy.mean_columns(values)), draws)
    for b in range(5):
        times = [int(draws.weights[b, draws.number[g]]) for g in groups]
        for k, lang in enumerate(estimate.languages):
            drawn = [
                v
                for v, name, n in zip(values, languages, times, strict=True)
                for _ in range(n)
                if name == lang
            ]
            assert estimate.replicates[b, k] == pytest.approx(np.mean(drawn))


def test_items_where_nothing_was_observed_do_not_count():
    observed = observe({"a": {"g1": [1.0, np.nan], "g2": [np.nan]}, "b": {"g2": [np.nan]}})
    estimate = bootstrap.estimate(observed, draws_of(observed, 5))
    assert (estimate.languages, estimate.values.tolist(), estimate.n, estimate.n_groups) == (
        ["a"],
        [1.0],
        [1],
        [1],
    )


def test_order_of_observations_does_not_matter():
    observed = observe(
        {lang: {f"g{i}": [float((i * k) % 3)] for i in range(9)} for k, lang in enumerate("abc", 1)}
    )
    turned = Observed(observed.language[::-1], observed.group[::-1], observed.columns[::-1])
    one, two = (bootstrap.estimate(o, draws_of(o, 50, 3)) for o in (observed, turned))
    assert np.array_equal(one.replicates, two.replicates)


def test_as_many_groups_are_drawn_as_there_are():
    draws = bootstrap.draw("abcdefgabc", 30, 1)
    assert draws.weights.shape == (30, 7)
    assert set(draws.weights.sum(1)) == {7.0}
    assert not np.array_equal(draws.weights, bootstrap.draw("abcdefg", 30, 2).weights)


def test_very_many_groups_are_drawn_in_bundles_with_the_same_interval(monkeypatch):
    values = np.random.default_rng(0).normal(size=4000)
    observed = Observed(["l"] * 4000, [f"g{i}" for i in range(4000)], accuracy.mean_columns(values))
    widths = []
    for size in (4096, 500):
        monkeypatch.setattr(bootstrap, "MAX_CLUSTERS", size)
        estimate = bootstrap.estimate(observed, draws_of(observed, 1000))
        assert estimate.n_groups == [4000]
        low, high = bootstrap.interval(estimate.replicates[:, 0], 0.95, 4000)
        widths.append(high - low)
    assert widths == pytest.approx([2 * 1.96 * values.std() / 4000**0.5] * 2, rel=0.1)


def test_difference_is_paired_by_replicate():
    ours = observe({"a": {f"g{i}": [i + 1.0] for i in range(8)}, "b": {"g1": [1.0]}})
    theirs = observe({"a": {f"g{i}": [float(i)] for i in range(8)}})
    draws = draws_of(ours, 20)
    found = bootstrap.difference(bootstrap.estimate(ours, draws), bootstrap.estimate(theirs, draws))
    assert found.languages == ["a"]
    assert found.values == pytest.approx([1.0])
    assert found.replicates == pytest.approx(
        np.ones((20, 1))
    )  # each group differs by 1, whatever is drawn


def test_interval_of_many_groups_is_the_percentiles():
    assert bootstrap.interval(np.arange(1.0, 100), 0.9, 10**6) == pytest.approx(
        (5.0, 95.0), abs=1e-3
    )  # 99 replicates: the k-th is k percent
    assert bootstrap.interval(np.array([np.nan, 1.0, 1.0]), 0.95, 9) == (1.0, 1.0)
    assert bootstrap.interval(np.arange(9.0), 0.95, 1) is None
    assert bootstrap.interval(np.full(9, np.nan), 0.95, 5) is None


def test_interval_of_few_groups_is_that_of_the_t_test():
    """Replicates of a mean of n normal values have the deviation sd * sqrt((n - 1) / n) / sqrt(n)."""
    rng = np.random.default_rng(0)
    for n, t in ((6, 2.571), (20, 2.093)):
        se = 1 / n**0.5
        replicates = rng.normal(scale=se * ((n - 1) / n) ** 0.5, size=400_000)
        assert bootstrap.interval(replicates, 0.95, n) == pytest.approx((-t * se, t * se), rel=0.02)


def test_t_quantiles_of_the_printed_table():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, 1000: 1.962}
    assert {v: bootstrap.t_quantile(0.975, v) for v in table} == pytest.approx(table, rel=0.01)
    assert bootstrap.t_quantile(0.025, 7) == pytest.approx(-2.365, rel=1e-3)
