"""Identifies processes: the process table of a pid, and whether the process still runs.

The host's name is not enough: containers may share a name, and each counts its processes from 1.
"""

import os
import socket
from pathlib import Path

MAX_PID = 2**31 - 1


def table() -> str:
    """The identity of this process table: the kernel's boot id and the PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = _boot_time()
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # no /proc, or one that belongs to another namespace
        namespace = socket.gethostname()
    return f"{boot} {namespace}"


def _boot_time() -> str:
    """The host's name, with the time of its boot if /proc has it."""
    name = socket.gethostname()
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return name
    boot_times = [line for line in lines if line.startswith("btime")]
    return " ".join([name, *boot_times])


def started(pid: int) -> str | None:
    """When a process began, in clock ticks since boot; None if it is gone or cannot be seen.

    This tells it from a later process with the same pid.
    """
    if not _proc_is_ours():
        return None
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # Fields are counted after the name in brackets, which may hold spaces (proc_pid_stat(5)).
    fields = status.rpartition(")")[2].split()
    state, start_time = fields[0], fields[19]
    return None if state in "ZX" else start_time


def runs(pid: int, since: str | None) -> bool | None:
    """Whether the process with this pid that began at `since` runs; None if that cannot be seen."""
    start_time = started(pid)
    if start_time is not None:
        return start_time == since
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process, in a /proc that hides those
        return None
    if _proc_is_ours():  # it has ended, but its parent has not yet read its exit status
        return False
    return None


def _proc_is_ours() -> bool:
    """Whether /proc shows this process table; in a container it may show the host's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def python_environment() -> dict[str, str]:
    """The environment of a `python -m` process that imports nothing from the working directory.

    The working directory may be a model's folder with a `torch.py` of its own. The process imports
    the same mlalign as this one.
    """
    paths = [str(Path(__file__).resolve().parents[2])]
    if inherited := os.environ.get("PYTHONPATH"):
        paths.append(inherited)
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}
