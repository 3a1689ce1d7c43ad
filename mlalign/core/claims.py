"""Who works on what: a claim is a file in the directory that is worked in, which names the process
of its owner.

An owner of this process table is alive as long as its process is. Of any other owner (another
machine, another container) only its heartbeat tells: it touches its claim every HEARTBEAT_S
seconds. Times are compared as the file system tells them, so that machines whose clocks differ
agree; before a claim is taken away from an owner elsewhere, it is watched for a further heartbeat.
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
OLD_S = 3600  # a claim untouched for so long is not watched: no clocks differ by as much
TELL_S = 10  # whoever waits for longer says for whom
MAX_BYTES = 10_000
LOST = 2  # exit status of a process whose claim another has taken

Owner = dict[
    str, Any
]  # host, pid, started, table, job, restart; and `broken`: why the claim cannot be read, or None
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
    """Own a piece of work (`name`) in a partial artifact; a second owner is refused, a dead one is
    replaced.

    The claim is a file made with O_EXCL. A process that finds its claim in another's hands (it was
    suspended for minutes, say) ends at once.

    Raises: Taken naming the owner's host and process.
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
        published = partial.with_name(partial.name.removesuffix(".partial"))
        for where in (partial, published):
            held = where / "claims" / name
            with contextlib.suppress(OSError):  # a claim that stays behind dies with this process
                if _owner(held) == mine:
                    held.unlink(missing_ok=True)


