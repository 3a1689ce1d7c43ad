"""Whether the nodes of a cluster can see a directory, asked before anything is submitted."""

import re
import socket
from pathlib import Path

from mlalign.core.errors import UserError
from mlalign.running.slurm import commands

LOCAL_TYPES = ("tmpfs", "ramfs", "overlay", "devtmpfs")
LOCAL_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


def check(root: Path) -> None:
    """Refuse a `root` on a disk of this machine alone, if the nodes are other machines.

    Whether another plain disk is exported to the nodes cannot be seen from here; the job itself
    looks. Raises: UserError.
    """
    why = _local(root)
    if why is None:
        return
    nodes = set(re.findall(r"NodeHostName=(\S+)", commands.call("scontrol", "-o", "show", "nodes")))
    others = sorted(nodes - {socket.gethostname().partition(".")[0]})
    if others:
        more = ", …" if len(others) > 3 else ""
        shown = ", ".join(others[:3]) + more
        raise UserError(
            f"root: {root} is {why}, which the nodes of the cluster ({shown}) do not see; set root="
            " to a directory that they share (your home or project directory, on NFS, Lustre,"
            " GPFS …)"
        )


def _local(root: Path) -> str | None:
    path = root.resolve()
    for place in LOCAL_PLACES:
        if path.is_relative_to(place):
            return f"below {place}"
    kind = _type(path)
    return f"on a disk of type {kind} of this machine" if kind in LOCAL_TYPES else None


def _type(path: Path) -> str:
    """The type of the file system that holds a path: that of the longest mount point above it."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.is_file():
        return "unknown"
    longest, kind = "", "unknown"
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), left.split()[4])
        if path.is_relative_to(point) and len(point) >= len(longest):
            longest, kind = point, right.split()[0]
    return kind
