"""A loop with a guard, on real parts: what comes after a stop is skipped, and the best policy is
passed on.
"""

import json

import pytest
from helpers import PROJECT, run_here

pytestmark = pytest.mark.slow

DATA = """
root: null
languages: [eng_Latn, swh_Latn]
demonstrations: [{adapter: tiny_world, split: train, options: {n: 16}, languages: [eng_Latn, swh_Latn]}]
preferences: [{adapter: tiny_world, split: train, options: {n: 64}, languages: [eng_Latn]}]
prompts: [{adapter: tiny_world, split: train, options: {n: 24}}, {adapter: tiny_world, split: eval, options: {n: 12}}]
"""


def test_a_guard_stops_the_loop(tmp_path):
    (tmp_path / "conf/data").mkdir(parents=True)
    (tmp_path / "conf/data/loop.yaml").write_text(DATA)
    settings = [
        "data=loop",
        "engine=transformers",
        "n=6",
        "n_eval=2",
        "rounds=2",
        "temperature=2.0",
        "gate=langid",
        f"use.base={PROJECT / 'mlalign/data/tiny'}",
    ]
    done = run_here(
        tmp_path, "run", "recipe=iterative_dpo", "conf_dir=conf", *settings, "min_gain=2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = tmp_path / "runs/iterative_dpo/steps"
    status = {
        p.name: json.loads((p / "manifest.json").read_text())["status"] for p in steps.iterdir()
    }
    assert {name for name, s in status.items() if s == "skipped"} == {
        name for name in status if ".r2" in name
    }
    first, second = (
        json.loads((steps / f"guard.r{n}" / "selected.json").read_text()) for n in (1, 2)
    )
    assert first == second
    assert first["stop"]
    assert first["external"]["path"] == str(PROJECT / "mlalign/data/tiny")
    assert "said stop" in done.stdout
    assert (tmp_path / "runs/iterative_dpo/report/report.md").is_file()
