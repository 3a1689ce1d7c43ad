"""Whether other machines can see a directory: file systems of this machine alone, told before
anything is submitted.
"""

import re
import socket
from pathlib import Path

from mlalign.core.errors import UserError
from mlalign.running.slurm import commands

LOCAL_TYPES = ("tmpfs", "ramfs", "overlay", "devtmpfs")
LOCAL_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


def check(root: Path) -> None:
    """Raises: UserError if the nodes of the cluster are other machines and `root` is on a disk of
    this one alone.

    A plain disk elsewhere may be exported to the nodes, which cannot be seen from here: then the
    job itself looks.
    """
    why = _local(root)
    if why is None:
        return
    nodes = set(re.findall(r"NodeHostName=(\S+)", commands.call("scontrol", "-o", "show", "nodes")))
    if others := sorted(nodes - {socket.gethostname().partition(".")[0]}):
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise UserError(
            f"root: {root} is {why}, which the nodes of the cluster ({shown}) do not see; set root="
            " to a directory that they share (your home or project directory, on NFS, Lustre,"
            " GPFS …)"
        )


def _local(root: Path) -> str | None:
    path = root.resolve()
    if place := next((p for p in LOCAL_PLACES if path.is_relative_to(p)), None):
        return f"below {place}"
    kind = _type(path)
    return f"on a disk of type {kind} of this machine" if kind in LOCAL_TYPES else None


def _type(path: Path) -> str:
    """The type of the file system that holds a path: that of the longest mount point above it."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.is_file():
        return "unknown"
    found = ("", "unknown")
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), left.split()[4])
        if path.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, right.split()[0])
    return found[1]
