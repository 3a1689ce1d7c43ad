"""Staying with jobs while Slurm's controller is away."""

import json

import pytest

from mlalign.running.slurm import commands, jobs, watch

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_an_outage_is_waited_for(slurm, tmp_path, monkeypatch):
    """A configuration whose controller nobody serves, until it was noticed."""
    there, broken = slurm.env["SLURM_CONF"], tmp_path / "slurm.conf"
    with open(there) as f:
        broken.write_text(
            "".join(
                line if not line.startswith("SlurmctldPort") else "SlurmctldPort=9\n" for line in f
            )
        )
    folder = tmp_path / "runs/r/slurm"
    folder.mkdir(parents=True)
    job = slurm.sbatch("--hold", "-o", "/dev/null", "--wrap", "true")
    entry = {
        "job": job, "step": "a", "artifact": "prepare-1", "tasks": 1, "script": "a.sbatch",
        "log": "a.log", "after": [], "continues": None, "submitted": 0,
    }  # fmt: skip
    (folder / jobs.FILE).write_text(json.dumps(entry) + "\n")
    monkeypatch.setattr(watch, "EVERY_S", (0.1, 0.1))
    monkeypatch.setenv("SLURM_CONF", str(broken))
    said = []

    def say(text):
        said.append(text)
        monkeypatch.setenv("SLURM_CONF", there)

    assert [one.entry["job"] for one in watch._live(folder, say)] == [job]
    assert len(said) == 1 and "Slurm does not answer" in said[0] and said[0].endswith("; asking on")
    monkeypatch.setenv("SLURM_CONF", str(broken))
    monkeypatch.setattr(watch, "OUTAGE_S", 0)
    with pytest.raises(commands.Silent, match="Slurm does not answer"):
        watch._live(folder, said.append)
    slurm.run("scancel", job)
