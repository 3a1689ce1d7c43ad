"""Agreement with gold preferences: counts, kappa and margins by hand, intervals against other
computations, policies, and what obeys them.
"""

import json
import math
import random

import numpy as np
import pytest
import yaml

import reward_models
from mlalign.core.errors import UserError
from reward_models import Item, Scores
from reward_models.__main__ import main
from reward_models.evidence import agreement
from reward_models.evidence.agreement import Pair, Rule
from reward_models.families import guarded


def pairs_of(outcomes, language="eng_Latn", groups=None):
    """Pairs with these (chosen, rejected, first); every one a group of its own."""
    return [
        Pair(str(i if groups is None else groups[i]), language, *outcome)
        for i, outcome in enumerate(outcomes)
    ]


# Of ten pairs: 5 right (3 of them first), 2 wrong (first, second), 1 tied (first), 2 abstained.
TEN = (
    [(1.0, 0.0, True)] * 3
    + [(1.0, 0.0, False)] * 2
    + [(0.0, 1.0, True), (0.0, 1.0, False), (1.0, 1.0, True), (None, 1.0, True), (1.0, None, False)]
)


def test_counts_accuracy_and_kappa_by_hand():
    found = agreement.evidence(pairs_of(TEN), Rule())
    assert [found[k] for k in ("pairs", "right", "wrong", "tied", "abstained", "coverage")] == [
        10,
        5,
        2,
        1,
        2,
        0.8,
    ]
    assert found["accuracy"] == round(5.5 / 8, 6)
    # gold: 5 first, 3 second; scorer: first 3 + 1 = 4, second 2 + 1 = 3, tie 1. p_o = 5/8, p_e =
    #     (5*4 + 3*3) / 64
    observed, expected = 5 / 8, 29 / 64
    assert found["kappa"] == round((observed - expected) / (1 - expected), 6)


def test_a_tolerance_makes_ties():
    pairs = pairs_of([(1.0, 1.0 - 1e-6, True), (1.0, 0.5, True)])
    assert [agreement.verdict(p, 1e-5) for p in pairs] == ["tied", "right"] and agreement.verdict(
        pairs[0]
    ) == "right"


@pytest.mark.slow
def test_nothing_is_said_where_nothing_can_be():
    none = agreement.evidence(pairs_of([(None, None, True)] * 3), Rule())
    assert (
        none["accuracy"] is None
        and none["accuracy_low"] is None
        and none["kappa"] is None
        and none["coverage"] == 0
    )
    alike = agreement.evidence(
        pairs_of([(1.0, 0.0, True)] * 3), Rule()
    )  # one label only, on both sides
    assert alike["accuracy"] == 1 and alike["kappa"] is None
    assert (
        agreement.failing(none, Rule(min_pairs=1, min_coverage=0.0)) == "answers none of the pairs"
    )


@pytest.mark.slow
def test_interval_equals_the_normal_approximation_and_knows_no_order():
    draw = random.Random(0)
    outcomes = [(float(draw.random() < 0.7), 0.5, draw.random() < 0.5) for _ in range(800)]
    found = agreement.evidence(pairs_of(outcomes), Rule(resamples=4000), "eng_Latn")
    p = sum(c > r for c, r, _ in outcomes) / 800
    half = 1.96 * math.sqrt(p * (1 - p) / 800)
    assert found["accuracy_low"] == pytest.approx(p - half, abs=0.004) and found[
        "accuracy_high"
    ] == pytest.approx(p + half, abs=0.004)
    pairs = pairs_of(outcomes)
    assert (
        agreement.evidence(random.Random(1).sample(pairs, 800), Rule(resamples=4000), "eng_Latn")
        == found
    )


