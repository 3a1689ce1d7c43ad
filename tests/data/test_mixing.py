import pytest

from mlalign.data import mixing


def test_temperature_one_keeps_proportions():
    assert mixing.temperature_counts({"a": 600, "b": 300, "c": 100}, 1.0, 100) == {"a": 60, "b": 30, "c": 10}


def test_temperature_two_takes_square_roots():
    # sqrt(900), sqrt(100) = 30, 10
    assert mixing.temperature_counts({"a": 900, "b": 100}, 2.0, 80) == {"a": 60, "b": 20}


def test_without_a_total_the_largest_that_keeps_the_proportions():
    # p = 3/4, 1/4 and b has 100: 300 + 100
    assert mixing.temperature_counts({"a": 900, "b": 100}, 2.0) == {"a": 300, "b": 100}
    assert mixing.temperature_counts({"a": 900, "b": 100}) == {"a": 900, "b": 100}


def test_a_short_language_gives_all_and_the_others_share_the_rest():
    assert mixing.temperature_counts({"a": 1000, "b": 1000, "c": 10}, 1e9, 300) == {"a": 145, "b": 145, "c": 10}
    assert mixing.temperature_counts({"a": 5, "b": 5}, 1.0, 100) == {"a": 5, "b": 5}
    assert mixing.temperature_counts({"a": 0}, 1.0, 10) == {}


def test_largest_remainder_sums_and_breaks_ties_by_name():
    assert mixing.largest_remainder({"a": 1.5, "b": 1.5, "c": 1.0}, 4) == {"a": 2, "b": 1, "c": 1}


@pytest.mark.parametrize("total", [1, 7, 100, 999])
def test_any_total_is_met_exactly(total):
    counts = mixing.temperature_counts({"a": 777, "b": 333, "c": 11}, 3.0, total)
    assert sum(counts.values()) == total
    assert all(counts[name] <= n for name, n in {"a": 777, "b": 333, "c": 11}.items())
