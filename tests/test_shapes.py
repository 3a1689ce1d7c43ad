import pytest

from mlalign.core import shapes


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ({}, None),
        ({"eng_Latn": 3, "swh_Latn": 0.5}, None),
        ({"eng_Latn": [3]}, "'by_language' holds something other than numbers"),
        ({"eng_Latn": float("nan")}, "'by_language' holds something other than numbers"),
        ({"eng_Latn": True}, "'by_language' holds something other than numbers"),
        ([3], "'by_language' is a list"),
    ],
)
def test_counts_are_numbers(counts, problem):
    assert shapes.problem({"by_language": counts}, {"by_language": shapes.Counts}) == problem


def test_a_number_is_finite():
    fields = {"started": shapes.NUMBER}
    assert shapes.problem({"started": float("inf")}, fields) == "'started' is inf, which is not finite"
