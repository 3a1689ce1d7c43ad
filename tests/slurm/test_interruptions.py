"""Jobs that are sent back to the queue, signalled and cancelled: the run ends equal to one that
nothing has happened to.
"""

import pytest
from slurm_cases import Run, shards_done, steps_done, until

pytestmark = pytest.mark.slow
# A training step slow enough to be caught in the middle, and answers long enough.
SLOW = (
    "recipe=chain",
    "steps.base.config.trainer.max_steps=30",
    "steps.answers.config.max_tokens=60",
)


@pytest.fixture(scope="module")
def unbroken(slurm, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("unbroken"), slurm.env)
    run.here(*SLOW)
    return run.digests()


def test_requeued_in_training_and_in_sampling(slurm, unbroken, tmp_path):
    run = Run(tmp_path, slurm.env)
    done = run.call("run", *SLOW, "launcher=slurm")
    assert done.returncode == 0, done.stderr
    base, answers = run.job("base"), run.job("answers")
    until(steps_done(run, 6), "some steps of training")
    slurm.run("scontrol", "requeue", base)
    until(lambda: int(slurm.job(base)["Restarts"]) == 1, "the job in the queue again")
    until(shards_done(run, 1), "a shard of answers")
    slurm.run("scontrol", "requeue", f"{answers}_0")
    slurm.wait(answers, "COMPLETED", timeout=300)
    until(lambda: not slurm.queue(), "the end")
    assert run.digests() == unbroken
    manifest = next((run.root / "store").glob("sft-*/manifest.json"))
    assert '"resumed_from": "checkpoint-' in manifest.read_text()


@pytest.mark.long
def test_asked_to_stop_where_requeueing_is_forbidden(slurm, unbroken, tmp_path):
    """The further job goes on where the first was, and what waited for the first waits for it."""
    run = Run(tmp_path, slurm.env)
    arguments = (*SLOW, "launcher=slurm", "launcher.requeue=false")
    done = run.call("run", *arguments)
    assert done.returncode == 0, done.stderr
    base, answers = run.job("base"), run.job("answers")
    until(steps_done(run, 2), "the first steps of training")
    slurm.run("scancel", "--signal=USR1", "--batch", base)
    slurm.wait(base, "COMPLETED", timeout=120)
    further = run.job("base")
    assert further != base and run.jobs()[-1]["continues"] == base
    assert f"afterok:{further}" in slurm.job(answers)["Dependency"]

    until(shards_done(run, 1), "a shard of answers")
    slurm.run("scancel", f"{answers}_1")
    until(lambda: not slurm.queue(), "the end of the other task")
    done = run.call("run", *arguments, "launcher.wait=true")
    assert done.returncode == 0, done.stderr
    if "jobs submitted" in done.stdout:  # the task was cancelled before its last shard
        assert (
            "of the attempt before: answers" in done.stdout and "ended from outside" in done.stdout
        )
    assert run.digests() == unbroken
