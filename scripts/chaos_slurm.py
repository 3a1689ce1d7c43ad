"""Trouble of Slurm's kinds at random moments of one run, on a cluster of its own:
`scripts/chaos.py --launcher slurm`.

A requeue, a signal, a lost node, a preemption by a higher partition, the end of one array task by
scancel: each strikes work that is running, in a drawn order, and is followed by the same command
again. One training step has a time limit that it hits twice at least. Passes when the run ends with
the content of the unbroken one, nothing that had finished is computed again, all troubles found
something to strike, and what Slurm ended for good was explained.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chaos

UP = Path(__file__).parent.parent / "tests" / "slurm-up.sh"
NODES = 2
CLUSTER = {
    "CLUSTER_NODES": str(NODES),
    "CLUSTER_EXTRA": (
        "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\n"
        "PartitionName=urgent Nodes=ALL PriorityTier=9 MaxTime=INFINITE State=UP"
    ),
}
# Jobs share the machine's cores; the time limit of the first training step is shorter than its
# work.
SLURM = [
    "launcher=slurm",
    "launcher.grace_s=30",
    "launcher.resources.generate={tasks: 2}",
    "launcher.resources.score={tasks: 2}",
]
LIMIT = ["steps.base.resources.time='0:02:00'"]
SMALL = ["steps.base.config.trainer.max_steps=800", "languages=[eng_Latn,swh_Latn,hin_Deva]"]
PATIENCE_S = 2400  # for the whole run, of which a requeue alone costs up to two minutes
DONE = "are done, nothing to submit"


def main(asked: argparse.Namespace) -> int:
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as root, cluster():
        whole, broken = Path(root, "whole"), Path(root, "broken")
        arguments = [*asked.arguments, *SMALL]
        started = time.monotonic()
        subprocess.run(
            chaos.command(arguments, whole, asked.engine), check=True, stdout=subprocess.DEVNULL
        )
        print(f"unbroken run, here: {time.monotonic() - started:.0f} s", flush=True)
        problems = survive(
            chaos.command([*arguments, *SLURM, *LIMIT], broken, asked.engine), broken, draw, asked
        )
        problems += chaos.compare(whole, broken)
        problems += limits_hit(broken)
    for message in problems:
        print(f"FAILED: {message}")
    print(
        "chaos on Slurm: "
        + (
            "failed"
            if problems
            else "every artifact equals the unbroken run's; every stop was explained"
        )
    )
    return 1 if problems else 0


@contextmanager
def cluster() -> Iterator[None]:
    """A cluster in this process's environment."""
    for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_", "SRUN_"))]:
        del os.environ[name]
    base = tempfile.mkdtemp(prefix="chaos", dir="/tmp")
    env = {**os.environ, **CLUSTER, "CLUSTER_DIR": f"{base}/c"}
    try:
        subprocess.run([UP, "up"], env=env, check=True, stdout=subprocess.DEVNULL, timeout=120)
        os.environ["SLURM_CONF"] = f"{base}/c/slurm.conf"
        yield
    finally:
        subprocess.run([UP, "down"], env=env, check=False, timeout=120)
        os.rmdir(base)


def survive(
    run: list[str], root: Path, draw: random.Random, asked: argparse.Namespace
) -> list[str]:
    """Submit, make trouble, submit again …, until all steps are done; returns what went wrong."""
    finished: dict[str, float] = {}
    ended: list[str] = []  # jobs that were ended for good
    said, problems, end = [submit(run, root)], [], time.monotonic() + PATIENCE_S

    def going_on() -> bool:
        time.sleep(10)
        said.append(submit(run, root))
        return DONE not in said[-1] and time.monotonic() < end

    order = draw.sample(TROUBLES, k=len(TROUBLES))
    for number in range(1, asked.kills + 1):
        trouble = order[(number - 1) % len(order)]
        time.sleep(draw.uniform(1, asked.max_seconds))
        while (
            not (
                running := sorted(
                    j for j in queue("RUNNING") if trouble is not cancel_task or "_" in j
                )
            )
            and going_on()
        ):
            pass
        if not running:
            problems.append(f"{trouble.__name__} found nothing to strike")
            continue
        trouble(job := draw.choice(running))
        ended += [job.partition("_")[0]] if trouble is cancel_task else []
        said.append(submit(run, root))
        problems += chaos.recomputed(root, finished)
        print(
            f"trouble {number}: {trouble.__name__} of job {job}; steps finished so far:"
            f" {len(finished)}",
            flush=True,
        )
    while going_on():
        pass
    problems += (
        []
        if DONE in said[-1]
        else [f"the run has not ended after {PATIENCE_S} s; its last word: {said[-1][-500:]}"]
    )
    problems += [
        f"the end of job {job} was not explained"
        for job in ended
        if not re.search(rf"job {job}(?!\d)", "".join(said))
    ]
    return problems + chaos.recomputed(root, finished)


def submit(run: list[str], root: Path) -> str:
    """The same command: it submits what is missing, or says that all of it is in the queue.

    Returns its words, explanations included.

    Raises: SystemExit for any other end of it.
    """
    done = subprocess.run(run, text=True, capture_output=True, timeout=300, check=False)
    if done.returncode and "in the queue already" not in done.stderr:
        sys.exit(f"submitting ended with status {done.returncode}: {done.stderr.strip()}")
    return (
        done.stdout
        + done.stderr
        + "".join(p.read_text() for p in (root / "runs" / "chaos" / "slurm").glob("*.failed.txt"))
    )


def queue(*states: str) -> list[str]:
    """Ids of jobs and array tasks that wait or run."""
    chosen = ["-t", ",".join(states)] if states else []
    return call("squeue", "-h", "-r", *chosen, "-o", "%i").split()


def call(*words: str) -> str:
    return subprocess.run(words, text=True, capture_output=True, timeout=60, check=False).stdout


def requeue(job: str) -> None:
    call("scontrol", "requeue", job)


def signal(job: str) -> None:
    call("scancel", "--signal=USR1", "--batch", job)


def cancel_task(job: str) -> None:
    call("scancel", job)


def lose_node(job: str) -> None:
    node = call("squeue", "-h", "-r", "-j", job, "-o", "%N").strip() or "n1"
    call("scontrol", "update", f"nodename={node}", "state=down", "reason=chaos")
    time.sleep(2)
    call("scontrol", "update", f"nodename={node}", "state=resume")


def preempt(job: str) -> None:
    """By one that wants all nodes."""
    call(
        "sbatch",
        "-p",
        "urgent",
        "--exclusive",
        f"-N{NODES}",
        "-o",
        "/dev/null",
        "--wrap",
        "sleep 2",
    )
    while "R" not in call("squeue", "-h", "-p", "urgent", "-o", "%t").split():
        time.sleep(0.5)


TROUBLES = (requeue, signal, lose_node, preempt, cancel_task)


def limits_hit(root: Path) -> list[str]:
    """The training step with the short limit must have been continued twice or more."""
    log = "".join(p.read_text() for p in (root / "runs/chaos/slurm/logs").glob("base-*.log"))
    turns = len(re.findall("state saved; ", log))
    print(f"the step with a time limit was continued {turns} times")
    return (
        []
        if turns >= 2
        else [f"the time limit was hit {turns} times only: the step is too short for this machine"]
    )


if __name__ == "__main__":
    sys.exit("run scripts/chaos.py --launcher slurm")
