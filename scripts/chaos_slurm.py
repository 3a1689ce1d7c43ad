"""Slurm's troubles at random moments of one run: `scripts/chaos.py --launcher slurm`.

On a cluster of its own, a requeue, a signal, a lost node, a preemption by a higher partition, and
the end of an array task by scancel each strike work that is running, in random order. After each,
the same command runs again. One training step has a time limit that it hits at least twice. It
passes if the run ends with the content of the unbroken one, nothing that had finished is computed
again, every trouble had something to strike, and what Slurm ended for good was explained.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
# Jobs share the machine's cores. The first training step's work exceeds its time limit.
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


def main(options: argparse.Namespace) -> int:
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as root, cluster():
        whole = Path(root, "whole")
        broken = Path(root, "broken")
        arguments = [*options.arguments, *SMALL]
        begun = time.monotonic()
        unbroken = chaos.command(arguments, whole, options.engine)
        subprocess.run(unbroken, check=True, stdout=subprocess.DEVNULL)
        print(f"unbroken run, here: {time.monotonic() - begun:.0f} s", flush=True)

        run = chaos.command([*arguments, *SLURM, *LIMIT], broken, options.engine)
        problems = Trial(run, broken).survive(draw, options.kills, options.max_seconds)
        problems += chaos.compare(whole, broken)
        problems += limits_hit(broken)
    for message in problems:
        print(f"FAILED: {message}")
    if problems:
        print("chaos on Slurm: failed")
        return 1
    print("chaos on Slurm: every artifact equals the unbroken run's; every stop was explained")
    return 0


@contextmanager
def cluster() -> Iterator[None]:
    """A cluster in this process's environment."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_")):
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


class Trial:
    """A run that is submitted again and again while trouble strikes its jobs."""

    def __init__(self, run: list[str], root: Path):
        self.run = run
        self.root = root
        self.outputs: list[str] = []  # of each submission
        self.finished: dict[str, float] = {}
        self.ended: list[str] = []  # jobs that were ended for good
        self.deadline = time.monotonic() + PATIENCE_S

    def survive(self, draw: random.Random, n_troubles: int, longest: float) -> list[str]:
        """Submit, make trouble, submit again …, until all is done; returns what went wrong."""
        self.submit()
        problems = []
        order = draw.sample(TROUBLES, k=len(TROUBLES))
        for number in range(1, n_troubles + 1):
            trouble = order[(number - 1) % len(order)]
            time.sleep(draw.uniform(1, longest))
            job = self.strike(trouble, draw)
            if job is None:
                problems.append(f"{trouble.__name__} found nothing to strike")
                continue
            self.submit()
            problems += chaos.recomputed(self.root, self.finished)
            print(
                f"trouble {number}: {trouble.__name__} of job {job}; steps finished so far:"
                f" {len(self.finished)}",
                flush=True,
            )
        while self.goes_on():
            pass
        problems += self.unexplained()
        return problems + chaos.recomputed(self.root, self.finished)

    def strike(self, trouble: Callable[[str], None], draw: random.Random) -> str | None:
        """Make trouble for a running job, as soon as there is one; its id, or None without one."""
        jobs = running(trouble)
        while not jobs and self.goes_on():
            jobs = running(trouble)
        if not jobs:
            return None
        job = draw.choice(jobs)
        trouble(job)
        if trouble is cancel_task:
            self.ended.append(job.partition("_")[0])
        return job

    def goes_on(self) -> bool:
        """Submit again after a while; False if all steps are done, or it has taken too long."""
        time.sleep(10)
        self.submit()
        return DONE not in self.outputs[-1] and time.monotonic() < self.deadline

    def submit(self) -> None:
        """The same command: it submits what is missing, or says that all of it is in the queue.

        Keeps its output and the explanations of failures. Raises: SystemExit if it fails.
        """
        done = subprocess.run(self.run, text=True, capture_output=True, timeout=300, check=False)
        if done.returncode and "in the queue already" not in done.stderr:
            sys.exit(f"submitting ended with status {done.returncode}: {done.stderr.strip()}")
        pages = (self.root / "runs" / "chaos" / "slurm").glob("*.failed.txt")
        explanations = [page.read_text() for page in pages]
        self.outputs.append("".join([done.stdout, done.stderr, *explanations]))

    def unexplained(self) -> list[str]:
        """What went wrong by the end: the run is not done, or the end of a job not explained."""
        problems = []
        last = self.outputs[-1]
        if DONE not in last:
            problems.append(
                f"the run has not ended after {PATIENCE_S} s; its last output: {last[-500:]}"
            )
        output = "".join(self.outputs)
        for job in self.ended:
            if not re.search(rf"job {job}(?!\d)", output):
                problems.append(f"the end of job {job} was not explained")
        return problems


def running(trouble: Callable[[str], None]) -> list[str]:
    """The running jobs that a trouble can strike; only tasks of arrays are cancelled."""
    jobs = sorted(queue("RUNNING"))
    if trouble is cancel_task:
        return [job for job in jobs if "_" in job]
    return jobs


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
    """Submit an urgent job that wants all nodes."""
    options = ["-p", "urgent", "--exclusive", f"-N{NODES}", "-o", "/dev/null"]
    call("sbatch", *options, "--wrap", "sleep 2")
    while "R" not in call("squeue", "-h", "-p", "urgent", "-o", "%t").split():
        time.sleep(0.5)


TROUBLES = (requeue, signal, lose_node, preempt, cancel_task)


def limits_hit(root: Path) -> list[str]:
    """A message if the training step with the short limit was continued less than twice."""
    logs = (root / "runs/chaos/slurm/logs").glob("base-*.log")
    n_turns = sum(path.read_text().count("state saved; ") for path in logs)
    print(f"the step with a time limit was continued {n_turns} times")
    if n_turns >= 2:
        return []
    return [f"the time limit was hit only {n_turns} times: the step is too short for this machine"]


if __name__ == "__main__":
    sys.exit("run scripts/chaos.py --launcher slurm")
