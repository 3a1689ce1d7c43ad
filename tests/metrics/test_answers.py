import numpy as np
import pytest

from mlalign.methods.metrics import answers
from mlalign.methods.metrics.answers import Answers, Items

NAN = np.nan


def items(*rows: tuple[str, str, str], **parts: list[str]) -> Items:
    return Items.of([(*r, "native") for r in rows], np.full(len(rows), NAN), parts)


def test_counterparts_by_group_and_kind():
    rows = [
        ("e1", "eng", "g1"),
        ("e2", "eng", "g1"),
        ("s1", "swh", "g1"),
        ("s2", "swh", "g1"),
        ("s3", "swh", "g2"),
    ]
    assert answers.counterparts(
        items(*rows, kind=["cut", "wrong", "wrong", "cut", "cut"]), "eng"
    ).tolist() == [0, 1, 1, 0, -1]
    assert (
        answers.counterparts(items(*rows), "eng").tolist() == [-1] * 5
    )  # two in English: it cannot be told which


def test_pairs_of_two_policies_by_id_and_occurrence():
    ours, theirs = (
        items(("a", "l", "g"), ("b", "l", "g"), ("a", "l", "g")),
        items(("c", "l", "g"), ("a", "l", "g"), ("a", "l", "g")),
    )
    i, j = answers.pairs(ours, theirs)
    assert (i.tolist(), j.tolist()) == ([0, 2], [1, 2])
    assert [x.tolist() for x in answers.pairs(ours, items(("z", "l", "g")))] == [[], []]


def test_padded():
    assert answers.padded(np.array([1.0, 2, 3]), np.array([2, 0, 1]), 2) == pytest.approx(
        np.array([[1, 2], [NAN, NAN], [3, NAN]]), nan_ok=True
    )
    assert answers.padded(np.array(["x", None], object), np.array([1, 1]), 2).tolist() == [
        ["x", None],
        [None, None],
    ]


def one(identifier: str, n: int, column: str, **parts: list[str]) -> Answers:
    told = items((identifier, "l", "g"), **parts)
    return Answers(
        told,
        {column: np.ones((1, n))},
        {"characters": np.ones((1, n))},
        np.full((1, n), "l", object),
    )


def test_joined_answers_of_different_width_and_columns():
    found = answers.joined([one("a", 1, "x", kind=["cut"]), one("b", 2, "y")])
    assert found.items.id == ["a", "b"]
    assert found.items.parts == {"kind": ["cut", ""]}
    assert found.score("x") == pytest.approx(np.array([[1, NAN], [NAN, NAN]]), nan_ok=True)
    assert found.detected.tolist() == [["l", None], ["l", "l"]]
    assert found.present.tolist() == [[True, False], [True, True]]
    assert np.isnan(found.score("nobody wrote it")).all()


def test_only_some_items():
    both = answers.joined([one("a", 1, "x"), one("b", 1, "x", kind=["cut"])])
    left = both.only(np.array([False, True]))
    assert (left.items.id, left.items.parts, left.scores["x"].tolist()) == (
        ["b"],
        {"kind": ["cut"]},
        [[1.0]],
    )
