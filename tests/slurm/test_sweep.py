"""A sweep as Slurm jobs: shared steps are one job, the variants' wait for it, and the last of them
leaves the results.
"""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from helpers import PROJECT
from lean_sweep import Lean
from slurm_cases import until

from mlalign.core import store

pytestmark = pytest.mark.slow

RECIPE = """
params: {confidence: 0.95, n: 12, split: eval}
steps:
  preferences: {stage: prepare, config: {kind: preference, sources: [{adapter: tiny_world, split: eval, options: {n: "${params.n}"}, languages: [eng_Latn, swh_Latn]}]}}
  verdicts: {stage: score, inputs: {rows: preferences, scorers: [{family: length}]}, config: {split: "${params.split}"}}
  metrics: {stage: evaluate, inputs: {scores: verdicts}, config: {confidence: "${params.confidence}", n_bootstrap: 100}}
  report: {stage: report, inputs: {steps: "*"}}
"""


def call(slurm, folder, *arguments):
    command = [
        sys.executable,
        "-m",
        "mlalign",
        "run",
        f"root={folder}",
        f"conf_dir={folder / 'conf'}",
        *arguments,
    ]
    return subprocess.run(
        command,
        env=slurm.env,
        cwd=PROJECT,
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )


def manifests(folder):
    return [store.read_json(p) for p in (folder / "store").glob("*/manifest.json")]


@pytest.fixture
def short(tmp_path):
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/short.yaml").write_text(RECIPE)
    return tmp_path


