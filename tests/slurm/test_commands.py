"""`status`, `logs` and `cancel` on jobs of a real Slurm."""

import json
import time

import pytest
from helpers import write_manifest

from mlalign.models import checkpoints

pytestmark = pytest.mark.slow

ARTIFACT = "generate-{:016x}"


class Submitted:
    """A run of the given steps, each with the jobs that a test submits for it."""

    def __init__(self, root, slurm, steps):
        self.root, self.slurm, self.folder = root, slurm, root / "runs" / "mine" / "slurm"
        (self.folder / "logs").mkdir(parents=True)
        self.steps = {name: ARTIFACT.format(i) for i, name in enumerate(steps)}
        told = [
            {
                "step": name,
                "stage": "generate",
                "artifact": self.steps[name],
                "round": None,
                "inputs": [],
                "resources": {},
            }
            for name in steps
        ]
        plan = {"recipe": "tried", "name": "mine", "languages": [], "steps": told}
        (root / "runs" / "mine" / "plan.json").write_text(json.dumps(plan))

    def submit(self, step, script, *options, tasks=1, after=(), continues=None):
        log = f"logs/{step}-%A_%a.log" if tasks > 1 else f"logs/{step}-%j.log"
        path = self.folder / f"{step}.sbatch"
        path.write_text(f"#!/bin/bash\n{script}\n")
        given = [f"--dependency=afterok:{':'.join(after)}"] if after else []
        given += [f"--array=0-{tasks - 1}"] if tasks > 1 else []
        job = self.slurm.sbatch(f"--output={self.folder}/{log}", *given, *options, path)
        line = {
            "job": job,
            "step": step,
            "artifact": self.steps[step],
            "tasks": tasks,
            "script": f"{step}.sbatch",
            "log": log,
            "after": list(after),
            "submitted": time.time(),
            "continues": continues,
        }
        with open(self.folder / "jobs.jsonl", "a") as f:
            f.write(json.dumps(line) + "\n")
        return job

    def partial(self, step):
        path = self.root / "store" / f"{self.steps[step]}.partial"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def forget(self):
        """End what still runs."""
        self.slurm.run("scancel", *self.slurm.queue()) if self.slurm.queue() else None


