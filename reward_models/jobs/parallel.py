"""Data parallel on one machine: a process per device, each a shard of the same run.

The processes share nothing but the run's folder. They end when the one that started them does.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from mlalign.core import processes
from mlalign.core.errors import UserError
from reward_models.jobs.job import Job
from reward_models.jobs.progress import Progress

POLL_S = 1.0
GOOD = (0, 1)  # done, and done with answers that have no score
LAST_LINES = 12
GRACE_S = 5.0  # to bring finished work to the disk
STOPPED = 130


def run(job: Job, argv: Sequence[str], n: int, progress: Progress, wanted: Sequence[str]) -> None:
    """Run `rm-score ARGV` as n shards; `wanted` are the keys of the run's windows.

    Raises: UserError with the last lines of each process that failed; the others finish their
        share first.
    """
    logs = [job.folder / "logs" / f"shard-{i}.log" for i in range(n)]
    logs[0].parent.mkdir(exist_ok=True)
    before = frozenset(job.units.done())
    processes: list[subprocess.Popen] = []
    try:
        for i, log in enumerate(logs):
            processes.append(_start(argv, i, n, log))
        while any(process.poll() is None for process in processes):
            time.sleep(POLL_S)
            _show(job, progress, wanted, before)
    finally:
        _end_all(processes)

    failed = [i for i, process in enumerate(processes) if process.returncode not in GOOD]
    if failed:
        endings = [f"{_ending(processes[i].returncode)}\n{_tail(logs[i])}" for i in failed]
        summary = f"{len(failed)} of {n} processes did not end well"
        raise UserError(
            *(f"{summary}: one {ending}" for ending in dict.fromkeys(endings)),
            f"what is finished is kept in {job.folder}; run the same command again to go on",
        )


def _end_all(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # tells it to end
    deadline = time.monotonic() + 2 * GRACE_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        process.kill()
        process.wait()


def _start(argv: Sequence[str], i: int, n: int, log: Path) -> subprocess.Popen:
    own = ["--devices", "1", "--shard", f"{i}/{n}", "--quiet", "--with-parent"]
    command = [sys.executable, "-m", "reward_models", *argv, *own]
    with open(log, "wb") as out:
        # In a group of its own: Ctrl-C reaches only the parent, which ends the others.
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=processes.python_environment() | _device(i, n),
            process_group=0,
        )


def _device(i: int, n: int) -> dict[str, str]:
    """The environment of process i of n: a GPU of its own, or its share of the cores.

    Raises: UserError if there are fewer GPUs.
    """
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        n_cores = max(1, len(os.sched_getaffinity(0)) // n)
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(n_cores)}
    if gpus < n:
        raise UserError(f"--devices {n}: this machine shows {gpus} GPUs")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[i]}


def _show(job: Job, progress: Progress, wanted: Sequence[str], before: Collection[str]) -> None:
    """Show the rows that are done, and the tokens of those that were not done `before`."""
    units = job.units.done()
    done = [key for key in wanted if key in units]
    n_rows = sum(units[key].facts["rows"] for key in done)
    n_tokens = sum(units[key].facts["tokens"] for key in done if key not in before)
    progress.at(n_rows, n_tokens)


def _ending(status: int) -> str:
    return f"was ended by signal {-status}:" if status < 0 else f"ended with status {status}:"


def _tail(log: Path) -> str:
    """The last lines of a log."""
    if not log.is_file():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LAST_LINES:])


def end_with_parent() -> None:
    """End this process, as Ctrl-C would, when the one that started it closes our stdin or dies.

    Nothing else can read from stdin afterwards: it is at its end.
    """
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE_S)
        os._exit(STOPPED)

    threading.Thread(target=watch, daemon=True).start()
