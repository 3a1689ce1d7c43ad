"""What the first screen and the sections say, from content made by hand; numbers, names and hidden
characters.
"""

import pytest

from mlalign.core.visible import visible
from mlalign.evidence import cells, first_screen, headline, matrices, results, sections, text


def row(step, language, value, *, metric="accuracy", by="v", half=0.1, which=""):
    bounds = {"low": value - half, "high": value + half} if half else {"low": None, "high": None}
    return {
        "step": step,
        "metric": metric,
        "by": by,
        "language": language,
        "value": value,
        **bounds,
        "n": 4,
        "n_groups": 4,
        "which": which,
    }


def rows(step, values, **more):
    worst = min(values, key=values.get)
    summary = [
        row(step, "avg", sum(values.values()) / len(values), **more),
        row(step, "worst", values[worst], which=worst, **more),
    ]
    return [*(row(step, lang, value, **more) for lang, value in values.items()), *summary]


def content(metrics, evaluations=(), **more):
    empty = {
        "decisions": [],
        "external": [],
        "sources": [],
        "settings": [],
        "matrices": [],
        "steps": [],
        "times": [],
        "run": {},
        "about": {},
    }
    return {**empty, "metrics": metrics, "evaluations": list(evaluations), **more}


def evaluation(step, model, baseline=None, round_=None):
    return {
        "step": step,
        "answers": [f"{step}_answers"],
        "scores": [],
        "model": model,
        "round": round_,
        "baseline": baseline,
    }


OLD, NEW = {"eng_Latn": 0.5, "swh_Latn": 0.3}, {"eng_Latn": 0.6, "swh_Latn": 0.8}


@pytest.fixture
def two():
    """A policy after a base, evaluated in the other order."""
    paired = [row("m", "avg", 0.3, metric="accuracy_over_baseline")]
    wins = rows("m", {"eng_Latn": 0.55, "swh_Latn": 0.9}, metric="win_rate")
    return content(
        [*rows("m", NEW), *rows("m0", OLD), *wins, *paired],
        [evaluation("m0", "base"), evaluation("m", "policy", "m0")],
        settings=[{"step": "m", "config": {"confidence": 0.9}}],
    )


def test_tiles_give_the_average_its_interval_the_gain_and_the_lowest(two):
    wins, right = first_screen.numbers(two, 3)
    assert (wins["value"], wins["interval"], "change" in wins) == ("72.5%", "62.5% to 82.5%", False)
    assert (right["value"], right["worst"]) == ("70.0%", "lowest: English 60.0%")
    assert (right["change"], right["before"]) == (
        "▲ +30.0 pp (+20.0 to +40.0)",
        "from 40.0% (base)",
    )


def test_verdict_counts_languages_whose_whole_interval_is_above_chance(two):
    assert (
        first_screen.verdict(two)
        == "“policy” wins in 1 of 2 languages: the whole interval lies above 50%. 1 are undecided."
    )
    assert headline.confidence(two) == "90%"


def test_verdict_without_win_rate_names_the_languages_that_fell():
    told = content([*rows("m0", {"eng_Latn": 0.9, "swh_Latn": 0.3}), *rows("m", NEW)])
    assert (
        first_screen.verdict(told)
        == "Right answers: higher than before in 1 of 2 languages, lower in 1: English."
    )


def test_a_guard_decides_which_evaluation_is_the_result():
    found = [*rows("m0", OLD), *rows("m.r1", NEW), *rows("m.r2", OLD)]
    each = [
        evaluation("m0", "base"),
        evaluation("m.r1", "p.r1", round_=1),
        evaluation("m.r2", "p.r2", round_=2),
    ]
    decided = {
        "step": "g",
        "selected": "p.r1",
        "stop": True,
        "candidates": [{"candidate": "p.r2", "value": 0.4, "decision": "falls"}],
    }
    told = content(found, each, decisions=[decided])
    table = headline.tables(told)["accuracy", "v"]
    assert headline.before_and_after(told, table) == ("m0", "m.r1")
    assert "Selected in the end: “p.r1”." in first_screen.verdict(told)
    shown = results.rounds(told, 3)
    assert [line["cells"] if "cells" in line else line["name"] for line in shown["plots"]] == [
        "Right answers"
    ]
    assert "round 2: p.r2" in shown["plots"][0]["svg"]
    assert shown["decisions"]["rows"][0][2]["text"] == "falls"
    assert results.rounds(content(found), 3) is None


