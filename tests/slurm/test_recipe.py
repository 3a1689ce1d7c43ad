"""The main recipe with `launcher=slurm` ends with the metrics of the local run."""

import json

import pytest
from slurm_cases import Run, until

pytestmark = [pytest.mark.slow, pytest.mark.long]
SMALL = ("recipe=reuse_your_rewards", "scale=tiny", "n=4", "n_eval=2", "temperature=2.0")
SHARED = ("launcher.resources.generate={tasks: 2}", "launcher.resources.score={tasks: 2}")


def test_the_recipe_ends_with_the_metrics_of_the_local_run(slurm, tmp_path):
    local, there = Run(tmp_path / "local", slurm.env), Run(tmp_path / "there", slurm.env)
    done = there.call("run", *SMALL, "launcher=slurm", *SHARED)
    assert done.returncode == 0, done.stderr
    local.here(*SMALL)
    until(lambda: not slurm.queue(), "the end of all jobs", 900)
    assert there.digests() == local.digests()
    assert len(there.digests()) == 17
    of = {
        run: json.loads((run.root / "runs/r/steps/measure[policy]/metrics.json").read_text())
        for run in (local, there)
    }
    assert of[there] == of[local]
    assert (there.root / "runs/r/report/report.html").is_file()
    again = there.call("run", *SMALL, "launcher=slurm", *SHARED)
    assert "all 18 steps are done, nothing to submit" in again.stdout
