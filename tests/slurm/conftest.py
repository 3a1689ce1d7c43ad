"""A real Slurm for the tests that ask for it: a cluster of their own, made by `tests/slurm-up.sh`.

Not installed: the tests are skipped with the reason, or fail under REQUIRE_SLURM=1. Installed but
not starting: they fail.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pytest
from helpers import PROJECT

UP = PROJECT / "tests" / "slurm-up.sh"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
# Two partitions over the same nodes: a job in `urgent` sends one in `main` back to the queue.
PREEMPTION = """PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=9 MaxTime=INFINITE State=UP
"""


class Cluster:
    """The commands of a cluster, as processes: `env` finds it, and every call has a timeout."""

    def __init__(self, env: dict[str, str]):
        self.env = env

    def run(
        self, *command: object, timeout: float = 60, check: bool = True, **options
    ) -> subprocess.CompletedProcess:
        words = [str(word) for word in command]
        done = subprocess.run(
            words,
            env=self.env,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            **options,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def sbatch(self, *arguments: object, **options) -> str:
        """Submit; returns the job's id."""
        return self.run("sbatch", "--parsable", *arguments, **options).stdout.strip().split(";")[0]

    def job(self, job: object) -> dict[str, str]:
        """What the scheduler says of a job (of the first task, for an array), ended or not."""
        return dict(
            re.findall(
                r"(\S+?)=(\S*)",
                self.run("scontrol", "-o", "show", "job", job).stdout.partition("\n")[0],
            )
        )

    def wait(self, job: object, *states: str, timeout: float = 60) -> dict[str, str]:
        """Wait until a job is in one of these states; fails with what the scheduler says of it."""
        end = time.monotonic() + timeout
        while (now := self.job(job))["JobState"] not in states:
            assert time.monotonic() < end, (
                f"job {job} did not become {states} within {timeout} s: {now}"
            )
            time.sleep(0.1)
        return now

    def queue(self) -> list[str]:
        """The ids of all jobs that wait or run."""
        return self.run("squeue", "-h", "-r", "-o", "%i").stdout.split()


@contextlib.contextmanager
def cluster(**settings: object) -> Iterator[Cluster]:
    """A cluster with settings of `slurm-up.sh`, without the prefix CLUSTER_ and in small letters;
    gone at the end.
    """
    _need_slurm()
    base = tempfile.mkdtemp(
        prefix="slurm", dir="/tmp"
    )  # short, for unix sockets; a test's own folder is too deep
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("SLURM_", "SBATCH_", "SRUN_", "CLUSTER_"))
    }
    env |= {f"CLUSTER_{k.upper()}": str(v) for k, v in settings.items()} | {
        "CLUSTER_DIR": f"{base}/c"
    }
    env |= {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    try:
        up = subprocess.run(
            [UP, "up"], env=env, text=True, capture_output=True, timeout=120, check=False
        )
        assert up.returncode == 0, up.stderr
        yield Cluster({**env, "SLURM_CONF": f"{base}/c/slurm.conf"})
    finally:
        subprocess.run([UP, "down"], env=env, check=False, timeout=60)
        shutil.rmtree(base, ignore_errors=True)


def _need_slurm() -> None:
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=path)]:
        why = (
            f"Slurm is not installed (no {', '.join(missing)}); as root: tests/slurm-up.sh install"
        )
        pytest.fail(why) if os.environ.get("REQUIRE_SLURM") == "1" else pytest.skip(why)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Two nodes of 4 CPUs and 2 pretended GPUs, and a partition `urgent` that preempts `main`."""
    with cluster(nodes=2, gpus=2, extra=PREEMPTION) as up:
        yield up


@pytest.fixture(scope="session")
def make_cluster():
    """`with make_cluster(nodes=1, accounts=1) as slurm:` for tests that need a cluster of another
    kind.
    """
    return cluster