@contextlib.contextmanager
def claim_in_turn(
    partial: Path,
    name: str = "step",
    patience_s: float = STALE_S + 2 * HEARTBEAT_S,
    give_up: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """`claim`, after waiting for another owner to leave.

    `give_up` is called now and then, to raise what ends the waiting.

    Raises: Taken if the owner has not left after `patience_s` seconds.
    """
    with contextlib.ExitStack() as stack:
        for patience in _waiting(patience_s, give_up):
            try:
                stack.enter_context(claim(partial, name))
                break
            except Taken as taken:
                patience(taken)
        yield


def _waiting(patience_s: float, give_up: Callable[[], None]) -> Iterator[Callable[[Taken], None]]:
    """Yields, with growing pauses, what takes note that the claim is still taken: says so once,
    raises when patience ends.
    """
    begin, pause, said = time.monotonic(), 0.1, False

    def note(taken: Taken) -> None:
        nonlocal said
        waited = time.monotonic() - begin
        if waited >= patience_s:
            raise taken
        if waited >= TELL_S and not said:
            say(f"waiting for up to {patience_s:.0f} s: {taken}", file=sys.stderr, flush=True)
            said = True

    while True:
        yield note
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
    """Write a claim that is not there yet; False if it is.

    A claim that cannot be written (a full disk) is not left behind.
    """
    try:
        with open(path, "x", encoding="utf-8") as f:
            try:
                json.dump(me, f)
                f.flush()
            except OSError:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        return False
    return True


def _job() -> dict:
    """The Slurm job that this process is in, and how often that was requeued."""
    return {
        "job": os.environ.get("SLURM_JOB_ID"),
        "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }


def _taken(path: Path, owner: Owner) -> str:
    partial = path.parent.parent
    if owner["broken"]:
        return (
            f"{path}: {owner['broken']}; if no process is working on {partial.name}, remove this"
            " file"
        )
    return (
        f"{partial.name}: {named(owner)} is working on this step; wait for it, or stop it and run"
        " the same command again"
    )


def named(owner: Owner) -> str:
    """`process 7 on node1`, with a word where that is no process of this table though the host has
    the same name.
    """
    elsewhere = owner["host"] == socket.gethostname() and not is_here(owner)
    return f"process {owner['pid']} on {owner['host']}" + (
        " (in another container, or before a restart)" if elsewhere else ""
    )


def is_here(owner: Owner) -> bool:
    """Whether an owner's number is one of this process table, so that it can be sent a signal."""
    return owner["broken"] is None and owner["table"] == processes.table()


def _bury(path: Path, dead: Owner | None) -> None:
    """Remove a dead owner's claim, and put it back if it was another's by the time it was ours to
    remove.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if dead is not None and _owner(aside) != dead:
        with contextlib.suppress(OSError):  # a third one has claimed it since
            os.link(aside, path)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------- reading claims


def _owner(path: Path) -> Owner | None:
    """Who holds a claim, `broken` if that cannot be read; None if there is none."""
    try:
        with open(path, encoding="utf-8", opener=_at_once) as f:
            text = f.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        return {
            **UNKNOWN,
            "broken": (
                f"this claim cannot be read ({getattr(error, 'strerror', None) or 'it is no text'})"
            ),
        }
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    wrong = _wrong(told) if len(text) <= MAX_BYTES else "it is too long"
    if wrong:
        return {**UNKNOWN, "broken": f"this is no claim of a process ({wrong})"}
    return {**UNKNOWN, **{key: told[key] for key in UNKNOWN if key in told}, "broken": None}


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for whoever writes, should a pipe stand in the place of a claim."""
    return os.open(path, flags | os.O_NONBLOCK)


def _wrong(told: Any) -> str | None:
    """What is wrong with the content of a claim."""
    if not isinstance(told, dict):
        return "it holds no JSON object"
    host, pid = told.get("host"), told.get("pid")
    if not (isinstance(host, str) and 0 < len(host) < 256 and host.isprintable()):
        return "`host` is no name"
    if not (isinstance(pid, int) and 0 < pid <= processes.MAX_PID) or isinstance(pid, bool):
        return "`pid` is no process's number"
    for key in ("started", "table", "job", "restart"):
        if not isinstance(told.get(key), str | None):
            return f"`{key}` is no text"
    return None


def _alive(owner: Owner, path: Path, *, watch: bool = False) -> bool:
    """Whether an owner is at work.

    With `watch` a silent one is listened to for WATCH_S seconds before it is called dead.
    """
    me = _job()
    if me["job"] is not None and owner["job"] == me["job"] and owner["restart"] != me["restart"]:
        return False  # this job, before it was requeued, perhaps on another node
    if is_here(owner) and (running := processes.runs(owner["pid"], owner["started"])) is not None:
        return running
    age = _age(path)
    if age is None:
        return False
    if -STALE_S < age < STALE_S:
        return True
    if age >= OLD_S:
        return False
    return _is_touched(path) if watch else age < 0


def _age(path: Path) -> float | None:
    """Seconds since a claim was touched, by the clock of its file system; None if it is gone."""
    now = _file_system_time(path.parent)
    try:
        return now - _touched(path)
    except FileNotFoundError:
        return None


def _touched(path: Path) -> float:
    """When a file was touched last. Opening it makes NFS ask its server instead of remembering."""
    with (
        contextlib.suppress(PermissionError, IsADirectoryError),
        open(path, "rb", opener=_at_once) as f,
    ):
        return os.fstat(f.fileno()).st_mtime
    return path.stat().st_mtime


def _file_system_time(folder: Path) -> float:
    """What a file that is touched now gets for its time; where nothing can be written, this
    machine's clock.
    """
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
    """Whether a claim is touched within the next WATCH_S seconds: no clock is asked."""
    try:
        before, end = _touched(path), time.monotonic() + WATCH_S
        while time.monotonic() < end:
            time.sleep(min(1.0, WATCH_S / 10))
            if _touched(path) != before:
                return True
    except FileNotFoundError:
        pass
    return False


def owners(partial: Path, besides: str = ".", *, watch: bool = False) -> list[Owner]:
    """Who is at work on a partial artifact: the living owners of its claims, without those whose
    names begin with `besides`.
    """
    found = []
    for path in sorted(
        p for p in (partial / "claims").glob("*") if not p.name.startswith((".", besides))
    ):
        owner = _owner(path)
        if owner and _alive(owner, path, watch=watch):
            found.append({**owner, "claim": path.name})
    return found


def refuse_owned(
    partial: Path,
    besides: str = ".",
    patience_s: float = 0,
    give_up: Callable[[], None] = lambda: None,
) -> None:
    """Wait up to `patience_s` seconds until no process is working on this partial artifact.

    Raises: Taken if one still is.
    """
    for patience in _waiting(patience_s, give_up):
        found = owners(partial, besides, watch=True)
        if not found:
            return
        patience(Taken(_taken(partial / "claims" / found[0]["claim"], found[0])))


def _heartbeat(path: Path, mine: Owner, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(
            OSError
        ):  # renamed with its artifact, or a file server that is away for a while
            os.utime(path)
        owner = _owner(path)
        if owner is not None and owner["broken"] is None and owner != mine and not stop.is_set():
            say_error(f"{_taken(path, owner)}; this process has lost its claim and ends")
            os._exit(LOST)
