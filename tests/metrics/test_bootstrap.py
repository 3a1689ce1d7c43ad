import numpy as np
import pytest

from mlalign.metrics import Observation, bootstrap


def observe(values: dict[str, dict[str, list[float]]]) -> list[Observation]:
    """language -> group -> values."""
    return [Observation(lang, group, v) for lang, groups in values.items() for group, vs in groups.items() for v in vs]


def test_means_by_hand():
    estimate = bootstrap.means(observe({"b": {"g1": [1.0, 0.0], "g2": [1.0]}, "a": {"g2": [0.5]}}), n=20, seed=0)
    assert estimate.languages == ["a", "b"]
    assert estimate.values.tolist() == pytest.approx([0.5, 2 / 3])
    assert (estimate.n, estimate.n_groups, estimate.total_groups) == ([1, 3], [1, 2], 2)
    # each replicate draws g1,g1 | g1,g2 | g2,g2: language b is 1/2, 2/3 or 1; language a is missing where g2 is
    by_b = estimate.replicates[:, 1]
    assert set(np.round(by_b, 6)) == {0.5, 0.666667, 1.0}
    assert np.array_equal(np.isnan(estimate.replicates[:, 0]), by_b == 0.5)


def test_order_of_observations_does_not_matter():
    observations = observe({lang: {f"g{i}": [float((i * k) % 3)] for i in range(9)} for k, lang in enumerate("abc", 1)})
    one, two = (bootstrap.means(o, 50, 3) for o in (observations, observations[::-1]))
    assert np.array_equal(one.replicates, two.replicates)


def test_resample_draws_as_many_groups_as_there_are():
    drawn = bootstrap.resample(7, 30, 1)
    assert drawn.shape == (30, 7)
    assert set(drawn.sum(1)) == {7.0}
    assert not np.array_equal(drawn, bootstrap.resample(7, 30, 2))


def test_interval_by_hand():
    assert bootstrap.interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    assert bootstrap.interval(np.array([np.nan, 1.0, 1.0]), 0.95) == (1.0, 1.0)


def test_clustered_interval_covers_and_the_unclustered_one_does_not():
    """60 groups of 8 equal-correlated values: 95% intervals hold the truth about 95 times in 100, those ignoring groups far less."""
    rng = np.random.default_rng(1)
    covered = {"clustered": 0, "ignored": 0}
    for trial in range(200):
        values = rng.normal(size=(60, 1)) + 0.5 * rng.normal(size=(60, 8))  # true mean 0
        clustered = [Observation("l", f"{g:02}", v) for g, row in enumerate(values) for v in row]
        ignored = [Observation("l", f"{g:02}.{i}", v) for g, row in enumerate(values) for i, v in enumerate(row)]
        for name, observations, n in (("clustered", clustered, 1000), ("ignored", ignored, 200)):
            low, high = bootstrap.interval(bootstrap.means(observations, n, trial).replicates[:, 0], 0.95)
            covered[name] += low <= 0 <= high
    assert 0.90 <= covered["clustered"] / 200 <= 0.99
    assert covered["ignored"] / 200 < 0.75