@pytest.fixture
def submitted(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    made = []

    def make(*steps):
        made.append(Submitted(tmp_path, slurm, steps))
        return made[-1]

    yield make
    for run in made:
        run.forget()


def steps_of(mlalign, *arguments):
    done = mlalign("status", "name=mine", "json=true", *arguments)
    assert done.returncode == 0, done.stderr
    return {s["step"]: s for s in json.loads(done.stdout)["runs"][0]["steps"]}


def until(found, timeout=30):
    end = time.monotonic() + timeout
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return value


def test_states_nodes_reasons_and_restarts_are_slurms_own(mlalign, submitted, slurm):
    run = submitted("first", "array", "next", "broken", "never", "held")
    first = run.submit("first", "sleep 60")
    array = run.submit("array", "[ $SLURM_ARRAY_TASK_ID = 0 ] && exit 0; sleep 60", tasks=3)
    slurm.run("scontrol", "update", f"jobid={array}", "arraytaskthrottle=2")
    run.submit("next", "true", after=[first])
    broken = run.submit("broken", "exit 7")
    slurm.wait(broken, "FAILED")
    run.submit("never", "true", "--kill-on-invalid-dep=no", after=[broken])
    held = run.submit("held", "true", "--hold")
    slurm.wait(first, "RUNNING")
    until(lambda: steps_of(mlalign)["array"]["tasks"].get("done") == 1)
    slurm.run("scontrol", "requeuehold", first)
    told = until(lambda: (now := steps_of(mlalign))["first"]["state"] == "pending" and now)
    assert (told["first"]["state"], told["first"]["job"], told["first"]["restarts"]) == (
        "pending",
        first,
        1,
    )
    assert told["first"]["why"].endswith("is held: scontrol release JOB lets it go")
    assert told["array"]["state"] == "running" and sum(told["array"]["tasks"].values()) == 3
    assert set(told["array"]["nodes"].split(",")) <= {"n1", "n2"} and told["array"]["nodes"]
    assert told["next"]["why"] == "Dependency: waits for the steps before it"
    assert (told["broken"]["state"], told["broken"]["why"]) == (
        "failed",
        "ended with an error (exit status 7)",
    )
    assert told["never"]["why"].startswith("DependencyNeverSatisfied: what it waits for has failed")
    assert told["held"]["why"] == "JobHeldUser: is held: scontrol release JOB lets it go"
    table = mlalign("status", "name=mine").stdout
    assert "mine (recipe tried): 0/6 done" in table and held in table and "1 done" in table
    assert mlalign("status").stdout.splitlines()[1].split()[:2] == ["mine", "tried"]
    slurm.run("scontrol", "release", first)
    until(lambda: steps_of(mlalign)["first"]["state"] == "running")
    assert steps_of(mlalign)["first"]["elapsed_s"] >= 0


def test_an_artifact_counts_more_than_its_job_and_a_forgotten_job_is_called_so(
    mlalign, submitted, slurm
):
    run = submitted("done", "lost", "stopped")
    run.submit("done", "sleep 60", "--hold")
    for step in ("lost", "stopped"):
        run.submit(step, "sleep 60")
    finished = {
        "status": "done",
        "started": 10.0,
        "finished": 25.0,
        "host": "n9",
        "rows_by_language": {"swh_Latn": 3},
    }
    path = run.root / "store" / run.steps["done"]
    path.mkdir(parents=True)
    write_manifest(path, **finished)
    lines = (
        (run.folder / "jobs.jsonl")
        .read_text()
        .replace('"step": "lost"', '"step": "lost", "x": 1')
        .splitlines()
    )
    lines[1] = json.dumps({**json.loads(lines[1]), "job": "999999"})
    (run.folder / "jobs.jsonl").write_text(
        "\n".join(lines) + '\n{"job": "12'
    )  # a line that is just being written
    (run.partial("stopped") / "outcome.json").write_text(
        '{"status": 75, "message": "stopped on request"}'
    )
    slurm.run("scancel", json.loads(lines[2])["job"])
    until(lambda: steps_of(mlalign)["stopped"]["state"] == "interrupted")
    told = steps_of(mlalign)
    assert (told["done"]["state"], told["done"]["elapsed_s"], told["done"]["nodes"]) == (
        "done",
        15.0,
        "n9",
    )
    assert told["done"]["progress"]["done"] == 3
    assert (told["lost"]["state"], told["lost"]["why"]) == (
        "gone",
        "Slurm has forgotten job 999999, which left no artifact",
    )


def test_a_continued_task_counts_once(mlalign, submitted, slurm):
    run = submitted("array")
    array = run.submit("array", "[ $SLURM_ARRAY_TASK_ID = 1 ] && exit 75; sleep 60", tasks=2)
    until(lambda: slurm.job(f"{array}_1")["JobState"] == "FAILED")
    further = run.submit("array", "sleep 60", continues=f"{array}_1")
    slurm.wait(further, "RUNNING")
    told = steps_of(mlalign)["array"]
    assert (told["state"], told["tasks"], told["restarts"], told["job"]) == (
        "running",
        {"running": 2},
        1,
        f"{array},{further}",
    )


def test_logs_of_jobs_and_tasks_with_the_explanation_first(mlalign, submitted, slurm):
    run = submitted("array", "broken")
    array = run.submit("array", r"printf 'task %s \033[31mred\n' $SLURM_ARRAY_TASK_ID", tasks=2)
    broken = run.submit("broken", "seq 500; exit 1")
    slurm.wait(broken, "FAILED")
    until(
        lambda: (
            len(list((run.folder / "logs").glob(f"array-{array}_*.log"))) == 2 and not slurm.queue()
        )
    )
    (run.folder / "broken.failed.txt").write_text(
        "broken failed on n1: the disk is full\nmake room\n"
    )
    told = mlalign("logs", "name=mine", "step=array", "task=1").stdout
    assert (
        "task 1 ⟨U+001B⟩[31mred" in told and f"array-{array}_1.log" in told and "task 0" not in told
    )
    assert "(and 1 more:" in mlalign("logs", "name=mine", "step=array").stdout
    told = mlalign("logs", "name=mine", "step=broken", "lines=2").stdout.splitlines()
    assert told[0] == "broken failed on n1: the disk is full"
    assert told[-3:] == ["… 498 lines before these: lines=all shows them", "499", "500"]
    assert len(mlalign("logs", "name=mine", "step=broken", "lines=all").stdout.splitlines()) > 500
    assert steps_of(mlalign)["broken"]["why"].startswith("broken failed on n1: the disk is full (")
    assert "task=7" in mlalign("logs", "name=mine", "step=array", "task=7").stderr


def test_logs_follow_a_job_to_its_end(mlalign, submitted, slurm):
    run = submitted("slow")
    job = run.submit("slow", "echo begun; sleep 4; echo finished")
    until((run.folder / "logs" / f"slow-{job}.log").is_file)
    assert mlalign("logs", "name=mine", "follow=true").stdout.splitlines()[-2:] == [
        "begun",
        "finished",
    ]


def test_watch_ends_with_the_last_job(mlalign, submitted):
    run = submitted("short")
    run.submit("short", "sleep 2")
    told = mlalign("status", "name=mine", "watch=0.5").stdout
    assert (
        told.count("mine (recipe tried)") > 2
        and "ended without an artifact" in told.splitlines()[-1]
    )


SAVES = """asked=; trap 'asked=1' USR1
while [ -z "$asked" ]; do sleep 0.1; done
[ -e {marker} ] && echo saved && exit 0
scontrol requeue $SLURM_JOB_ID"""


def test_cancel_asks_what_runs_and_cancels_what_waits(mlalign, submitted, slurm):
    run = submitted("first", "next", "array")
    first = run.submit("first", SAVES.format(marker=run.folder / "cancelled"))
    waits = run.submit("next", "true", after=[first])
    array = run.submit(
        "array", SAVES.format(marker=run.folder / "cancelled"), "--array=0-2%2", tasks=3
    )
    until(
        lambda: (
            len([j for j in slurm.run("squeue", "-h", "-r", "-t", "R", "-o", "%i").stdout.split()])
            == 3
        )
    )
    time.sleep(0.5)  # until the traps are set
    done = mlalign("cancel", "name=mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"first: job {first}: asked to save its state and end",
        f"next: job {waits}: cancelled",
        (
            f"array: job {array}: 1 waiting tasks cancelled, 2 running tasks asked to save their"
            " state and end"
        ),
    ]
    until(lambda: not slurm.queue())
    assert "saved" in (run.folder / "logs" / f"first-{first}.log").read_text()
    assert (slurm.job(first)["JobState"], slurm.job(waits)["JobState"]) == (
        "COMPLETED",
        "CANCELLED",
    )
    assert (
        mlalign("cancel", "name=mine").stdout
        == "no step of this run is running or waiting in the queue\n"
    )


def test_cancel_of_one_step_takes_what_waits_for_it_and_now_kills(mlalign, submitted, slurm):
    run = submitted("one", "two", "after_one")
    one, two = run.submit("one", "sleep 60"), run.submit("two", "sleep 60")
    waits = run.submit("after_one", "true", after=[one])
    for job in (one, two):
        slurm.wait(job, "RUNNING")
    done = mlalign("cancel", "name=mine", "step=one", "now=true")
    assert done.stdout.splitlines() == [
        f"one: job {one}: cancelled",
        f"after_one: job {waits}: cancelled",
    ]
    slurm.wait(one, "CANCELLED")
    assert slurm.job(two)["JobState"] == "RUNNING"
    assert {p.name for p in run.folder.glob("*cancelled")} == {
        "one.cancelled",
        "after_one.cancelled",
    }


def test_where_slurm_does_not_answer_the_files_are_told_alone(
    mlalign, submitted, slurm, monkeypatch, tmp_path
):
    run = submitted("first")
    run.submit("first", "sleep 60")
    (run.partial("first") / "progress.json").write_text(
        json.dumps({"done": 2, "total": 5, "unit": "steps", "by_language": {}, "time": 0.0})
    )
    broken = tmp_path / "slurm.conf"
    text = (tmp_path / slurm.env["SLURM_CONF"]).read_text()
    broken.write_text(
        "".join(
            line if not line.startswith("SlurmctldPort") else "SlurmctldPort=1\n"
            for line in text.splitlines(True)
        )
    )
    for change, words in (
        (("SLURM_CONF", str(broken)), "Slurm does not answer"),
        (("PATH", str(tmp_path)), "`squeue` is not on the PATH"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(*change)
            patch.setattr("mlalign.running.slurm.queue.TIMEOUT_S", 3.0)
            told = mlalign("status", "name=mine")
            assert (
                told.returncode == 0
                and words in told.stdout
                and "2/5 steps" in told.stdout
                and "submitted" in told.stdout
            )
            refused = mlalign("cancel", "name=mine")
            assert (
                refused.returncode == 1
                and words in refused.stderr
                and "Traceback" not in refused.stderr
            )


@pytest.mark.long
def test_the_accounting_is_asked_for_what_the_controller_forgot(
    make_cluster, mlalign, tmp_path, monkeypatch
):
    with make_cluster(nodes=1, accounts=1, extra="MinJobAge=2") as slurm:
        monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
        run = Submitted(tmp_path, slurm, ["broken"])
        run.submit("broken", "exit 3", "--account=known")
        until(lambda: not slurm.run("squeue", "-h", "-t", "all").stdout.strip(), timeout=60)
        told = until(lambda: (s := steps_of(mlalign)["broken"])["state"] == "failed" and s)
        assert told["why"] == "ended with an error (exit status 3)" and told["nodes"] == "n1"


def test_gc_leaves_a_queued_run_alone(mlalign, submitted, slurm):
    run = submitted("queued")
    job = run.submit("queued", "true", "--hold")
    for number in (20, 40):
        folder = run.partial("queued") / "checkpoints" / "trainer" / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        checkpoints.complete(folder, ranks=1)
    assert mlalign("gc", "keep_checkpoints=0").stdout.startswith("nothing in")
    slurm.run("scancel", job)
    until(lambda: "checkpoint-20" in mlalign("gc").stdout)
