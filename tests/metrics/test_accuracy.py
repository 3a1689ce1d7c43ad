import numpy as np
import pytest

from mlalign.methods.metrics import accuracy

NAN = np.nan


def test_mean_of_each_item_leaves_out_missing_values():
    values = np.array([[1.0, NAN, NAN, 0.0], [NAN, NAN, NAN, NAN], [1, 1, 0, 1]])
    assert accuracy.mean(values) == pytest.approx([0.5, NAN, 0.75], nan_ok=True)
    assert accuracy.mean_columns(values) == pytest.approx(
        np.array([[0.5, 1], [NAN, NAN], [0.75, 1]]), nan_ok=True
    )


def test_sums_over_answers_that_have_all_values():
    a, b = np.array([[1.0, 2.0, NAN], [NAN, 1, NAN]]), np.array([[10.0, NAN, 5.0], [NAN, NAN, NAN]])
    assert accuracy.sum_columns(a, b) == pytest.approx(np.array([[1, 10], [NAN, NAN]]), nan_ok=True)


def test_a_tie_is_half_right():
    verdicts = accuracy.verdict(np.array([[2.0, 1], [1, 1], [1, 2], [NAN, 1], [1, NAN]]))
    assert verdicts == pytest.approx([1, 0.5, 0, NAN, NAN], nan_ok=True)
    assert accuracy.tie(verdicts) == pytest.approx([0, 1, 0, NAN, NAN], nan_ok=True)


def test_agreement_with_the_counterpart_by_hand():
    verdicts = np.array([1.0, 1.0, 0.5, 0.0, NAN, 1.0])
    counterpart = np.array([0, 0, 0, 0, 0, -1])  # item 0 is the English one; the last has none
    columns = accuracy.agreement_columns(verdicts, counterpart)
    assert np.isnan(columns).all(1).tolist() == [True, False, False, False, True, True]
    # rows: this item lower, tie, higher; columns: English lower, tie, higher, which is always
    #     higher here
    assert [int(c.argmax()) for c in columns[1:4]] == [8, 5, 2]
    assert accuracy.on_diagonal(columns[1:4]).tolist() == [[1, 1], [0, 1], [0, 1]]
