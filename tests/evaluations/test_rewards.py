"""Evaluations of reward models: RewardBench, RewardBench 2 and M-RewardBench on their published
forms.
"""

import math

import pytest
from evaluation_cases import SUBSETS, evaluate, pair, rows_of, table, value, write_lines
from tiny_classifier import save_classifier

from reward_models.evidence import rewardbench

pytestmark = pytest.mark.slow

PER_SUBSET = 4
PRIOR = rewardbench.PRIOR_SETS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("reward_model"))


def all_pairs(language: str = "") -> list[dict]:
    subsets = [subset for own in SUBSETS.values() for subset in own]
    numbered = enumerate(subset for subset in subsets for _ in range(PER_SUBSET))
    return [pair(number, subset, language) for number, subset in numbered]


def scores_of(step) -> dict[str, float]:
    """candidate id -> score."""
    rows = rows_of(step)
    # The scorer's own column; what it says besides stands below that name.
    column = min((name for name in rows[0] if name.startswith("score.")), key=len)
    return {row["candidate_id"]: row[column] for row in rows}


def accuracies(steps, name: str, language: str) -> dict[str, float]:
    """The share of right pairs by subset, from the raw scores alone; a tie is wrong."""
    scores = scores_of(steps / f"measure_{name}.marks[model]")
    wins: dict[str, list[bool]] = {}
    for row in rows_of(steps / f"rows_{name}"):
        if row["prompt_lang"] == language:
            subset = row["metadata"].split('"')[3]
            wins.setdefault(subset, []).append(
                scores[f"{row['id']}:chosen"] > scores[f"{row['id']}:rejected"]
            )
    return {subset: sum(own) / len(own) for subset, own in wins.items()}


def expected_score(
    found: dict[str, float], counts: dict[str, int]
) -> tuple[float, dict[str, float]]:
    """The mean of four sections, each the mean of its subsets by their published numbers of rows."""
    sections = {}
    for section, subsets in SUBSETS.items():
        weight = sum(counts[subset] for subset in subsets)
        sections[section] = sum(counts[subset] * found[subset] for subset in subsets) / weight
    return sum(sections.values()) / 4, sections


@pytest.fixture(scope="module")
def english(tmp_path_factory, model):
    """RewardBench with its prior sets, and RewardBench 2, in one run."""
    folder = tmp_path_factory.mktemp("rewardbench")
    write_lines(folder / "one" / "filtered.jsonl", all_pairs())
    prior = [
        pair(1000 + number, name)
        for number, name in enumerate(name for name in PRIOR for _ in range(3))
    ]
    write_lines(folder / "one" / "prior.jsonl", prior)
    write_lines(folder / "two" / "test.jsonl", best_of_four())
    return evaluate(
        folder,
        "evaluation=[rewardbench,rewardbench2]",
        f"evaluation.rewardbench.root={folder / 'one'}",
        f"evaluation.rewardbench2.root={folder / 'two'}",
        f"model={model}",
    )


def best_of_four() -> list[dict]:
    """Rows of RewardBench 2: one right answer of four in five domains, and Ties with their
    references.
    """
    rows = []
    for number, domain in enumerate(d for d in rewardbench.DOMAINS[:-1] for _ in range(4)):
        wrong = [f"The sum is {number + k}{'.' * k}" for k in range(1, 4)]
        rows.append(
            {
                "id": str(number),
                "prompt": f"Sum {number}?",
                "chosen": [f"It is {number}."],
                "rejected": wrong,
                "subset": domain,
            }
        )
    for number in range(4):
        asked = {"prompt": f"Name a colour {number}.", "subset": "Ties"}
        right, wrong = ["red", "dark blue", "green!"], [f"{number}", "seven"]
        rows.append(
            {"id": f"ref:{number}", "chosen": [f"red {number}"], "rejected": wrong, **asked}
        )
        rows.append({"id": f"tied:{number}", "chosen": right, "rejected": wrong, **asked})
    return rows


def test_rewardbench_weighs_subsets_and_counts_prior_sets_half(english):
    found = accuracies(english, "rewardbench", "eng_Latn")
    score, sections = expected_score(found, rewardbench.COUNTS["rewardbench"])
    step = english / "measure_rewardbench[model]"
    assert value(step, "rewardbench", "eng_Latn") == pytest.approx(score, abs=1e-6)
    assert value(step, "rewardbench", "avg") == pytest.approx(score, abs=1e-6)
    prior = sum(found[name] for name in PRIOR) / 4
    assert value(step, "rewardbench_with_prior", "avg") == pytest.approx(
        (8 * score + prior) / 9, abs=1e-6
    )
    told = {
        r["member"]: r["value"]
        for r in table(step, "breakdown")
        if (r["metric"], r["language"]) == ("rewardbench", "avg")
    }
    assert told == {name: pytest.approx(share, abs=1e-6) for name, share in sections.items()}


