"""Trouble of Slurm's kinds at random moments of one run, on a cluster of its own: `scripts/chaos.py --launcher slurm`.

A requeue, a signal, a lost node, a preemption by a higher partition, the end of one array task by scancel: each is followed by the
same command again. One training step is given a time limit that it hits, twice at least. Passes when the run ends with
the content of the unbroken one, nothing that had finished is computed again, and every stop on the way was explained.
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
    "CLUSTER_EXTRA": "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\n"
    "PartitionName=urgent Nodes=ALL PriorityTier=9 MaxTime=INFINITE State=UP",
}
# Jobs share the machine's cores; the time limit of the first training step is shorter than its work.
SLURM = ["launcher=slurm", "launcher.grace_s=60", "launcher.resources.generate={tasks: 2}", "launcher.resources.score={tasks: 2}"]
LIMIT = ["steps.base.resources.time='0:02:00'"]
LONG = ["steps.base.config.trainer.max_steps=800"]


def main(asked: argparse.Namespace) -> int:
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as root, cluster():
        whole, broken = Path(root, "whole"), Path(root, "broken")
        arguments = [*LONG, *asked.arguments]
        started = time.monotonic()
        subprocess.run(chaos.command(arguments, whole, asked.engine), check=True, stdout=subprocess.DEVNULL)
        print(f"unbroken run, here: {time.monotonic() - started:.0f} s", flush=True)
        problems = survive(chaos.command([*arguments, *SLURM, *LIMIT], broken, asked.engine), broken, draw, asked)
        problems += chaos.compare(whole, broken)
        problems += limits_hit(broken)
    for message in problems:
        print(f"FAILED: {message}")
    print("chaos on Slurm: " + ("failed" if problems else "every artifact equals the unbroken run's; every stop was explained"))
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


def survive(run: list[str], root: Path, draw: random.Random, asked: argparse.Namespace) -> list[str]:
    """Submit, make trouble, submit again …, and at last wait for the end; returns what went wrong."""
    finished: dict[str, float] = {}
    problems = submit(run, root)
    for number in range(1, asked.kills + 1):
        time.sleep(draw.uniform(1, asked.max_seconds))
        told = draw.choice(TROUBLES)(draw)
        problems += submit(run, root) + chaos.recomputed(root, finished)
        print(f"trouble {number}: {told}; steps finished so far: {len(finished)}", flush=True)
    for _ in range(5):
        while queue():
            time.sleep(1)
        problems += submit(run, root)
        if not queue():
            break
    return problems + chaos.recomputed(root, finished)


def submit(run: list[str], root: Path) -> list[str]:
    """The same command: it submits what is missing, or says that all of it is in the queue. Every earlier stop must be explained."""
    done = subprocess.run(run, text=True, capture_output=True, timeout=300, check=False)
    slurm = root / "runs" / "chaos" / "slurm"
    for path in slurm.glob("*.failed.txt"):
        print("  " + path.read_text().partition("\n")[0], flush=True)
    if done.returncode == 0 or "in the queue already" in done.stderr:
        return []
    return [f"submitting ended with status {done.returncode}: {done.stderr.strip()}"]


def queue(*states: str) -> list[str]:
    """Ids of jobs and array tasks that wait or run."""
    chosen = ["-t", ",".join(states)] if states else []
    return call("squeue", "-h", "-r", *chosen, "-o", "%i").split()


def call(*words: str) -> str:
    return subprocess.run(words, text=True, capture_output=True, timeout=60, check=False).stdout


def requeue(draw: random.Random) -> str:
    return on_running(draw, "requeue", ["scontrol", "requeue"])


def signal(draw: random.Random) -> str:
    return on_running(draw, "signal", ["scancel", "--signal=USR1", "--batch"])


def cancel_task(draw: random.Random) -> str:
    return on_running(draw, "scancel of a task", ["scancel"], arrays=True)


def on_running(draw: random.Random, name: str, command: list[str], *, arrays: bool = False) -> str:
    running = sorted(job for job in queue("RUNNING") if not arrays or "_" in job)
    if not running:
        return f"{name}: nothing to do it to"
    job = draw.choice(running)
    call(*command, job)
    return f"{name}: job {job}"


def lose_node(draw: random.Random) -> str:
    node = f"n{draw.randint(1, NODES)}"
    call("scontrol", "update", f"nodename={node}", "state=down", "reason=chaos")
    time.sleep(2)
    call("scontrol", "update", f"nodename={node}", "state=resume")  # in case it has not come back by itself
    return f"lost node: {node}"


def preempt(draw: random.Random) -> str:
    call("sbatch", "-p", "urgent", "--exclusive", f"-N{NODES}", "-o", "/dev/null", "--wrap", "sleep 2")
    time.sleep(3)
    return "preemption of all nodes"


TROUBLES = (requeue, signal, lose_node, preempt, cancel_task)


def limits_hit(root: Path) -> list[str]:
    """The training step with the short limit must have been continued twice or more."""
    log = "".join(p.read_text() for p in (root / "runs/chaos/slurm/logs").glob("base-*.log"))
    turns = len(re.findall("state saved; ", log))
    print(f"the step with a time limit was continued {turns} times")
    return [] if turns >= 2 else [f"the time limit was hit {turns} times only: the step is too short for this machine"]


if __name__ == "__main__":
    sys.exit("run scripts/chaos.py --launcher slurm")
