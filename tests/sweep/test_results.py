"""What several variants come to: choice of the metric, differences, main effects, files."""

import json
import random
import shutil

import numpy as np
import pytest
from reporting_cases import NAMES, Run, _answers, _marks, shards

from mlalign.cli import sweeps
from mlalign.core import store
from mlalign.core.errors import UserError
from mlalign.sweep import effects, results

CODES = ["eng_Latn", "swh_Latn", "arb_Arab"]
# settings -> how often the policy is right
SKILL = {("0.1", "en"): 0.8, ("0.1", "sw"): 0.6, ("0.3", "en"): 0.5, ("0.3", "sw"): 0.3}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of two keys; the variants answer the same 40 prompts in three languages.

    A fifth variant failed.
    """
    root = tmp_path_factory.mktemp("swept")
    run, random_ = Run(root / "store"), random.Random(0)
    variants, steps = [], []
    for (beta, source), right in SKILL.items():
        label = f"beta={beta},source={source}"
        made = {
            code: _answers(code, 40, lambda code, i, when: "x", "made", f"answers{label}", random_)
            for code in CODES
        }
        scored = {code: _marks(told, right, random_, CODES) for code, told in made.items()}
        run.add(f"policy[{label}]", "preference", "model", {})
        run.add(
            f"answers[{label}]",
            "generate",
            "rows",
            {"model": f"policy[{label}]"},
            lambda p, made=made: shards(p, "candidates", made),
        )
        run.add(
            f"marks[{label}]",
            "score",
            "scores",
            {"rows": f"answers[{label}]"},
            lambda p, s=scored: shards(p, "scores", s, NAMES),
        )
        run.evaluate(
            f"metrics[{label}]",
            {"rows": [f"answers[{label}]"], "scores": [f"marks[{label}]"]},
            n_bootstrap=200,
        )
        own = {step: f"{step}[{label}]" for step in ("policy", "answers", "marks", "metrics")}
        variants.append(
            {
                "label": label,
                "values": {"beta": float(beta), "source": source},
                "overrides": [f"beta={beta}"],
                "steps": own,
            }
        )
        steps += [
            {"step": name, "stage": "evaluate", "artifact": run.refs[name]["artifact"]}
            for name in own.values()
        ]
    steps.append({"step": "policy[lost]", "stage": "preference", "artifact": "preference-lost"})
    (root / "store/preference-lost.partial").mkdir()
    store.write_json(
        root / "store/preference-lost.partial/outcome.json",
        {"status": 2, "message": "out of <b>memory</b>"},
    )
    lost = {
        "label": "lost",
        "values": {"beta": 9.0, "source": "en"},
        "overrides": ["beta=9"],
        "steps": {"policy": "policy[lost]"},
    }
    (root / "runs/x").mkdir(parents=True)
    told = {
        "recipe": "r",
        "name": "x",
        "kind": "sweep",
        "languages": CODES,
        "steps": steps,
        "sweep": {},
        "variants": [*variants, lost],
    }
    store.write_json(root / "runs/x/plan.json", told)
    return root


def content(swept, metric="accuracy", direction=None):
    return results.content(swept / "runs/x", store.Store(swept / "store"), metric, direction)


@pytest.mark.slow
def test_variants_stand_best_first_and_the_lost_one_last(swept):
    found = content(swept)
    assert [v["variant"] for v in found["variants"]] == [
        "beta=0.1,source=en",
        "beta=0.1,source=sw",
        "beta=0.3,source=en",
        "beta=0.3,source=sw",
        "lost",
    ]
    assert found["best"] == "beta=0.1,source=en"
    assert (found["variants"][-1]["state"], found["variants"][-1]["why"]) == (
        "failed",
        "policy[lost]: out of <b>memory</b>",
    )
    assert content(swept, direction="minimize")["best"] == "beta=0.3,source=sw"
    assert content(swept, "wrong_in_language")["direction"] == "minimize"


def averages(found):
    return {
        v["variant"]: next(
            r["value"] for r in v["rows"] if (r["metric"], r["language"]) == ("accuracy", "avg")
        )
        for v in found["variants"]
        if v["rows"]
    }


def test_main_effects_are_means_over_the_variants_with_a_value(swept):
    found = content(swept)
    values = list(averages(found).values())
    beta = {x["value"]: x for x in found["statistics"]["effects"][0]["levels"]}
    assert found["statistics"]["paired"]
    assert beta[0.1]["mean"] == pytest.approx((values[0] + values[1]) / 2, abs=1e-5)
    assert beta[0.1]["effect"] == pytest.approx(
        (values[0] + values[1]) / 2 - sum(values) / 4, abs=1e-5
    )
    assert beta[0.1]["effect"] == pytest.approx(-beta[0.3]["effect"], abs=1e-5)
    assert beta[0.1]["low"] < beta[0.1]["mean"] < beta[0.1]["high"]
    assert beta[0.1]["effect_low"] > 0 > beta[0.3]["effect_high"]  # 30 points over 240 answers each
    assert [x["n"] for x in beta.values()] == [2, 2]
    assert [e["key"] for e in found["statistics"]["effects"]] == ["beta", "source"]


@pytest.mark.slow
def test_differences_to_the_best_are_paired(swept):
    """Against a bootstrap of the differences of items, worked out here."""
    found = content(swept)
    behind = found["statistics"]["behind"][-1]
    values = averages(found)
    assert behind["value"] == pytest.approx(
        values["beta=0.3,source=sw"] - values["beta=0.1,source=en"], abs=1e-5
    )
    right = {}
    for label in ("beta=0.1,source=en", "beta=0.3,source=sw"):
        told = store.read_json(swept / "runs/x/plan.json")
        artifact = next(s["artifact"] for s in told["steps"] if s["step"] == f"marks[{label}]")
        import pyarrow.parquet as pq

        tables = [
            pq.read_table(p).to_pylist()
            for p in sorted((swept / "store" / artifact / "rows").iterdir())
        ]
        right[label] = {
            (r["group_id"], r["prompt_lang"]): r["score.verifier"] for t in tables for r in t
        }
    groups = sorted({g for g, _ in right[label]})
    apart = np.array(
        [
            np.mean(
                [
                    right["beta=0.3,source=sw"][g, c] - right["beta=0.1,source=en"][g, c]
                    for c in CODES
                ]
            )
            for g in groups
        ]
    )
    rng = np.random.default_rng(1)
    drawn = apart[rng.integers(0, len(apart), (4000, len(apart)))].mean(1)
    assert [behind["low"], behind["high"]] == pytest.approx(
        np.percentile(drawn, [2.5, 97.5]), abs=0.03
    )


def test_without_rows_the_bounds_come_from_the_tables(swept, tmp_path):
    root = tmp_path / "moved"
    shutil.copytree(swept, root)
    for path in (root / "store").glob("generate-*"):
        shutil.rmtree(path)
    found = results.content(root / "runs/x", store.Store(root / "store"), "accuracy", None)
    level = found["statistics"]["effects"][0]["levels"][0]
    rows = [
        next(r for r in v["rows"] if (r["metric"], r["language"]) == ("accuracy", "avg"))
        for v in found["variants"][:2]
    ]
    assert not found["statistics"]["paired"]
    assert level["low"] == pytest.approx(sum(r["low"] for r in rows) / 2, abs=1e-5)
    assert level["effect_low"] is None
    assert found["statistics"]["behind"][0]["low"] is None


@pytest.mark.slow
def test_a_sweep_in_which_nothing_was_measured_has_its_page(swept, tmp_path):
    """Also what Slurm ended, which could not say so itself, has failed."""
    folder = tmp_path / "runs/x"
    (folder / "slurm").mkdir(parents=True)
    shutil.copy(swept / "runs/x/plan.json", folder)
    (folder / "slurm/policy[lost].failed.txt").write_text(
        "policy[lost] ended with status 137: job 7 on n1\nmore\n"
    )
    found = results.publish(folder, store.Store(tmp_path / "store"), "accuracy", None)
    assert [v["state"] for v in found["variants"]] == ["unfinished"] * 4 + ["failed"]
    assert found["variants"][-1]["why"] == "policy[lost] ended with status 137: job 7 on n1"
    assert "No variant has been measured." in (folder / "results.md").read_text()
    pytest.importorskip("html5lib").HTMLParser(strict=True).parse(
        (folder / "results.html").read_text()
    )
    assert results.publish(folder, store.Store(tmp_path / "store"), None, None)["best"] is None


def test_levels_of_many_kinds_are_told_apart():
    assert len({effects._level(v) for v in (1, 1.5, "1", None, True, ["a"], {"r": 8})}) == 7


def test_an_unknown_metric_names_the_nearest(swept):
    with pytest.raises(UserError, match="no variant has 'acuracy'; did you mean 'accuracy'"):
        content(swept, "acuracy")
    with pytest.raises(UserError, match="neither good nor bad"):
        results.check_metric("tokens", None)
    with pytest.raises(UserError, match="did you mean 'win_rate'"):
        results.check_metric("winrate", None)
    results.check_metric("acc,none", None, any_metric=True)
    results.check_metric("accuracy_over_baseline", None)
    assert results.choose("m:b", [("m", "a"), ("m", "b")]) == ("m", "b")
    with pytest.raises(UserError, match="several score columns have m; allowed: m:a, m:b"):
        results.choose("m", [("m", "a"), ("m", "b")])


@pytest.mark.slow
def test_the_command_writes_four_files(swept, capsys):
    assert sweeps.show_results([f"root={swept}", "name=x", "metric=adherence"]) == 0
    assert "Best by Answers in the requested language" in capsys.readouterr().out
    assert sweeps.show_results([f"root={swept}", "name=x"]) == 0
    told = capsys.readouterr().out
    assert "behind the best" in told
    folder = swept / "runs/x"
    found = json.loads((folder / "results.json").read_text())
    assert found["metric"] == "accuracy"
    assert (
        (folder / "results.csv")
        .read_text()
        .splitlines()[0]
        .startswith("variant,beta,source,state,metric,by,language,value")
    )
    assert "## Main effect of beta" in (folder / "results.md").read_text()
    assert "<b>memory" not in (folder / "results.md").read_text()
    page = (folder / "results.html").read_text()
    assert "out of &lt;b&gt;memory" in page
    pytest.importorskip("html5lib").HTMLParser(strict=True).parse(page)
    with pytest.raises(UserError, match="there is no sweep 'y'"):
        sweeps.show_results([f"root={swept}", "name=y"])
    with pytest.raises(UserError, match="metrc: unknown key; did you mean 'metric'"):
        sweeps.show_results([f"root={swept}", "name=x", "metrc=a"])
