"""A sweep as Slurm jobs: shared steps are one job, the variants' wait for it, and the results are those of the local launcher."""

import subprocess
import sys

import pytest
from helpers import PROJECT

from mlalign import store

pytestmark = pytest.mark.slow

RECIPE = """
params: {confidence: 0.95, n: 12}
steps:
  preferences: {stage: prepare, config: {kind: preference, sources: [{adapter: tiny_world, split: eval, options: {n: "${params.n}"}, languages: [eng_Latn, swh_Latn]}]}}
  verdicts: {stage: score, inputs: {rows: preferences, scorers: [{family: length}]}, config: {split: eval}}
  metrics: {stage: evaluate, inputs: {scores: verdicts}, config: {confidence: "${params.confidence}", n_bootstrap: 100}}
"""


@pytest.fixture
def call(slurm, tmp_path):
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/short.yaml").write_text(RECIPE)

    def run(*arguments):
        command = [sys.executable, "-m", "mlalign", "run", "recipe=short", f"root={tmp_path}", f"conf_dir={tmp_path / 'conf'}", *arguments]
        return subprocess.run(command, env=slurm.env, cwd=PROJECT, text=True, capture_output=True, timeout=600, check=False)

    return run


def test_shared_steps_are_one_job(call, tmp_path):
    sweep = ("confidence=0.8,0.9,0.95", "n=6,12", "-m", "name=s", "metric=reward_accuracy")
    done = call(*sweep, "launcher=slurm", "launcher.wait=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 jobs submitted" in done.stdout
    assert "Best by Reward model prefers the better answer" in done.stdout
    there = (tmp_path / "runs/s/results.json").read_text()
    again = call(*sweep)  # with the local launcher
    assert again.stdout.count(": reused") == 10
    assert (tmp_path / "runs/s/results.json").read_text() == there
    manifests = [store.read_json(p) for p in (tmp_path / "store").glob("*/manifest.json")]
    assert sorted(m["step"] for m in manifests) == ["metrics"] * 6 + ["preferences"] * 2 + ["verdicts"] * 2
    assert all(m["job"] for m in manifests)
