"""The benchmarks' weights against published totals, and their formulas worked out by hand."""

import math

import pytest

from reward_models.evidence import rewardbench

CODE = ("hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust")


def test_weights_are_the_published_numbers_of_rows():
    """2,985 rows in RewardBench; 296, 407, 736 and 1,430 in the sections of M-RewardBench (its
    table 1); math weighs as all code.
    """
    for counts, sizes in (
        ("rewardbench", [358, 456, 740, 1431]),
        ("m_rewardbench", [296, 407, 736, 1430]),
    ):
        weights = rewardbench.COUNTS[counts]
        assert set(weights) == set(rewardbench.SECTION_OF) and len(weights) == 23
        assert weights["math-prm"] == sum(weights[s] for s in CODE)
        rows = weights | {"math-prm": 447}
        assert [sum(rows[s] for s in subsets) for subsets in rewardbench.SECTIONS.values()] == sizes
    assert sum(rewardbench.COUNTS["rewardbench"].values()) - 984 + 447 == 2985


def test_sections_weigh_their_subsets():
    found = rewardbench.sections(
        {"mt-bench-easy": 1.0, "mt-bench-med": 0.5, "math-prm": 0.2, "hep-go": 0.8},
        rewardbench.COUNTS["rewardbench"],
    )
    assert found == {
        "Chat": pytest.approx((28 + 20) / 68),
        "Reasoning": pytest.approx((984 * 0.2 + 164 * 0.8) / 1148),
    }


def test_score_is_the_mean_of_four_sections_and_none_without_one():
    sections = {"Chat": 0.9, "Chat Hard": 0.5, "Safety": 0.7, "Reasoning": 0.3}
    assert rewardbench.score(sections) == pytest.approx(0.6)
    assert rewardbench.score({k: v for k, v in sections.items() if k != "Safety"}) is None
    prior = {"anthropic_helpful": 0.5, "anthropic_hhh": 0.7, "shp": 0.1, "summarize": 0.3}
    assert rewardbench.with_prior(sections, prior) == pytest.approx(
        (2 * 2.4 + 0.4) / 9
    )  # weights 2, 2, 2, 2, 1
    assert rewardbench.with_prior(sections, {"shp": 1.0}) is None


def test_ties_of_one_prompt():
    """Right answers 5 and 4 (s = 1), best wrong 1 (m = 3); reference 3 against 1 (r = 2)."""
    assert rewardbench.ties(([3.0], [1.0, 0.0]), ([5.0, 4.0], [1.0])) == {
        "ref": 1.0,
        "tied": 1.0,
        "preferred": 1.0,
        "preferred_hard": 1.0,
        "margin": pytest.approx(math.tanh(1.0)),
    }
    wide = rewardbench.ties(([3.0], [2.0]), ([9.0, 6.0], [2.0]))  # s = 3, m = 4, r = 1
    assert wide == {
        "ref": 1.0,
        "tied": 1.0,
        "preferred": 1.0,
        "preferred_hard": 0.0,
        "margin": pytest.approx(math.tanh(1 / 3 - 1)),
    }
    assert rewardbench.ties(([1.0], [2.0]), ([2.0, 2.0], [2.0])) == {
        "ref": 0.0,
        "tied": 0.0,
        "preferred": 0.0,
        "preferred_hard": 0.0,
    }
    assert rewardbench.ties(None, ([2.0, 1.0], [0.0])) == {"tied": 1.0}


def test_ties_score_weighs_the_means():
    means = {"ref": 0.5, "tied": 1.0, "preferred": 0.5, "preferred_hard": 0.25, "margin": -1.0}
    assert rewardbench.ties_score(means) == pytest.approx(0.3 + 0.15 + 0.1 + 0.05 - 0.01)
    assert rewardbench.ties_score({"ref": 1.0}) == pytest.approx(0.3)


def test_unknown_subsets():
    assert rewardbench.unknown(["math-prm", "Ties", "shp", "translation-easy"]) == [
        "translation-easy"
    ]