def test_several_reward_models_are_ranked():
    found = [
        r
        for s, v in (("eng_Latn", 0.7), ("swh_Latn", 0.5))
        for r in rows(
            "t", {"eng_Latn": v, "swh_Latn": v}, metric="reward_accuracy", by=f"reward[{s}]"
        )
    ]
    matrix = {
        "step": "t",
        "metric": "reward_accuracy",
        "sources": ["eng_Latn", "swh_Latn"],
        "targets": ["eng_Latn", "swh_Latn"],
        "values": [[0.7, 0.6], [0.4, 0.5]],
    }
    told = content(found, matrices=[matrix])
    best, lowest, other = first_screen.numbers(told, 3)
    assert (best["value"], best["of"]) == ("70.0%", "trained on English")
    assert (lowest["value"], lowest["of"]) == ("50.0%", "trained on Swahili")
    assert (other["value"], other["worst"]) == ("50.0%", "60.0% on the language trained on")
    assert first_screen.verdict(told).startswith("1 of 2 reward models are above chance")
    table = matrices.transfer(told, 3)["matrices"][0]
    assert [[c["text"] for c in cells] for _, cells in table["cells"]] == [
        ["70.0%", "60.0%"],
        ["40.0%", "50.0%"],
    ]
    assert [c["text"] for c in table["means"]["rows"][0]] == ["English", "65.0%", "55.0%"]


def test_unknown_metrics_and_groups_are_shown_as_they_are():
    told = content(
        [
            row("m", "avg", 1.25, metric="odd_thing", by=""),
            row("m", "high tier", 2.0, metric="odd_thing", by=""),
            *rows("m", OLD, metric="odd_thing", by=""),
        ]
    )
    table = results.results(told, 3)["first"][0]
    assert table["name"] == "odd thing"
    assert [r[0]["text"] for r in table["table"]["top"]] == ["average", "lowest", "high tier"]
    assert [r[0]["text"] for r in table["table"]["rows"]] == ["English", "Swahili"]


def test_many_score_columns_are_lines_of_one_table():
    found = [r for i in range(6) for r in rows("m", OLD, metric="odd", by=f"c{i}")]
    first = results.results(content(found), 3)["first"]
    assert [t["name"] for t in first] == ["odd"]
    assert [r[0]["text"] for r in first[0]["table"]["rows"]] == [f"c{i}" for i in range(6)]


def test_confusion_folds_languages_that_nobody_asked_for():
    told = {
        "step": "m",
        "by": "a",
        "asked": ["eng_Latn", "swh_Latn"],
        "detected": ["eng_Latn", "swh_Latn", "deu_Latn", "unknown"],
        "counts": [[8, 0, 2, 0], [1, 2, 0, 1]],
    }
    section = matrices.confusion(content([], [evaluation("m", "policy")], confusion=[told]), 3)
    assert [[c["text"] for c in r] for r in section["table"]["rows"]] == [
        ["English", "80.0%", "German 20.0%"],
        ["Swahili", "50.0%", "unknown 25.0%, English 25.0%"],
    ]
    assert section["matrices"][0]["columns"] == ["eng_Latn", "swh_Latn", "other", "unknown"]
    nothing = {**told, "detected": ["unknown"], "counts": [[10], [4]]}
    assert matrices.confusion(content([], confusion=[nothing]), 3) is None


def step(name, status="done", inputs=(), n_rows=1):
    rows = {"swh_Latn": n_rows}
    return {
        "step": name,
        "stage": "score",
        "status": status,
        "inputs": list(inputs),
        "rows_by_language": rows,
    }


