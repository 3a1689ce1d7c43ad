"""Who works on what: a claim is a file in the directory that is worked in, with the host and process of its owner."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mlalign.errors import UserError

HEARTBEAT_S = 15
STALE_S = 120


@contextlib.contextmanager
def claim(partial: Path, name: str = "step") -> Iterator[None]:
    """Own a piece of work (`name`) in a partial artifact; a second owner is refused, a dead one is replaced.

    The claim is a file made with O_EXCL. Its owner touches it every HEARTBEAT_S seconds; it counts as dead if its process is
    gone on the same host, or if it was not touched for STALE_S seconds on another.

    Raises: UserError naming the owner's host and process.
    """
    path = partial / "claims" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = _take(path)
    stop = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(path, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        published = partial.with_name(partial.name.removesuffix(".partial"))
        for where in (partial, published):
            held = where / "claims" / name
            if _owner(held) == mine:
                held.unlink(missing_ok=True)


@contextlib.contextmanager
def claim_in_turn(partial: Path, name: str = "step", patience_s: float = STALE_S + 2 * HEARTBEAT_S) -> Iterator[None]:
    """`claim`, after waiting for another owner to leave. Raises: UserError if it has not left after `patience_s` seconds."""
    end = time.monotonic() + patience_s
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(claim(partial, name))
                break
            except UserError:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.1)
        yield


def _take(path: Path) -> dict:
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": _process_start(os.getpid()), **_job()}
    for _ in range(3):
        try:
            with open(path, "x", encoding="utf-8") as f:
                json.dump(me, f)
            return me
        except FileExistsError:
            owner = _owner(path)
            if owner is not None and _alive(owner, path):
                raise UserError(_taken(path.parent.parent, owner)) from None
            _bury(path, owner)
    raise UserError(f"{path.parent.parent.name}: other processes keep claiming this step; run the same command again later")


def _job() -> dict:
    """The Slurm job that this process is in, and how often that was requeued."""
    return {"job": os.environ.get("SLURM_JOB_ID"), "restart": os.environ.get("SLURM_RESTART_COUNT", "0")}


def _taken(partial: Path, owner: dict) -> str:
    who = f"process {owner['pid']} on {owner['host']}"
    return f"{partial.name}: {who} is working on this step; wait for it, or stop it and run the same command again"


def _bury(path: Path, dead: dict | None) -> None:
    """Remove a dead owner's claim, and put it back if it was another's by the time it was ours to remove."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if dead is not None and _owner(aside) != dead:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _owner(path: Path) -> dict | None:
    """Who holds a claim; None if the claim vanished or its writer died before writing it."""
    try:
        text = path.read_text(encoding="utf-8")
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    if not text:  # created, not yet written: dead if it stays so
        return {"host": "?", "pid": 0, "started": None} if age < 2 else None
    return json.loads(text)


def _alive(owner: dict, path: Path) -> bool:
    me = _job()
    if me["job"] is not None and owner.get("job") == me["job"] and owner["restart"] != me["restart"]:
        return False  # this job, before it was requeued, perhaps on another node
    if owner["host"] == socket.gethostname():
        return _process_start(owner["pid"]) == owner["started"]
    try:
        return time.time() - path.stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def _process_start(pid: int) -> str | None:
    """When a process began, in the kernel's own units: tells a process from a later one with the same number."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state[0] == "Z" else state[19]
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:  # systems without /proc
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return None
    return "running" if not Path("/proc/self").exists() else None


def owners(partial: Path, besides: str = ".") -> list[dict]:
    """Who is at work on a partial artifact: the living owners of its claims, without those whose names begin with `besides`."""
    found = []
    for path in sorted(p for p in (partial / "claims").glob("*") if not p.name.startswith((".", besides))):
        owner = _owner(path)
        if owner and _alive(owner, path):
            found.append(owner)
    return found


def refuse_owned(partial: Path, besides: str = ".", patience_s: float = 0) -> None:
    """Wait up to `patience_s` seconds until no process is working on this partial artifact. Raises: UserError if one still is."""
    end = time.monotonic() + patience_s
    while found := owners(partial, besides):
        if time.monotonic() >= end:
            raise UserError(_taken(partial, found[0]))
        time.sleep(0.5)


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