@pytest.mark.slow
def test_groups_are_drawn_whole():
    """Eight copies of each of 50 items say no more than the 50: the interval is that of 50, not of
    400.
    """
    draw = random.Random(2)
    fifty = [(float(draw.random() < 0.7), 0.5, draw.random() < 0.5) for _ in range(50)]
    alone = agreement.evidence(pairs_of(fifty), Rule(resamples=4000))
    copies = agreement.evidence(
        pairs_of(fifty * 8, groups=list(range(50)) * 8), Rule(resamples=4000)
    )
    split = agreement.evidence(pairs_of(fifty * 8), Rule(resamples=4000))
    width = {
        name: e["accuracy_high"] - e["accuracy_low"]
        for name, e in (("alone", alone), ("copies", copies), ("split", split))
    }
    assert (
        width["copies"] == pytest.approx(width["alone"], abs=0.02)
        and width["split"] < 0.5 * width["alone"]
    )


@pytest.mark.slow
def test_kappa_interval_against_a_bootstrap_written_out():
    draw, rng = random.Random(3), np.random.default_rng(0)
    gold = np.array([draw.randrange(2) for _ in range(200)])
    said = np.array([g if draw.random() < 0.75 else draw.choice([1 - g, 2]) for g in gold])
    scores = {0: (1.0, 0.0), 1: (0.0, 1.0), 2: (0.5, 0.5)}
    outcomes = [
        (scores[s][g], scores[s][1 - g], g == 0)
        for g, s in zip(gold.tolist(), said.tolist(), strict=True)
    ]
    found = agreement.evidence(pairs_of(outcomes), Rule(resamples=4000))

    def kappa(g, s):
        p_e = sum((g == label).mean() * (s == label).mean() for label in (0, 1, 2))
        return ((g == s).mean() - p_e) / (1 - p_e)

    drawn = [kappa(gold[i], said[i]) for i in (rng.integers(0, 200, 200) for _ in range(4000))]
    assert found["kappa"] == pytest.approx(kappa(gold, said), abs=1e-6)
    assert [found["kappa_low"], found["kappa_high"]] == pytest.approx(
        np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.02
    )


def test_which_answer_is_first_does_not_depend_on_gold():
    texts = [(f"a{i}", f"b{i}") for i in range(400)]
    assert all(agreement.is_first(a, b) != agreement.is_first(b, a) for a, b in texts)
    assert 150 < sum(agreement.is_first(a, b) for a, b in texts) < 250


def test_margin_by_hand():
    differences = [5.0, 4.0, -3.0, 2.0, 2.0, -1.0, 0.0, None]
    pairs = pairs_of([(None if d is None else d, 0.0, True) for d in differences])
    assert agreement.margin_for(pairs, 1.0) == (4.0, 2 / 7)
    assert agreement.margin_for(pairs, 0.8) == (
        2.0,
        5 / 7,
    )  # 4 of 5 from 2.0 on; both pairs with this margin count
    assert agreement.margin_for(pairs, 0.6) == (1.0, 6 / 7)
    assert agreement.margin_for(pairs_of([(-1.0, 0.0, True)]), 0.5) == (None, 0.0)


# ------------------------------------------------------------------------------------------- policy


def told(pairs=100, coverage=1.0, low=0.8):
    return {"pairs": pairs, "coverage": coverage, "accuracy_low": low}


def test_the_rule():
    rule = Rule(delta=0.1, min_pairs=50, min_coverage=0.6)
    assert agreement.failing(told(), rule) is None
    assert agreement.failing(told(low=0.6), rule) == "accuracy may be 0.600, above 0.6 is needed"
    assert agreement.failing(told(pairs=49), rule) == "49 gold pairs, 50 are needed"
    assert agreement.failing(told(coverage=0.5), rule) == "answers 50% of the pairs, 60% are needed"


def test_policy_by_language():
    scorer = {
        "eng_Latn": told(),
        "swh_Latn": told(low=0.5),
        "tha_Thai": told(low=0.4),
        "hin_Deva": told(low=0.3),
    }
    fallback = {"swh_Latn": told(), "tha_Thai": told(pairs=3)}
    found = agreement.policy(scorer, fallback, Rule(), "length", "abstain")
    assert {code: entry["policy"] for code, entry in found["languages"].items()} == {
        "eng_Latn": "use", "swh_Latn": "fall_back", "tha_Thai": "abstain", "hin_Deva": "abstain"
    }  # fmt: skip
    assert found["default"] == "abstain" and found["languages"]["swh_Latn"]["to"] == "length"
    assert (
        found["languages"]["tha_Thai"]["why"]
        == "accuracy may be 0.400, above 0.55 is needed; length: 3 gold pairs, 50 are needed"
    )
    assert agreement.policy_problems(found, "policy", "length") == []