STEPS = [
    step("a"),
    step("r[x]", inputs=["a"]),
    step("r[y]", inputs=["a"], n_rows=5),
    step("b", inputs=["r[x]", "r[y]"]),
    step("c", "skipped", inputs=["b", "a"]),
]
TIMES = [{"step": s["step"], "seconds": 2.0} for s in STEPS]


def test_steps_of_one_foreach_are_one_row():
    nodes = sections.folded_steps(content([], steps=STEPS, times=TIMES))
    assert list(nodes) == ["a", "r[…]", "b", "c"]
    folded = {
        "stage": "score",
        "n": 2,
        "seconds": 4.0,
        "skipped": False,
        "inputs": ["a"],
        "rows": 6,
    }
    assert nodes["r[…]"] == folded
    assert nodes["c"]["skipped"]


def test_the_table_of_steps_says_what_each_used():
    table = sections.recipe(content([], steps=STEPS, times=TIMES), 3)["table"]
    texts = [[cell["text"] for cell in row] for row in table["rows"]]
    assert texts == [
        ["a", "score", "", "2.0 s", "1"],
        ["r[…] ×2", "score", "a", "4.0 s", "6"],
        ["b", "score", "r[…]", "2.0 s", "1"],
        ["c", "score", "b, a", "skipped", "1"],
    ]
    assert 'width="36.0"' in table["rows"][0][3]["picture"]  # half the time of the longest


def test_dropped_rows_by_share():
    step = {
        "step": "p",
        "stage": "pairs",
        "status": "done",
        "rows_by_language": {"eng_Latn": 3},
        "dropped": {"tie": {"swh_Latn": 1}},
        "sums": {},
    }
    table = sections.dropped(content([], steps=[step]), 3)["table"]
    assert [c["text"] for c in table["rows"][0]] == ["p", "tie", "1", "25.0%", "Swahili 1"]
    assert sections.dropped(content([]), 3) is None


def test_numbers_as_text():
    assert text.number(0.12345, "accuracy") == "12.3%"
    assert text.number(-0.12345, "odd") == "−0.123"
    assert text.number(0.05, "accuracy_over_control") == "+5.0 pp"
    assert text.number(None) == "–"
    assert text.change(-0.5, "tokens") == "−0.500"
    assert [text.seconds(s) for s in (4.24, 185, 7620)] == ["4.2 s", "3 min 05 s", "2 h 07 min"]
    assert (text.count(12345), text.count(0.5)) == ("12,345", "0.500")
    assert text.metric_name("acc,none", "belebele") == "Accuracy (lm-eval),none (by belebele)"


def test_names_of_languages():
    assert (text.language("swh_Latn"), text.language("avg"), text.language("tier 1")) == (
        "Swahili",
        "average",
        "tier 1",
    )
    assert [text.lang_tag(c) for c in ("cmn_Hans", "arb_Arab", "odd", None)] == [
        "zh-Hans",
        "ar",
        "und",
        "und",
    ]


def test_hidden_characters_are_shown_and_those_that_scripts_need_stay():
    assert visible("a\u202eb\x00\u200b\ud800\r\nc") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+200B⟩⟨U+D800⟩\nc"
    needed = "می\u200cخواهم क्\u200dष 👩\u200d👩 \u200f\tx\n"
    assert visible(needed) == needed


def test_a_change_is_the_paired_difference_with_its_own_interval():
    """Over the items in which both have a value it may be another number than the difference of the
    averages.
    """
    old, new = row("a", "avg", 0.92, half=0.03), row("b", "avg", 0.98, half=0.01)
    paired = row("b", "avg", 0.031, metric="accuracy_over_baseline", half=0.01)
    told = cells.changed_cell(old, new, paired, "accuracy", 3)
    assert (told["text"], told["note"], told["sort"]) == ("▲ +3.1 pp", "+2.1 to +4.1", 0.031)
    assert cells.changed_cell(old, new, None, "accuracy", 3)["text"] == "▲ +6.0 pp"
