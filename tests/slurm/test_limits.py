"""What a cluster takes of a submission: arrays of its size, and as many jobs as the queue has room
for. The rest comes later.
"""

import os
import shutil
import threading

import pytest
from slurm_cases import Run, until
from training_cases import TINY

from mlalign.running.slurm import limits

pytestmark = [pytest.mark.slow, pytest.mark.long]
LIMITED = "AccountingStorageEnforce=limits\nMaxArraySize=4"
ONLY = ("recipe=chain", "launcher=slurm", "launcher.account=known", "only=[rows,prompts]")


@pytest.fixture(scope="module")
def limited(make_cluster):
    if not shutil.which("slurmdbd", path=os.environ["PATH"] + ":/usr/sbin"):
        why = "limits need slurmdbd: CLUSTER_ACCOUNTS=1 tests/slurm-up.sh install"
        pytest.fail(why) if os.environ.get("REQUIRE_SLURM") == "1" else pytest.skip(why)
    with make_cluster(nodes=1, accounts=1, extra=LIMITED) as slurm:
        yield slurm


@pytest.fixture
def run(limited, tmp_path):
    yield Run(tmp_path, limited.env)
    limited.run("scancel", "--full", "-u", os.environ.get("USER", "root"), check=False)
    until(lambda: not limited.queue(), "an empty queue")


def at_most(slurm, n):
    """Let the account have so many jobs in the queue."""
    slurm.run("sacctmgr", "-i", "modify", "account", "known", "set", f"GrpSubmitJobs={n}")


def test_a_queue_with_room_for_one_job_takes_one_after_the_other(limited, run):
    at_most(limited, 1)
    done = run.call("run", *ONLY, "launcher.sbatch={hold: true}")
    assert done.returncode == 75, done.stdout + done.stderr
    assert (
        "1 jobs submitted" in done.stdout
        and "so prompts could not be submitted: run the same command again" in done.stdout
    )
    assert "SubmitJobs" in done.stdout.replace("SubmitJobLimit", "SubmitJobs") and [
        e["step"] for e in run.jobs()
    ] == ["rows"]
    # Held until the command below has long begun to wait for room.
    released = threading.Timer(15, limited.run, ["scontrol", "release", run.job("rows")])
    released.start()
    done = run.call("run", *ONLY, "launcher.wait=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "there is room in the queue again for prompts" in done.stdout and len(run.digests()) == 2


def test_a_queue_without_room_is_told_with_the_keys(limited, run):
    at_most(limited, 0)
    done = run.call("run", *ONLY)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "rows: Slurm refused the job: " in done.stderr
        and "choose another launcher.qos or launcher.account" in done.stderr
    )
    assert "launcher.account (known)" in done.stderr and not limited.queue()


def test_arrays_get_the_tasks_that_the_cluster_and_the_queue_take(limited, run, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", limited.env["SLURM_CONF"])
    assert limits.array_size() == 4
    at_most(limited, -1)
    given = ("recipe=chain", f"use.base={TINY}")
    run.here(*given, "only=prompts")
    asked = (
        *given,
        "launcher=slurm",
        "launcher.account=known",
        "only=answers",
        "launcher.sbatch={hold: true}",
        "steps.answers.resources.tasks=9",
    )
    done = run.call("run", *asked)
    assert done.returncode == 0, done.stderr
    assert (
        "answers: 9 tasks are more than an array may have here (MaxArraySize): 4 take more"
        in done.stdout
    )
    assert run.jobs()[-1]["tasks"] == 4 and len(limited.queue()) == 4
    limited.run("scancel", run.job("answers"))
    until(lambda: not limited.queue(), "an empty queue")
    at_most(limited, 2)
    done = run.call("run", *asked)
    assert done.returncode == 0, done.stderr
    assert (
        "answers: the queue does not take 4 tasks at a time: 2 take more of the shards each"
        in done.stdout
    )
    limited.run("scontrol", "release", run.job("answers"))
    until(lambda: len(run.digests()) == 2, "the answers")
