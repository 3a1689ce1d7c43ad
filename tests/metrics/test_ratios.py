import itertools

import numpy as np
import pytest

from mlalign.methods.metrics import ratios


def kappa_of_labels(a: list, b: list) -> float:
    """Cohen's kappa from two lists of labels, counted one by one."""
    n, labels = len(a), set(a) | set(b)
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    expected = sum((a.count(label) / n) * (b.count(label) / n) for label in labels)
    return (observed - expected) / (1 - expected)


def table_of(a: list, b: list, labels: list) -> np.ndarray:
    return np.array(
        [
            sum((x, y) == pair for x, y in zip(a, b, strict=True))
            for pair in itertools.product(labels, labels)
        ],
        float,
    )


def test_ratio_and_nothing_over_nothing():
    assert ratios.ratio(np.array([[1.0, 4.0], [0.0, 0.0]])) == pytest.approx(
        [0.25, np.nan], nan_ok=True
    )


def test_harmonic_mean_by_hand():
    # 0.75 and 0.5 -> 2 * 0.375 / 1.25 = 0.6; the first 0 -> 0; the second not defined -> not
    # defined
    sums = np.array([[3.0, 4, 1, 2], [0, 4, 0, 0], [4, 4, 0, 0], [2, 4, 0, 3]])
    assert ratios.harmonic(sums) == pytest.approx([0.6, 0.0, np.nan, 0.0], nan_ok=True)


def test_ratio_of_ratios():
    assert ratios.ratio_of_ratios(np.array([30.0, 2, 6, 4])) == pytest.approx(10.0)


def test_kappa_of_a_textbook_table():
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, expected 0.5."""
    assert ratios.kappa(np.array([20.0, 5, 10, 15])) == pytest.approx(0.4)


@pytest.mark.parametrize("labels", [[1, 0], [1, 0.5, 0]])
def test_kappa_against_an_independent_computation(labels):
    rng = np.random.default_rng(0)
    for _ in range(20):
        a = rng.choice(labels, 40).tolist()
        b = [
            x if rng.random() < 0.6 else y
            for x, y in zip(a, rng.choice(labels, 40).tolist(), strict=True)
        ]
        assert ratios.kappa(table_of(a, b, labels)) == pytest.approx(kappa_of_labels(a, b))


def test_kappa_is_not_defined_where_both_always_say_the_same():
    assert np.isnan(ratios.kappa(np.array([7.0, 0, 0, 0])))
    assert np.isnan(ratios.kappa(np.zeros(9)))
    assert ratios.kappa(np.array([0.0, 7, 0, 0])) == pytest.approx(
        0.0
    )  # one says always yes, one always no


def test_all_languages_and_replicates_at_once():
    tables = np.random.default_rng(1).integers(1, 9, (3, 2, 9)).astype(float)
    each = [[ratios.kappa(tables[i, j]) for j in range(2)] for i in range(3)]
    assert ratios.kappa(tables) == pytest.approx(np.array(each))
