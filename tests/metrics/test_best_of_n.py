import itertools

import numpy as np
import pytest

from mlalign.methods.metrics import best_of_n

NAN = np.nan


def listed(scores: list[float], values: list[float], k: int) -> float:
    """The expected value of the best-scoring answer, by listing all subsets of size k; ties share."""
    found = []
    for subset in itertools.combinations(range(len(scores)), k):
        best = max(scores[i] for i in subset)
        found.append(np.mean([values[i] for i in subset if scores[i] == best]))
    return float(np.mean(found))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_selected_equals_the_mean_over_all_subsets(k):
    rng = np.random.default_rng(k)
    scores, values = (
        rng.integers(0, 4, (30, 6)).astype(float),
        rng.integers(0, 2, (30, 6)).astype(float),
    )  # with many ties
    expected = [listed(s, v, k) for s, v in zip(scores.tolist(), values.tolist(), strict=True)]
    assert best_of_n.selected(scores, values, k) == pytest.approx(expected)


def test_oracle_is_pass_at_k():
    """n = 5, c = 2, k = 2: 1 - C(3, 2) / C(5, 2) = 0.7."""
    assert best_of_n.oracle(np.array([[1.0, 0, 0, 1, 0]]), 2) == pytest.approx([0.7])
    assert best_of_n.oracle(np.array([[0.2, 0.9, NAN]]), 2) == pytest.approx([0.9])


def test_one_at_random_is_the_mean():
    values = np.random.default_rng(0).random((7, 4))
    assert best_of_n.selected(np.random.default_rng(1).random((7, 4)), values, 1) == pytest.approx(
        values.mean(1)
    )


def test_all_answers_of_each_item_by_hand():
    scores = np.array([[0.1, 0.9, 0.9, NAN], [0.5, NAN, NAN, NAN], [NAN, 1.0, NAN, NAN]])
    values = np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, NAN, NAN], [1.0, NAN, NAN, NAN]])
    # two share the highest score, one of them is right; one answer has both; none has both
    assert best_of_n.selected(scores, values) == pytest.approx([0.5, 1.0, NAN], nan_ok=True)


def test_items_with_fewer_answers_than_k_are_left_out():
    scores = values = np.array([[1.0, 0.0, 0.0], [1.0, NAN, NAN]])
    assert best_of_n.selected(scores, values, 2) == pytest.approx([2 / 3, NAN], nan_ok=True)


def test_order_of_answers_does_not_matter():
    rng = np.random.default_rng(0)
    scores, values = rng.integers(0, 3, (9, 8)).astype(float), rng.random((9, 8))
    order = rng.permutation(8)
    assert best_of_n.selected(scores[:, order], values[:, order], 3) == pytest.approx(
        best_of_n.selected(scores, values, 3)
    )


def test_sizes():
    assert [best_of_n.sizes(n) for n in (0, 1, 6, 8)] == [[], [1], [1, 2, 4, 6], [1, 2, 4, 8]]
