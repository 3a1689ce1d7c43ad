"""Run steps on this machine: one process a step, or torchrun with one a device."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mlalign.core import processes
from mlalign.core.stage import STOPPED
from mlalign.running import forkserver, run_process

POLL_S = 0.02
GRACE_S = 60  # how long a step that was asked to stop may take to save its state


def argv(config: Path, resources: Mapping) -> list[str]:
    """The command of a step. Pure: it depends on nothing but its arguments and the interpreter."""
    devices = int(resources.get("devices", 1))
    if devices == 1:
        return [sys.executable, "-m", "mlalign.step", str(config)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ranks = ["--nproc_per_node", str(devices)]
    return [*torchrun, *ranks, "-m", "mlalign.step", str(config)]


def run(
    config: Path, resources: Mapping, log: Path, on_tick: Callable[[], None], warm: bool = False
) -> int:
    """Start a step, its output appended to `log`, and wait for it; returns its exit status.

    `warm`: from the fork server, if one has imported what the step needs.

    On SIGINT or SIGTERM (of Ctrl-C, or `mlalign cancel`) the step is asked to stop (a STOP file: it
    saves its state) and killed only after GRACE_S seconds, or at once where it was asked for that.
    It can then go on from its last checkpoint or shard, and the status is STOPPED too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        _StopOnSignal(config.parent / "STOP") as stop,
        contextlib.closing(_start(config, resources, log, warm)) as step,
    ):
        while (status := step.poll()) is None:
            on_tick()
            if stop.asked:
                stop.insist()
                if run_process.current.now or time.monotonic() - stop.asked > GRACE_S:
                    step.kill()
            time.sleep(POLL_S)
        if stop.asked:
            step.kill()  # processes that it started and left behind
    return STOPPED if stop.asked and status else status


def _start(config: Path, resources: Mapping, log: Path, warm: bool) -> "_Cold | forkserver.Forked":
    """The process of a step.

    The fork server, once started, imports beside a step that does without it.
    """
    env = environment(resources)
    server = forkserver.server(env)
    one_process = int(resources.get("devices", 1)) == 1
    step = server.start(config, log, env) if server and warm and one_process else None
    return step or _Cold(argv(config, resources), env, log)


class _Cold:
    """A step that starts as a new Python."""

    def __init__(self, argv: list[str], env: Mapping[str, str], log: Path):
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Nothing: only a forked step has a pipe to close."""


def environment(resources: Mapping) -> dict[str, str]:
    """The environment of a step: this one's, with quiet libraries and its ranks' share of cores."""
    env = {
        **processes.python_environment(),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    devices = int(resources.get("devices", 1))
    threads = resources.get("threads")
    if not threads and devices > 1:
        threads = max(1, (os.cpu_count() or 1) // devices)
    if threads:
        env.setdefault("OMP_NUM_THREADS", str(threads))
    return env


class _StopOnSignal:
    """While a step runs, SIGINT and SIGTERM write its STOP file instead of ending this process."""

    def __init__(self, stop: Path):
        self.stop = stop
        self.asked = 0.0
        self._touched = 0.0

    def __enter__(self) -> "_StopOnSignal":
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = self.asked or time.monotonic()
        run_process.current.asked = True
        self.insist(0)

    def insist(self, every_s: float = 2.0) -> None:
        """Touch the STOP file again and again, since a step that is just beginning removes it."""
        if time.monotonic() - self._touched >= every_s:
            self._touched = time.monotonic()
            # If the artifact is renamed at this moment, the step is done.
            with contextlib.suppress(OSError):
                self.stop.touch()