def test_a_wrong_policy_is_told_completely():
    wrong = {
        "default": "usee",
        "langages": {},
        "languages": {
            "sw": {"policy": "use"},
            "eng_Latn": {"policy": "fall_back", "to": "x"},
            "zz": 3,
        },
    }
    found = agreement.policy_problems(wrong, "p", "length")
    assert [f.split(":")[0] for f in found] == [
        "p.langages",
        "p.default",
        "p.languages.sw",
        "p.languages.eng_Latn",
        "p.languages.zz",
        "p.languages.zz",
    ]
    assert (
        "did you mean 'languages'" in found[0]
        and "did you mean 'use'" in found[1]
        and "write swh_Latn" in found[2]
    )
    assert agreement.policy_problems(
        {"languages": {"eng_Latn": {"policy": "fall_back"}}}, "p", None
    ) == ["p.languages.eng_Latn: falls back, but no fallback scorer is given"]
    assert agreement.policy_problems([], "p", None)[0].startswith("p: expected {default")


# ------------------------------------------------------------------------------------------ guarded


def item(i, language, row="r"):
    return Item(
        str(i), [{"role": "user", "content": f"prompt {row}"}], "abc" * i, language, row=row
    )


POLICY = {
    "default": "use",
    "languages": {
        "swh_Latn": {"policy": "fall_back", "to": "plain"},
        "tha_Thai": {"policy": "abstain"},
    },
}


def test_guarded_lets_the_right_scorer_speak():
    settings = {
        "family": "guarded",
        "scorer": {"family": "random", "seed": 3},
        "fallback": {"family": "length", "name": "plain"},
        "policy": POLICY,
    }
    items = [
        item(1, "eng_Latn", "a"),
        item(2, "swh_Latn", "b"),
        item(3, "tha_Thai", "c"),
        item(4, None, "d"),
        item(5, "swh_Latn", "b"),
    ]
    found = reward_models.open_scorer(settings).score_items(items)
    own = reward_models.open_scorer({"family": "random", "seed": 3}).score_items(items).values
    assert found.values == [own[0], 6.0, None, own[3], 15.0]
    assert found.texts["scored_by"] == ["random", "plain", None, "random", "plain"]
    assert found.flags["abstained"] == [False, False, True, False, False]
    shuffled = [items[i] for i in (3, 1, 0, 4, 2)]
    assert reward_models.open_scorer(settings).score_items(shuffled).values == [
        found.values[i] for i in (3, 1, 0, 4, 2)
    ]


def test_guarded_keeps_what_its_scorers_tell():
    parts = {
        "a": Scores([1.0], {"truncated": [True]}, {"n": [3.0]}, {"raw": ["yes"]}, ["eng_Latn"], 5),
        "b": Scores([2.0, None], {"odd": [False, True]}, {"n": [4.0, None]}, tokens=7),
    }
    found = guarded._merged(4, [([2], parts["a"]), ([0, 3], parts["b"])])
    assert found.values == [2.0, None, 1.0, None] and found.tokens == 12
    assert found.flags == {
        "truncated": [False, False, True, False],
        "odd": [False, False, False, True],
    }
    assert found.columns == {"n": [4.0, None, 3.0, None]} and found.texts == {
        "raw": [None, None, "yes", None]
    }
    assert found.detected == [None, None, "eng_Latn", None]


def test_one_prompt_is_never_marked_by_two_scorers():
    settings = {
        "family": "guarded",
        "scorer": {"family": "random"},
        "fallback": {"family": "length", "name": "plain"},
        "policy": POLICY,
    }
    with pytest.raises(UserError, match="a: answers to its prompt are in several languages"):
        reward_models.open_scorer(settings).score_items(
            [item(1, "eng_Latn", "a"), item(2, "swh_Latn", "a")]
        )


