"""A sweep of two betas and two source languages on real parts: every shared step once, one table
and one page; failures of one variant leave the others alone.
"""

import csv
import json
from collections import Counter

import pytest
from helpers import PROJECT

from mlalign.core import store

pytestmark = pytest.mark.slow

BETAS, SOURCES = ["0.1", "0.3"], ["eng_Latn", "swh_Latn"]
N_VARIANTS = len(BETAS) * len(SOURCES)
N_STEPS = 3 + 3 * len(SOURCES) + 4 * N_VARIANTS
GRID = (
    f"beta={','.join(BETAS)}",
    f"source_language={','.join(SOURCES)}",
    "metric=accuracy",
    "-m",
    "name=grid",
)


def manifests(lean):
    return {
        p.parent.name: store.read_json(p) for p in (lean.root / "store").glob("*/manifest.json")
    }


@pytest.fixture(scope="module")
def swept(lean):
    done = lean.call("run", *GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    lean.printed = done.stdout
    return lean


def test_every_shared_step_was_computed_once(swept):
    found = manifests(swept)
    once, by_source = ("preferences", "prompts", "candidates"), ("reward", "scores", "pairs")
    steps = Counter(m["step"] for m in found.values())
    each = ("policy", "answers", "marks", "metrics")
    assert steps == {
        **dict.fromkeys(once, 1),
        **dict.fromkeys(by_source, len(SOURCES)),
        **dict.fromkeys(each, N_VARIANTS),
    }
    assert (
        swept.printed.count(": done in")
        + swept.printed.count(" rows in")
        + swept.printed.count("dropped in")
        >= len(found)
        == N_STEPS
    )
    names = {p.name for p in (swept.root / "runs/grid/steps").iterdir()}
    assert "policy[beta=0.3,source_language=swh_Latn]" in names
    assert len(names) == N_STEPS


def test_it_ends_in_one_table_and_one_page(swept):
    folder = swept.root / "runs/grid"
    content = json.loads((folder / "results.json").read_text())
    assert content["statistics"]["paired"]
    assert [v["state"] for v in content["variants"]] == ["done"] * N_VARIANTS
    assert [e["key"] for e in content["statistics"]["effects"]] == ["beta", "source_language"]
    assert content["languages"] == ["eng_Latn", "hin_Deva", "spa_Latn", "swh_Latn"]
    rows = list(csv.DictReader((folder / "results.csv").open()))
    right = [r for r in rows if r["metric"] == "accuracy" and r["language"] in content["languages"]]
    assert len(right) == N_VARIANTS * len(content["languages"])
    assert all(float(r["low"]) <= float(r["value"]) <= float(r["high"]) for r in right)
    assert "Best by Right answers" in swept.printed
    assert swept.printed.count("variant beta=") == N_VARIANTS
    pytest.importorskip("html5lib").HTMLParser(strict=True).parse(
        (folder / "results.html").read_text()
    )


def test_statistics_agree_with_the_tables_of_the_variants(swept):
    content = json.loads((swept.root / "runs/grid/results.json").read_text())
    average = {
        v["variant"]: next(
            r for r in v["rows"] if (r["metric"], r["language"]) == ("accuracy", "avg")
        )["value"]
        for v in content["variants"]
    }
    for level in content["statistics"]["effects"][0]["levels"]:
        same = [
            average[v["variant"]]
            for v in content["variants"]
            if v["values"]["beta"] == level["value"]
        ]
        assert level["mean"] == pytest.approx(sum(same) / len(SOURCES), abs=1e-5)
        assert level["low"] <= level["mean"] <= level["high"]


def test_the_same_command_and_a_single_run_compute_nothing(swept):
    before = {name: m["finished"] for name, m in manifests(swept).items()}
    done = swept.call("run", *GRID)
    assert done.stdout.count(": reused") == N_STEPS
    done = swept.call("run", "beta=0.3", "source_language=swh_Latn", "name=alone")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": reused") == 10
    assert {name: m["finished"] for name, m in manifests(swept).items()} == before


def test_manifests_do_not_know_of_the_sweep(swept):
    for manifest in manifests(swept).values():
        assert "beta=" not in json.dumps(manifest)


def test_a_variant_that_fails_leaves_the_others_alone(swept):
    """One candidate gives no pair."""
    arguments = ("n=1,4", "name=some", "-m", "metric=accuracy")
    done = swept.call("run", *arguments)
    assert done.returncode == 1
    assert (
        "metrics[n=4]: reused" in done.stdout
    )  # of the sweep before, and after the failure of the other
    assert "error: pairs[n=1]: pairs: no prompt gave a row" in done.stderr
    assert "1 of 2 variants failed: n=1; the same command tries them again" in done.stderr
    assert "Traceback" not in done.stderr
    content = json.loads((swept.root / "runs/some/results.json").read_text())
    assert {v["variant"]: v["state"] for v in content["variants"]} == {
        "n=4": "done",
        "n=1": "failed",
    }
    again = swept.call("run", *arguments)
    assert again.returncode == 1
    assert "pairs[n=1]: started" in again.stdout
    assert "metrics[n=4]: reused" in again.stdout


def test_results_by_another_metric_after_the_fact(swept):
    done = swept.call("results", "name=grid", "metric=consistency")
    assert done.returncode == 0, done.stderr
    assert "As right or wrong as in English" in done.stdout
    assert "did you mean 'accuracy'" in swept.call("results", "name=grid", "metric=acuracy").stderr


SEARCH = (
    "recipe=loop",
    "learning_rate=choice(5e-4,1e-1)",
    "metric=accuracy",
    "search.pruner=halving",
    "name=search",
)


@pytest.mark.long
def test_a_search_goes_on_and_spares_a_bad_trial_its_later_rounds(swept):
    """The rate of 0.1 ruins the model; halving keeps the better of two after the first round.

    The seed proposes the good one first.
    """
    own = [*SEARCH, "search.seed=2", f"use.base={PROJECT / 'mlalign/data/tiny'}"]
    done = swept.call("run", *own, "search.trials=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reward: reused" in done.stdout  # of the sweep before
    done = swept.call("run", *own, "search.trials=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 2/2: pruned after round 1" in done.stdout
    assert "policy.r2[learning_rate=0.1]" not in done.stdout
    folder = swept.root / "runs/search"
    content = json.loads((folder / "results.json").read_text())
    assert [(v["values"]["learning_rate"], v["state"]) for v in content["variants"]] == [
        (5e-4, "done"),
        (0.1, "pruned"),
    ]
    assert "Trials in their order" in (folder / "results.html").read_text()
    before = (folder / "search.journal").read_text().count("\n")
    again = swept.call("run", *own, "search.trials=2")
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stdout
    assert (folder / "search.journal").read_text().count(
        "\n"
    ) - before <= 3  # opened, nothing asked
