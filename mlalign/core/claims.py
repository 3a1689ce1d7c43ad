"""Who works on what: a claim is a file in the working directory that names its owner's process.

An owner in this process table is alive as long as its process runs. Any other owner (on another
machine or in another container) shows that it is alive by touching its claim every HEARTBEAT_S
seconds. Ages are measured with the file system's clock, so machines whose clocks differ agree.
Before such an owner's claim is taken away, it is watched for one more heartbeat.
"""

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlalign.core import processes
from mlalign.core.errors import UserError
from mlalign.core.terminal import say, say_error

HEARTBEAT_S = 15
STALE_S = 120
WATCH_S = 2 * HEARTBEAT_S + 5
OLD_S = 3600  # an older claim is dead without watching it: no two clocks differ by that much
TELL_S = 10  # after waiting this long, say what for
MAX_BYTES = 10_000
LOST = 2  # exit status of a process whose claim another process has taken

# The keys of UNKNOWN, and `broken`: why the claim cannot be read, or None.
Owner = dict[str, Any]
UNKNOWN: Owner = {
    "host": "?",
    "pid": 0,
    "started": None,
    "table": None,
    "job": None,
    "restart": None,
}


class Taken(UserError):
    """Another process holds the claim."""


@contextlib.contextmanager
def claim(partial: Path, name: str = "step") -> Iterator[None]:
    """Own a piece of work (`name`) in a partial artifact while the block runs.

    The claim is a file created with O_EXCL. It replaces a dead owner's. If another process takes
    the claim over (because this one was suspended for minutes, say), this process exits at once.

    Raises: Taken naming the host and process of a living owner.
    """
    path = partial / "claims" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = _take(path)
    stop = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(path, mine, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        _release(partial, name, mine)


def _release(partial: Path, name: str, mine: Owner) -> None:
    """Remove this process's claim, also from an artifact that was published in the meantime."""
    published = partial.with_name(partial.name.removesuffix(".partial"))
    for folder in (partial, published):
        path = folder / "claims" / name
        with contextlib.suppress(OSError):  # a claim left behind dies with this process
            if _owner(path) == mine:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def claim_in_turn(
    partial: Path,
    name: str = "step",
    patience_s: float = STALE_S + 2 * HEARTBEAT_S,
    give_up: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """`claim`, after waiting for another owner to leave.

    `give_up` is called now and then; it may raise to end the wait.

    Raises: Taken if the owner has not left after `patience_s` seconds.
    """
    with contextlib.ExitStack() as stack:
        for still_taken in _waiting(patience_s, give_up):
            try:
                stack.enter_context(claim(partial, name))
                break
            except Taken as taken:
                still_taken(taken)
        yield


def _waiting(patience_s: float, give_up: Callable[[], None]) -> Iterator[Callable[[Taken], None]]:
    """Yield, with growing pauses, a function to call if the claim is still taken.

    The function says once what is waited for, and raises when patience runs out.
    """
    begin = time.monotonic()
    pause = 0.1
    announced = False

    def still_taken(taken: Taken) -> None:
        nonlocal announced
        waited = time.monotonic() - begin
        if waited >= patience_s:
            raise taken
        if waited >= TELL_S and not announced:
            say(f"waiting for up to {patience_s:.0f} s: {taken}", file=sys.stderr, flush=True)
            announced = True

    while True:
        yield still_taken
        give_up()
        time.sleep(pause)
        pause = min(pause * 1.5, 2.0)


def _take(path: Path) -> Owner:
    me = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": processes.started(os.getpid()),
        "table": processes.table(),
        **_job(),
    }
    for _ in range(3):
        if _create(path, me):
            return {**me, "broken": None}
        owner = _owner(path)
        if owner is not None and _alive(owner, path, watch=True):
            raise Taken(_taken(path, owner))
        _bury(path, owner)
    raise Taken(
        f"{path.parent.parent.name}: other processes keep claiming this step; run the same command"
        " again later"
    )


def _create(path: Path, me: Owner) -> bool:
    """Write a new claim; False if there is one already."""
    try:
        with open(path, "x", encoding="utf-8") as f:
            try:
                json.dump(me, f)
                f.flush()
            except OSError:  # a full disk, say: leave no broken claim behind
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        return False
    return True


def _job() -> dict:
    """The Slurm job that this process runs in, and how often the job was requeued."""
    return {
        "job": os.environ.get("SLURM_JOB_ID"),
        "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }


def _taken(path: Path, owner: Owner) -> str:
    partial = path.parent.parent
    if owner["broken"]:
        return (
            f"{path}: {owner['broken']};"
            f" if no process is working on {partial.name}, remove this file"
        )
    return (
        f"{partial.name}: {named(owner)} is working on this step; wait for it, or stop it and run"
        " the same command again"
    )


def named(owner: Owner) -> str:
    """`process 7 on node1`, with a note if the host has our name but another process table."""
    process = f"process {owner['pid']} on {owner['host']}"
    if owner["host"] == socket.gethostname() and not is_here(owner):
        return f"{process} (in another container, or before a restart)"
    return process


def is_here(owner: Owner) -> bool:
    """Whether an owner's pid belongs to this process table, so that it can be sent a signal."""
    return owner["broken"] is None and owner["table"] == processes.table()


def _bury(path: Path, dead: Owner | None) -> None:
    """Remove a dead owner's claim, or put it back if a third process has claimed it since."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return

    if dead is not None and _owner(aside) != dead:
        with contextlib.suppress(OSError):
            os.link(aside, path)

    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------- reading claims


def _owner(path: Path) -> Owner | None:
    """Who holds a claim, with `broken` set if that cannot be read; None if there is no claim."""
    try:
        with open(path, encoding="utf-8", opener=_open_at_once) as f:
            text = f.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        return {**UNKNOWN, "broken": f"this claim cannot be read ({reason})"}

    if len(text) > MAX_BYTES:
        return {**UNKNOWN, "broken": "this is no claim of a process (it is too long)"}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    problem = _problem(content)
    if problem:
        return {**UNKNOWN, "broken": f"this is no claim of a process ({problem})"}

    known = {key: content[key] for key in UNKNOWN if key in content}
    return {**UNKNOWN, **known, "broken": None}


def _open_at_once(path: str, flags: int) -> int:
    """Open without blocking, in case someone put a pipe in the place of the claim."""
    return os.open(path, flags | os.O_NONBLOCK)


def _problem(content: Any) -> str | None:
    """What is wrong with the content of a claim."""
    if not isinstance(content, dict):
        return "it holds no JSON object"

    host = content.get("host")
    if not (isinstance(host, str) and 0 < len(host) < 256 and host.isprintable()):
        return "`host` is no name"
    pid = content.get("pid")
    if type(pid) is not int or not 0 < pid <= processes.MAX_PID:
        return "`pid` is no process's number"

    for key in ("started", "table", "job", "restart"):
        if not isinstance(content.get(key), str | None):
            return f"`{key}` is no text"
    return None


def _alive(owner: Owner, path: Path, *, watch: bool = False) -> bool:
    """Whether an owner is at work.

    With `watch`, a silent owner is watched for WATCH_S seconds before it counts as dead.
    """
    me = _job()
    is_my_job = me["job"] is not None and owner["job"] == me["job"]
    if is_my_job and owner["restart"] != me["restart"]:
        return False  # this job before it was requeued, perhaps on another node

    if is_here(owner):
        is_running = processes.runs(owner["pid"], owner["started"])
        if is_running is not None:
            return is_running

    age = _age(path)
    if age is None:
        return False
    if -STALE_S < age < STALE_S:
        return True
    if age >= OLD_S:
        return False
    if watch:
        return _is_touched(path)
    return age < 0


def _age(path: Path) -> float | None:
    """Seconds since a claim was touched, by the clock of its file system; None if it is gone."""
    now = _file_system_time(path.parent)
    try:
        return now - _touched(path)
    except FileNotFoundError:
        return None


def _touched(path: Path) -> float:
    """When a file was touched last. Opening it makes an NFS client ask the server."""
    try:
        with open(path, "rb", opener=_open_at_once) as f:
            return os.fstat(f.fileno()).st_mtime
    except (PermissionError, IsADirectoryError):
        return path.stat().st_mtime


def _file_system_time(folder: Path) -> float:
    """The file system's clock, or this machine's clock where nothing can be written."""
    probe = folder / f".{os.getpid()}.{threading.get_ident()}.now"
    try:
        probe.touch()
        os.utime(probe)
        now = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
    except OSError:
        return time.time()
    return now


def _is_touched(path: Path) -> bool:
    """Whether a claim is touched within the next WATCH_S seconds, whatever the clocks say."""
    end = time.monotonic() + WATCH_S
    try:
        before = _touched(path)
        while time.monotonic() < end:
            time.sleep(min(1.0, WATCH_S / 10))
            if _touched(path) != before:
                return True
    except FileNotFoundError:
        pass
    return False


def owners(partial: Path, besides: str = ".", *, watch: bool = False) -> list[Owner]:
    """The living owners of a partial artifact's claims; claims named `besides…` do not count."""
    living = []
    for path in sorted((partial / "claims").glob("*")):
        if path.name.startswith((".", besides)):
            continue
        owner = _owner(path)
        if owner and _alive(owner, path, watch=watch):
            living.append({**owner, "claim": path.name})
    return living


def refuse_owned(
    partial: Path,
    besides: str = ".",
    patience_s: float = 0,
    give_up: Callable[[], None] = lambda: None,
) -> None:
    """Wait up to `patience_s` seconds until no process is working on this partial artifact.

    Raises: Taken if one still is.
    """
    for still_taken in _waiting(patience_s, give_up):
        living = owners(partial, besides, watch=True)
        if not living:
            return
        path = partial / "claims" / living[0]["claim"]
        still_taken(Taken(_taken(path, living[0])))


def _heartbeat(path: Path, mine: Owner, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        # The claim was renamed with its artifact, or the file server is away for a while.
        with contextlib.suppress(OSError):
            os.utime(path)

        owner = _owner(path)
        if owner is None or owner["broken"] is not None:
            continue
        if owner != mine and not stop.is_set():
            say_error(f"{_taken(path, owner)}; this process has lost its claim and ends")
            os._exit(LOST)
