"""One damaged run: the others are shown, and that one is named with what is wrong."""

import json

import pytest
from helpers import write_manifest

ARTIFACT = "sft-{:016x}"
PLAN = {"recipe": "tried", "name": "x", "languages": []}
DAMAGES = {
    "plan: no json": ("plan.json", "{", "plan.json: cannot be read as JSON"),
    "plan: a list": ("plan.json", "[1]", "plan.json: holds a list where a mapping belongs"),
    "plan: empty": ("plan.json", "", "plan.json: cannot be read as JSON"),
    "plan: deep": ("plan.json", "[" * 100_000, "plan.json: cannot be read as JSON"),
    "plan: no steps": ("plan.json", '{"recipe": "x"}', "plan.json: holds no 'steps'"),
    "plan: a step is text": (
        "plan.json",
        '{"recipe": "x", "steps": ["a"]}',
        "plan.json, steps, entry 1: holds text",
    ),
    "plan: a step without name": (
        "plan.json",
        '{"recipe": "x", "steps": [{"stage": "sft"}]}',
        "entry 1: holds no 'step'",
    ),
    "jobs: no json": ("slurm/jobs.jsonl", "{\n", "jobs.jsonl, line 1: is no JSON; remove the line"),
    "jobs: a list": ("slurm/jobs.jsonl", "[]\n", "jobs.jsonl, line 1: holds a list"),
    "jobs: no number": (
        "slurm/jobs.jsonl",
        (
            '{"job": "x", "step": "a", "artifact": "sft-1", "tasks": 1, "script": "a", "log": "b",'
            ' "submitted": 0}\n'
        ),
        "line 1: 'x' is no number of a job",
    ),
    "jobs: no text": ("slurm/jobs.jsonl", b"\xff\n", "jobs.jsonl: is no text"),
}


@pytest.fixture
def root(tmp_path):
    """Two runs of a step each; what was put aside, and an artifact that no run names."""
    for number, name in enumerate(("good", "bad")):
        artifact = ARTIFACT.format(number)
        step = {
            "step": "base",
            "stage": "sft",
            "artifact": artifact,
            "round": None,
            "inputs": [],
            "resources": {},
        }
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "plan.json").write_text(json.dumps({**PLAN, "steps": [step]}))
        write_manifest(tmp_path / "store" / artifact, step="base", stage="sft", kind="model")
    for name in (ARTIFACT.format(7), f"{ARTIFACT.format(8)}.replaced"):
        (tmp_path / "store" / name).mkdir()
        (tmp_path / "store" / name / "manifest.json").write_text("{}")
    return tmp_path


def damage(root, where, text):
    path = root / "runs" / "bad" / where
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("name", DAMAGES)
def test_the_other_runs_are_shown(mlalign, root, name):
    where, text, told = DAMAGES[name]
    damage(root, where, text)
    done = mlalign("status")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "1/1 done" in lines["good"] and "cannot be read" in lines["bad"]
    assert (
        done.returncode == 1 and done.stderr.startswith("error: run bad: ") and told in done.stderr
    )
    by_name = {r["name"]: r for r in json.loads(mlalign("status", "json=true").stdout)["runs"]}
    assert told in by_name["bad"]["problem"] and by_name["good"]["steps"][0]["state"] == "done"
    assert mlalign("status", "name=good").returncode == 0
    for command in ("status", "logs", "cancel"):
        done = mlalign(command, "name=bad")
        assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["plan: no json", "plan: no steps", "jobs: no json"])
def test_gc_lets_go_only_what_was_put_aside(mlalign, root, name):
    where, text, told = DAMAGES[name]
    damage(root, where, text)
    done = mlalign("gc", "delete=true")
    assert (
        done.returncode == 1
        and told in done.stderr
        and "only what was put aside can go" in done.stderr
    )
    left = [p.name for p in (root / "store").iterdir() if not p.name.startswith(".")]
    assert sorted(left) == [ARTIFACT.format(i) for i in (0, 1, 7)]


def test_the_sweeps_that_there_are_are_told_beside_a_damaged_run(mlalign, root):
    damage(root, "plan.json", "[]")
    done = mlalign("results", "name=goood")
    assert (
        done.returncode == 1
        and "there is no sweep 'goood'" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"status": "done", "started": "x", "finished": 1}']
)
def test_a_damaged_artifact_is_one_step_of_its_run(mlalign, root, text):
    (root / "store" / ARTIFACT.format(1) / "manifest.json").write_text(text)
    told = json.loads(mlalign("status", "json=true").stdout)["runs"]
    states = {r["name"]: (r["steps"][0]["state"], r["steps"][0]["why"]) for r in told}
    assert (
        states["good"][0] == "done"
        and states["bad"][0] == "unreadable"
        and "manifest.json: " in states["bad"][1]
    )