def test_guarded_settings_are_checked_before_anything_is_opened(tmp_path):
    found = reward_models.problems(
        {
            "family": "guarded",
            "scorer": {"family": "lenght"},
            "policy": {"languages": {"swh_Latn": {"policy": "fall_back"}}},
        }
    )
    assert found == [
        "scorer.scorer: unknown family 'lenght'; did you mean 'length'?",
        "scorer.policy.languages.swh_Latn: falls back, but no fallback scorer is given",
    ]
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        reward_models.open_scorer(
            {
                "family": "guarded",
                "scorer": {"family": "random"},
                "policy": str(tmp_path / "none.yaml"),
            }
        )
    (tmp_path / "p.yaml").write_text("default: fall_back\n")
    with pytest.raises(UserError, match=r"p\.yaml\.default: falls back, but no fallback"):
        reward_models.open_scorer(
            {
                "family": "guarded",
                "scorer": {"family": "random"},
                "policy": str(tmp_path / "p.yaml"),
            }
        )


# ------------------------------------------------------------------------------------------ command


def write_rows(path, rows):
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def gold(tmp_path):
    """Longer is right in English, shorter in Swahili; Thai has three pairs."""
    rows = [
        {
            "prompt": f"q{i}",
            "language": "en",
            "chosen": "good answer" + "x" * i,
            "rejected": "bad",
            "group_id": i,
        }
        for i in range(80)
    ]
    rows += [
        {
            "prompt": f"q{i}",
            "language": "sw",
            "chosen": "ok",
            "rejected": "much longer" + "x" * i,
            "group_id": i,
        }
        for i in range(80)
    ]
    rows += [
        {"prompt": f"q{i}", "language": "th", "chosen": "longer", "rejected": "b", "group_id": i}
        for i in range(3)
    ]
    return write_rows(tmp_path / "gold.jsonl", rows)


@pytest.mark.slow
def test_agree_writes_a_policy_that_guarded_obeys(gold, tmp_path, capsys):
    policy = tmp_path / "policy.yaml"
    assert (
        main(
            [
                "agree",
                "--family",
                "length",
                "--input",
                str(gold),
                "--output",
                str(policy),
                "--target",
                "0.9",
                "--resamples",
                "200",
            ]
        )
        == 1
    )
    out = capsys.readouterr().out
    assert (
        "eng_Latn         80     0     0  1.000 [1.000, 1.000]" in out
        and "3 gold pairs, 50 are needed" in out
    )
    assert (
        "right 90% of the time: from margin 8 on, 100% of the pairs" in out
        and "no margin is enough" in out
    )
    found = yaml.safe_load(policy.read_text())
    assert {code: e["policy"] for code, e in found["languages"].items()} == {
        "eng_Latn": "use",
        "swh_Latn": "abstain",
        "tha_Thai": "abstain",
    }
    assert (
        found["scorer"] == {"family": "length"}
        and found["languages"]["swh_Latn"]["evidence"]["wrong"] == 80
    )
    told = ["--set", "scorer={family: length}", "--set", f"policy={policy}"]
    assert (
        main(
            [
                "score",
                "--family",
                "guarded",
                *told,
                "--input",
                str(gold),
                "--output",
                str(tmp_path / "out.jsonl"),
            ]
        )
        == 1
    )
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0]["score_chosen"] == 11.0 and rows[0]["scored_by_chosen"] == "length"
    assert (
        rows[80]["score_chosen"] is None
        and rows[80]["abstained_chosen"] is True
        and rows[80]["scored_by_rejected"] is None
    )


