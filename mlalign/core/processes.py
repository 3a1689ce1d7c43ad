"""Which process is meant: the table that its number stands in, and whether it still runs.

A host's name does not tell whose table a number is from: containers may share a name, and each
counts its processes from 1.
"""

import os
import socket
from pathlib import Path

MAX_PID = 2**31 - 1


def table() -> str:
    """What identifies this process table: the boot of the machine's kernel, and the PID namespace
    on it.
    """
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
    """The host's name, with the time of its boot where /proc tells it."""
    name = socket.gethostname()
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return name
    return " ".join([name, *(line for line in lines if line.startswith("btime"))])


def started(pid: int) -> str | None:
    """When a process began, in the kernel's own units: tells it from a later one with the same
    number.

    None if it is gone, or if that cannot be seen.
    """
    if not _proc_is_ours():
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def runs(pid: int, since: str | None) -> bool | None:
    """Whether the process of this table with this number, begun at `since`, still runs; None if
    that cannot be seen.
    """
    now = started(pid)
    if now is not None:
        return now == since
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another person's, in a /proc that hides those
        return None
    return False if _proc_is_ours() else None  # ended, but nobody has asked for its status yet


def _proc_is_ours() -> bool:
    """Whether /proc shows this table: a PID namespace without a /proc of its own sees another's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def python_environment() -> dict[str, str]:
    """The environment of a `python -m` process that imports nothing from the working directory.

    That may be a model's folder, with a `torch.py` of its own. mlalign itself is found where this
    process found it.
    """
    place = str(Path(__file__).resolve().parents[2])
    further = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join([place, further] if further else [place]),
    }