def test_shared_steps_are_one_job(slurm, short):
    sweep = (
        "recipe=short",
        "confidence=0.8,0.9,0.95",
        "n=6,12",
        "-m",
        "name=s",
        "metric=reward_accuracy",
    )
    done = call(slurm, short, *sweep, "launcher=slurm", "launcher.wait=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 jobs submitted" in done.stdout
    assert "Best by Reward model prefers the better answer" in done.stdout
    there = (short / "runs/s/results.json").read_text()
    again = call(slurm, short, *sweep)  # with the local launcher
    assert again.stdout.count(": reused") == 16
    assert (short / "runs/s/results.json").read_text() == there
    assert (
        sorted(m["step"] for m in manifests(short))
        == ["metrics"] * 6 + ["preferences"] * 2 + ["report"] * 6 + ["verdicts"] * 2
    )
    assert all(m["job"] for m in manifests(short))


def states(folder):
    return {
        v["variant"]: v["state"]
        for v in json.loads((folder / "runs/s/results.json").read_text())["variants"]
    }


@pytest.mark.long
def test_the_jobs_leave_the_results(slurm, short):
    """With nobody waiting: the last steps of a variant, and a step that failed, before which others
    had ended.
    """
    sweep = ("recipe=short", "-m", "name=s", "metric=reward_accuracy", "launcher=slurm")
    done = call(slurm, short, *sweep, "n=6,12")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"results will be in {short / 'runs/s/results.html'}" in done.stdout
    until(lambda: not slurm.queue(), "the end of all jobs", 300)
    assert states(short) == {"n=6": "done", "n=12": "done"}
    assert (short / "runs/s/results.html").is_file()
    done = call(slurm, short, *sweep, "split=eval,train")
    assert "3 jobs submitted; 4 done or queued before" in done.stdout
    until(lambda: not slurm.queue(), "the end of all jobs", 300)
    assert states(short) == {"split=eval": "done", "split=train": "failed"}


@pytest.mark.long
def test_a_search_runs_its_trials_as_jobs(slurm, short):
    """Two at a time, with the proposals and results of the local launcher; a trial that fails is
    explained and lost alone.
    """
    space = (
        "n=range(4,13,4)",
        "split=choice(eval,train)",
        "metric=reward_accuracy",
        "search.trials=6",
        "search.parallel=2",
    )
    done = call(slurm, short, "recipe=short", "name=s", *space, "launcher=slurm")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no rows of split 'eval'" in done.stderr
    assert "trials failed; the same command tries them again" in done.stderr
    there = json.loads((short / "runs/s/results.json").read_text())
    assert {(v["values"]["split"], v["state"]) for v in there["variants"]} == {
        ("eval", "done"),
        ("train", "failed"),
    }
    assert re.search(r"trial 2/6: .*\n(.*\n)*.*trial 3/6: ", done.stdout)
    local = call(slurm, short, "recipe=short", "name=here", *space)
    assert [
        v["values"] for v in json.loads((short / "runs/here/results.json").read_text())["variants"]
    ] == [v["values"] for v in there["variants"]]
    assert "started" not in re.sub(
        r".*metrics\[.*train.*", "", local.stdout
    )  # what succeeded is there; what failed is tried again


SLOW = (
    "recipe=short",
    "name=s",
    "n=range(4,30,4)",
    "metric=reward_accuracy",
    "search.trials=4",
    "search.parallel=2",
    "launcher=slurm",
)


def begun(slurm, folder, trial):
    """A search as a process, once this trial has jobs."""
    command = [
        sys.executable,
        "-m",
        "mlalign",
        "run",
        f"root={folder}",
        f"conf_dir={folder / 'conf'}",
        *SLOW,
        "launcher.preamble=[sleep 2]",
    ]
    process = subprocess.Popen(
        command,
        env=slurm.env,
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if ": waits" in line and any(line.startswith(f"trial {trial}/") for line in said):
            return process
    raise AssertionError("".join(said))


@pytest.mark.long
def test_a_search_that_was_killed_goes_on_with_its_jobs_in_the_queue(slurm, short):
    process = begun(slurm, short, 3)
    process.kill()
    process.wait()
    process.stdout.close()
    assert slurm.queue()
    done = call(slurm, short, *SLOW)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 2/4" not in done.stdout and "trial 3/4" in done.stdout
    assert set(states(short).values()) == {"done"} and len(states(short)) == 4
    steps = [
        json.loads(line)["step"]
        for line in (short / "runs/s/slurm/jobs.jsonl").read_text().splitlines()
    ]
    assert len(steps) == len(set(steps)) == 16


@pytest.mark.long
def test_a_cancelled_search_ends_and_a_second_one_is_refused(slurm, short):
    process = begun(slurm, short, 1)
    second = call(slurm, short, *SLOW)
    assert second.returncode == 1 and "another process is running the search 's'" in second.stderr
    cancel = [sys.executable, "-m", "mlalign", "cancel", f"root={short}", "name=s", "now=true"]
    assert (
        subprocess.run(
            cancel, env=slurm.env, check=False, capture_output=True, timeout=60
        ).returncode
        == 0
    )
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "stopped; the same command goes on with this search" in said
    assert "trial 3/4" not in said
    assert not slurm.queue() and not list((short / "runs/s/slurm").glob("*.failed.txt"))
    done = call(slurm, short, *SLOW)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(states(short).values()) == {"done"} and len(states(short)) == 4


@pytest.mark.long
def test_a_search_in_which_nothing_succeeds_ends_early(slurm, short):
    space = (
        "n=range(4,30,4)",
        "split=train",
        "metric=reward_accuracy",
        "search.trials=6",
        "search.parallel=2",
    )
    done = call(slurm, short, "recipe=short", "name=s", *space, "launcher=slurm")
    assert done.returncode == 1
    assert "2 of 2 trials failed, so the search has ended early" in done.stderr
    assert "trial 3/6" not in done.stdout
    assert set(states(short).values()) == {"failed"}
    assert "No variant has been measured." in (short / "runs/s/results.md").read_text()


@pytest.mark.long
def test_a_step_of_one_variant_is_cancelled_alone(slurm, short):
    """While its preamble runs: signals count from the first line of a job."""
    done = call(
        slurm,
        short,
        "recipe=short",
        "n=6,12",
        "-m",
        "name=s",
        "metric=reward_accuracy",
        "launcher=slurm",
        "launcher.preamble=[sleep 3]",
    )
    assert done.returncode == 0, done.stderr
    jobs = {
        e["step"]: e["job"]
        for e in map(json.loads, (short / "runs/s/slurm/jobs.jsonl").read_text().splitlines())
    }
    slurm.wait(jobs["verdicts[n=6]"], "RUNNING")
    cancel = [
        sys.executable,
        "-m",
        "mlalign",
        "cancel",
        f"root={short}",
        "name=s",
        "step=verdicts[n=6]",
    ]
    said = subprocess.run(
        cancel, env=slurm.env, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert "asked to save its state and end" in said
    until(lambda: not slurm.queue(), "the end of all jobs", 120)
    assert states(short) == {"n=6": "unfinished", "n=12": "done"}
    assert not list((short / "runs/s/slurm").glob("*.failed.txt"))
    assert "what it has saved is kept" in "".join(
        p.read_text() for p in (short / "runs/s/slurm/logs").glob("verdicts[[]n=6*")
    )


@pytest.mark.long
def test_twelve_variants(slurm, tmp_path):
    """Three betas and four source languages, as in tests/sweep, with the artifacts and the results
    of the local launcher.
    """
    there, here = Lean(tmp_path / "there"), Lean(tmp_path / "here")
    grid = (
        "beta=0.1,0.3,0.05",
        "source_language=eng_Latn,swh_Latn,spa_Latn,hin_Deva",
        "metric=accuracy",
        "-m",
        "name=grid",
    )
    done = call(
        slurm,
        there.root,
        "recipe=lean",
        "data=lean",
        "engine=transformers",
        *grid,
        "launcher=slurm",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "63 jobs submitted" in done.stdout
    assert here.call("run", *grid).returncode == 0
    until(lambda: not slurm.queue(), "the end of all jobs", 1500)
    found = manifests(there.root)
    once, each = (
        dict.fromkeys(("preferences", "prompts", "candidates"), 1),
        dict.fromkeys(("policy", "answers", "marks", "metrics"), 12),
    )
    assert Counter(m["step"] for m in found) == {
        **once,
        **dict.fromkeys(("reward", "scores", "pairs"), 4),
        **each,
    }
    assert {m["content_digest"] for m in found} == {
        m["content_digest"] for m in manifests(here.root)
    }
    assert (there.root / "runs/grid/results.json").read_text() == (
        here.root / "runs/grid/results.json"
    ).read_text()
    assert (there.root / "runs/grid/results.html").is_file()