@pytest.mark.slow
def test_agree_falls_back_where_the_fallback_is_good(gold, tmp_path, capsys):
    policy, english = tmp_path / "policy.yaml", "The largest number of them all is certainly nine."
    rows = [
        {
            "prompt": f"q{i}",
            "language": "tr",
            "chosen": "En büyük sayı dokuz olur.",
            "rejected": english,
        }
        for i in range(60)
    ]
    source = write_rows(tmp_path / "turkish.jsonl", rows)
    fallback = [
        "--fallback-family",
        "language_adherence",
        "--fallback-set",
        "identifier=fasttext",
        "--resamples",
        "200",
    ]
    assert (
        main(
            [
                "agree",
                "--family",
                "length",
                "--input",
                str(gold),
                str(source),
                "--output",
                str(policy),
                *fallback,
            ]
        )
        == 1
    )
    assert "fall_back to language_adherence" in capsys.readouterr().out
    found = yaml.safe_load(policy.read_text())["languages"]
    assert {code: e["policy"] for code, e in found.items()} == {
        "eng_Latn": "use", "swh_Latn": "abstain", "tha_Thai": "abstain", "tur_Latn": "fall_back"
    }  # fmt: skip
    assert (
        found["tur_Latn"]["fallback_evidence"]["right"] == 60
        and found["tur_Latn"]["evidence"]["wrong"] == 60
    )
    settings = {"family": "guarded", "scorer": {"family": "length"}, "policy": str(policy)}
    told = reward_models.open_scorer(
        {**settings, "fallback": {"family": "language_adherence", "identifier": "fasttext"}}
    )
    assert told.score(rows[:1]) == [1.0, 0.0]


@pytest.mark.slow
def test_agree_with_a_model(gold, classifier, tmp_path, capsys):
    """The tiny random classifier against an independent count."""
    assert (
        main(
            [
                "agree",
                "--model",
                str(classifier),
                "--input",
                str(gold),
                "--output",
                str(tmp_path / "p.yaml"),
                "--default",
                "abstain",
            ]
        )
        == 1
    )
    evidence = yaml.safe_load((tmp_path / "p.yaml").read_text())["languages"]["eng_Latn"][
        "evidence"
    ]
    rows = [
        row for row in map(json.loads, gold.read_text().splitlines()) if row["language"] == "en"
    ]
    values = reward_models.load(classifier).score(rows)
    assert (
        evidence["right"] == sum(c > r for c, r in zip(values[::2], values[1::2], strict=True))
        and evidence["abstained"] == 0
    )


def test_agree_names_what_is_wrong(gold, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "q", "response": "a"}])
    assert main(["agree", "--family", "length", "--input", str(rows)]) == 2
    assert "rows.jsonl:1: is no preference row" in capsys.readouterr().err
    (tmp_path / "p.yaml").write_text("")
    assert (
        main(
            [
                "agree",
                "--family",
                "length",
                "--input",
                str(gold),
                "--output",
                str(tmp_path / "p.yaml"),
            ]
        )
        == 2
    )
    assert "exists already" in capsys.readouterr().err
    assert (
        main(["agree", "--family", "length", "--input", str(gold), "--default", "fall_back"]) == 2
    )
    nameless = write_rows(tmp_path / "n.jsonl", [{"prompt": "q", "chosen": "aa", "rejected": "a"}])
    assert main(["agree", "--family", "length", "--input", str(nameless)]) == 1
    assert (
        "1 rows without a language; if all are in one, say so with --language CODE"
        in capsys.readouterr().err
    )
    assert (
        main(
            [
                "agree",
                "--family",
                "length",
                "--input",
                str(nameless),
                "--language",
                "sw",
                "--min-pairs",
                "1",
            ]
        )
        == 0
    )
    assert "swh_Latn" in capsys.readouterr().out


@pytest.mark.data
@pytest.mark.slow
def test_xcopa_in_one_command(real_data, capsys):
    assert (
        main(
            [
                "agree",
                "--family",
                "length",
                "--input",
                str(real_data / "xcopa" / "test.*.jsonl"),
                "--format",
                "xcopa",
                "--resamples",
                "100",
            ]
        )
        == 1
    )
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 12 and all("500" in line for line in out[1:])


def test_an_evidence_is_plain_data():
    found = agreement.by_language(
        pairs_of(TEN, "swh_Latn") + pairs_of(TEN, None), Rule(resamples=50)
    )
    assert list(found) == ["swh_Latn"] and yaml.safe_load(yaml.safe_dump(found)) == found
