"""Mixing rules: values worked out by hand, and what must hold for any small case."""

from itertools import pairwise, product

import pytest

from mlalign.core.errors import UserError
from mlalign.methods import mixing
from mlalign.methods.mixing import largest_remainder
from mlalign.methods.mixing.cap import cap
from mlalign.methods.mixing.temperature import temperature
from mlalign.methods.mixing.unimax import unimax

# Every number of rows in three languages from these, which has ties, an empty and a huge one.
SMALL = [dict(zip("abc", counts, strict=True)) for counts in product((0, 1, 7, 30, 1000), repeat=3)]
TOTALS = (1, 2, 29, 100, 3000)


def test_temperature_one_keeps_proportions():
    rows = {"a": 600, "b": 300, "c": 100}
    assert temperature(rows, temperature=1.0, total=100) == {"a": 60, "b": 30, "c": 10}


def test_temperature_two_takes_square_roots():
    # sqrt(900), sqrt(100) = 30, 10
    assert temperature({"a": 900, "b": 100}, temperature=2.0, total=80) == {"a": 60, "b": 20}


def test_without_a_total_the_largest_that_keeps_the_proportions():
    # p = 3/4, 1/4 and b has 100: 300 + 100
    assert temperature({"a": 900, "b": 100}, temperature=2.0) == {"a": 300, "b": 100}
    assert temperature({"a": 900, "b": 100}) == {"a": 900, "b": 100}


def test_a_short_language_gives_all_and_the_others_share_the_rest():
    rows = {"a": 1000, "b": 1000, "c": 10}
    assert temperature(rows, temperature=1e9, total=300) == {"a": 145, "b": 145, "c": 10}
    assert temperature({"a": 5, "b": 5}, total=100) == {"a": 5, "b": 5}
    assert temperature({"a": 0}, total=10) == {}


def test_largest_remainder_sums_and_breaks_ties_by_name():
    assert largest_remainder({"a": 1.5, "b": 1.5, "c": 1.0}, 4) == {"a": 2, "b": 1, "c": 1}


@pytest.mark.parametrize("power", [1.0, 3.0, 1e9])
def test_any_total_is_met_exactly_and_nothing_is_taken_twice(power):
    for rows, total in product(SMALL, TOTALS):
        taken = temperature(rows, temperature=power, total=total)
        assert sum(taken.values()) == min(total, sum(rows.values()))
        assert all(n <= rows[language] for language, n in taken.items())


def test_a_larger_language_never_gives_fewer_rows():
    for rows, total, power in product(SMALL, TOTALS, (1.0, 2.0, 5.0)):
        taken = temperature(rows, temperature=power, total=total)
        ordered = [taken[language] for language in sorted(taken, key=lambda name: rows[name])]
        assert all(next_ >= before - 1 for before, next_ in pairwise(ordered))


def by_the_paper(rows, total, max_epochs):
    """Algorithm 1 of UniMax as it is written, in fractions."""
    budget, left, taken = float(total), len(rows), {}
    for language, n in sorted(rows.items(), key=lambda item: item[1]):
        taken[language] = min(budget / left, int(max_epochs * n))
        budget -= taken[language]
        left -= 1
    return taken


def test_unimax_takes_even_shares_within_the_epochs():
    rows = {"a": 1000, "b": 100, "c": 10}
    assert unimax(rows, total=600, max_epochs=4) == {"a": 280, "b": 280, "c": 40}
    assert unimax(rows, total=600) == {"a": 490, "b": 100, "c": 10}


@pytest.mark.parametrize("max_epochs", [1.0, 1.5, 4.0])
def test_unimax_is_the_papers_algorithm(max_epochs):
    for rows, total in product(SMALL, TOTALS):
        there = {language: n for language, n in rows.items() if n}
        taken = unimax(rows, total=total, max_epochs=max_epochs)
        wanted = by_the_paper(there, total, max_epochs)
        assert taken.keys() == wanted.keys()
        assert all(abs(taken[language] - n) < 1 for language, n in wanted.items())
        assert sum(taken.values()) == round(sum(wanted.values()))


def test_cap_takes_the_smaller_of_what_is_there_and_the_limit():
    rows = {"a": 900, "b": 100}
    assert cap(rows, rows=300) == {"a": 300, "b": 100}
    assert cap(rows, rows=300, by_language={"b": 7, "c": 1}) == {"a": 300, "b": 7}


def test_rules_are_found_by_name_and_fit_the_total():
    assert mixing.load("unimax") is unimax
    with pytest.raises(UserError, match="mixing: 'unimaxx' is no mixing rule; did you mean"):
        mixing.load("unimaxx")
    assert mixing.problems(unimax, "unimax", None)[0].startswith("total_rows: missing; the mixing")
    assert mixing.problems(cap, "cap", 5)[0].startswith("total_rows: the mixing rule cap takes no")
    assert mixing.problems(unimax, "unimax", 5) == mixing.problems(temperature, "t", None) == []
