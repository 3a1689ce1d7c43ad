import pytest

from mlalign.core import shapes


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ({}, None),
        ({"eng_Latn": 3, "swh_Latn": 0.5}, None),
        ({"eng_Latn": [3]}, "'by_language' is a mapping of something other than numbers"),
        ({"eng_Latn": float("nan")}, "'by_language' is a mapping of something other than numbers"),
        ({"eng_Latn": True}, "'by_language' is a mapping of something other than numbers"),
        ([3], "'by_language' is a list"),
    ],
)
def test_counts_are_numbers(counts, problem):
    assert shapes.problem({"by_language": counts}, {"by_language": shapes.Counts}) == problem


def test_a_number_is_finite():
    fields = {"started": shapes.NUMBER}
    assert (
        shapes.problem({"started": float("inf")}, fields) == "'started' is inf, which is not finite"
    )


@pytest.mark.parametrize("name", ["x" * 3000, "a/b", "", "a\nb"])
def test_an_artifact_has_a_name_that_a_directory_can_have(name):
    fields = {"artifact": shapes.FileName}
    assert shapes.problem({"artifact": "sft-0123456789abcdef"}, fields) is None
    assert "'artifact' cannot name a directory" in shapes.problem({"artifact": name}, fields)