def test_rewardbench_2_is_the_mean_of_best_of_four_and_ties(english):
    scores = scores_of(english / "measure_rewardbench2.marks[model]")
    hits: dict[str, list[float]] = {}
    ties: dict[str, dict[str, tuple]] = {}
    for row in rows_of(english / "rows_rewardbench2"):
        subset = row["metadata"].split('"')[3]
        own = [scores[f"{row['id']}:{place}"] for place in range(len(row["responses"]))]
        right = [score for score, rank in zip(own, row["ranks"], strict=True) if rank == 0]
        wrong = [score for score, rank in zip(own, row["ranks"], strict=True) if rank == 1]
        if subset == "Ties":
            ties.setdefault(row["group_id"], {})["ref" if len(right) == 1 else "tied"] = (
                right,
                wrong,
            )
        else:
            hits.setdefault(subset, []).append(float(right[0] > max(wrong)))
    assert len(ties) == 4
    domains = [sum(own) / len(own) for own in hits.values()]
    expected = (sum(domains) + ties_by_hand(list(ties.values()))) / 6
    assert value(
        english / "measure_rewardbench2[model]", "rewardbench_2", "eng_Latn"
    ) == pytest.approx(expected, abs=1e-6)


def ties_by_hand(prompts: list[dict[str, tuple]]) -> float:
    """0.3 x accuracy on tied prompts and on references, 0.2 x both comparisons with the spread,
    0.01 x the margin.
    """
    means = dict.fromkeys(("ref", "tied", "preferred", "hard", "margin"), 0.0)
    for both in prompts:
        margins = {kind: min(right) - max(wrong) for kind, (right, wrong) in both.items()}
        spread = max(both["tied"][0]) - min(both["tied"][0])
        lowest = min(margins.values())
        means["ref"] += (margins["ref"] > 0) / len(prompts)
        means["tied"] += (margins["tied"] > 0) / len(prompts)
        means["preferred"] += (margins["tied"] > spread) / len(prompts)
        means["hard"] += (lowest > spread) / len(prompts)
        means["margin"] += math.tanh(lowest / spread - 1) / len(prompts)
    return (
        0.3 * means["tied"]
        + 0.3 * means["ref"]
        + 0.2 * means["preferred"]
        + 0.2 * means["hard"]
        + 0.01 * means["margin"]
    )


@pytest.fixture(scope="module")
def translated(tmp_path_factory, model):
    """M-RewardBench in three languages; its subset stands in `source`, as it was published."""
    folder = tmp_path_factory.mktemp("m_rewardbench")
    for language in ("eng_Latn", "swh_Latn", "zho_Hans"):
        rows = [{**row, "source": row["subset"], "subset": None} for row in all_pairs(language)]
        write_lines(folder / "data" / language / "test.jsonl", rows)
    return evaluate(
        folder,
        "evaluation=m_rewardbench",
        f"evaluation.m_rewardbench.root={folder / 'data'}",
        f"model={model}",
    )


def test_m_rewardbench_equals_a_computation_from_the_raw_scores(translated):
    step = translated / "measure_m_rewardbench[model]"
    scores = {}
    for language in ("eng_Latn", "swh_Latn", "cmn_Hans"):
        found = accuracies(translated, "m_rewardbench", language)
        scores[language], sections = expected_score(found, rewardbench.COUNTS["m_rewardbench"])
        assert value(step, "rewardbench", language) == pytest.approx(scores[language], abs=1e-6)
        for section, share in sections.items():
            (told,) = [
                row["value"]
                for row in table(step, "breakdown")
                if (row["member"], row["metric"], row["language"])
                == (section, "rewardbench", language)
            ]
            assert told == pytest.approx(share, abs=1e-6)
    assert len(set(scores.values())) > 1
    without_english = (scores["swh_Latn"] + scores["cmn_Hans"]) / 2
    assert value(step, "rewardbench", "avg") == pytest.approx(without_english, abs=1e-6)


def test_translations_of_a_pair_are_compared_with_english(translated):
    step = translated / "measure_m_rewardbench[model]"
    agreement = {row["language"] for row in table(step) if row["metric"] == "reward_agreement"}
    assert agreement >= {"swh_Latn", "cmn_Hans"}
