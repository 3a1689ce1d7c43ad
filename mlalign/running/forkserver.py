"""Steps that begin in milliseconds: a process that has imported what they need forks one for each.

Importing torch, transformers and trl takes seconds, and every step is a process of its own. A
`ForkServer` starts one process that imports these modules once. For each step it forks a child,
which then does what `python -m mlalign.step` does.

Nothing is computed before the fork. Threads do not survive a fork, and a GPU that was opened before
it cannot be used after it: if one of the imports fails or opens a device, a child begins as a new
Python instead.

The server ends with the process that started it. It has a session of its own, and so do its
children: Ctrl-C reaches neither, and a step that is under way outlives both.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LOST = 1  # the status of a step that went on without its server, so that nobody knows how it ended
THREADS = "OMP_NUM_THREADS"
SAFE_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"  # torch.cuda.is_available() then opens no device
MAX_MESSAGE = 1 << 16


class Forked:
    """A step that a fork server was asked to start."""

    def __init__(self, server: subprocess.Popen, pipe: int):
        self._server, self._pipe = server, pipe
        self._pid: int | None = None
        self._status: int | None = None
        self._received = b""

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the step runs or waits to begin."""
        if self._status is None:
            is_open = self._read()
            if self._status is None and not is_open:
                self._status = self._without_server()
        return self._status

    def kill(self) -> None:
        """End the step and all that it has started; before it has begun, the server with it."""
        with contextlib.suppress(ProcessLookupError):
            if self._pid is None:
                self._server.kill()
            else:
                os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        os.close(self._pipe)

    def _read(self) -> bool:
        """Take what the server has written: a line with the pid, then one with the status.

        False at its end.
        """
        is_open = True
        while is_open and select.select([self._pipe], [], [], 0)[0]:
            received = os.read(self._pipe, MAX_MESSAGE)
            self._received += received
            is_open = bool(received)
        lines = self._received.split(b"\n")[:-1]
        if lines:
            self._pid = int(lines[0])
        if len(lines) > 1:
            self._status = int(lines[1])
        return is_open

    def _without_server(self) -> int | None:
        """What is known of a step whose server is gone."""
        if self._pid is None:
            return LOST
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return LOST
        return None


class ForkServer:
    """A process that has imported `modules` and forks steps for an environment."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]):
        self._environment = dict(environment)
        self._socket, theirs = socket.socketpair()
        argv = [sys.executable, "-m", "mlalign.running.forkserver", str(theirs.fileno()), *modules]
        with theirs:
            self._process = subprocess.Popen(
                argv,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**self._environment, SAFE_CHECK: "1"},
                start_new_session=True,
            )

    def start(self, config: Path, log: Path, environment: Mapping[str, str]) -> Forked | None:
        """Start the step of a configuration.

        None if the server cannot: it has ended, or the environment differs from its own in more
        than the number of threads, which alone can be set after an import.
        """
        own = {**self._environment, THREADS: environment.get(THREADS)}
        if self._process.poll() is not None or own != {THREADS: None, **environment}:
            return None
        ours, theirs = os.pipe()
        variables = {name: environment.get(name) for name in (THREADS, SAFE_CHECK)}
        request = {"argv": [str(config)], "log": str(log), "variables": variables}
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], [theirs])
        except OSError:
            os.close(ours)
            return None
        finally:
            os.close(theirs)
        return Forked(self._process, ours)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def main(argv: Sequence[str]) -> int:
    """Import, then fork a step for each request until the other end is closed.

    A child returns its step's status.
    """
    connection = socket.socket(fileno=int(argv[0]))
    is_warm = _imported(argv[1:]) and not _has_opened_a_gpu()
    gc.collect()
    gc.freeze()  # the collector of a child leaves alone what it shares with its parent
    request = _serve(connection)
    return 0 if request is None else _run(request, is_warm)


def _imported(modules: Sequence[str]) -> bool:
    try:
        for module in ("mlalign.step", *modules):
            importlib.import_module(module)
    except Exception:  # noqa: BLE001  # whatever it is, the step that needs the module reports it
        return False
    return True


def _has_opened_a_gpu() -> bool:
    """Whether this process holds a device of NVIDIA or AMD open."""
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}").startswith(("/dev/nvidia", "/dev/kfd")):
                return True
    return False


def _serve(connection: socket.socket) -> dict | None:
    """Fork for each request. Returns the request in a child, None in the server when it is over."""
    woken, waker = socket.socketpair()
    for end in (woken, waker):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # set_wakeup_fd needs a handler
    signal.set_wakeup_fd(waker.fileno())
    pipes: dict[int, int] = {}  # pid -> where its status is awaited
    while True:
        ready = select.select([connection, woken], [], [])[0]
        if woken in ready:
            woken.recv(MAX_MESSAGE)
            _report_ended(pipes)
        if connection not in ready:
            continue
        message, pipe = _received(connection)
        if not message:
            return None
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (connection, woken, waker):
                end.close()
            for other in (*pipe, *pipes.values()):
                os.close(other)
            return json.loads(message)
        pipes[pid] = pipe[0]
        _write(pipe[0], pid)


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    try:
        message, pipe, *_ = socket.recv_fds(connection, MAX_MESSAGE, 1)
    except ConnectionError:
        return b"", []
    return message, pipe


def _report_ended(pipes: dict[int, int]) -> None:
    """Hand on the status of every child that has ended."""
    while pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = pipes.pop(pid)
        _write(pipe, os.waitstatus_to_exitcode(status))
        os.close(pipe)


def _write(pipe: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked has gone; the step goes on
        os.write(pipe, b"%d\n" % number)


def _run(request: Mapping, is_warm: bool) -> int:
    """Be `python -m mlalign.step` of a step, in a session of its own, with output to the log."""
    os.setsid()
    for name, value in request["variables"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    if not is_warm:
        os.execv(sys.executable, [sys.executable, "-m", "mlalign.step", *request["argv"]])
    sys.argv = ["mlalign.step", *request["argv"]]
    if threads := request["variables"][THREADS]:
        import torch

        torch.set_num_threads(int(threads))

    from mlalign.running import step

    try:
        return step.process(request["argv"])
    finally:
        gc.unfreeze()


# ---------------------------------------------------------------------------------- of this process

_expected: list[str] = []
_server: ForkServer | None = None


def expect(modules: Sequence[str]) -> None:
    """Say which modules the coming steps import; the next step starts the server."""
    _expected.extend(module for module in modules if module not in _expected)


def server(environment: Mapping[str, str]) -> ForkServer | None:
    """The fork server of this process, started if steps are expected that need it; else None."""
    global _server  # noqa: PLW0603  # there is one in a process
    if _server is None and _expected:
        _server = ForkServer(_expected, environment)
    return _server


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
