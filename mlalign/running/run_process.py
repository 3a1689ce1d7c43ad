"""The process of a run, and how `mlalign cancel` reaches it at any moment: while it plans, between
steps, while a step hangs.

It claims `runs/NAME/claims/run-ID`. A file `.run-ID.stop` beside that asks it to stop:
`{"now": …, "artifacts": […] or null}`, with artifacts only if it works on one of them. A thread
looks for that file and sends this process SIGTERM, so a request, Ctrl-C and SIGTERM have the same
effect: a running step is asked to save its state (`running.local`), and at any other moment the run
just ends.
"""

import contextlib
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlalign.core import claims, store
from mlalign.core.errors import UserError
from mlalign.recipes import command_line

POLL_S = 0.2
PREFIX = "run-"


class Running:
    """What a run's process knows of itself.

    `artifact`: that of the step it runs. `follows`: it only watches Slurm jobs. `asked`: whether it
    was asked to stop, and `now`: at once.
    """

    def __init__(self) -> None:
        self.artifact: str | None = None
        self.follows = False
        self.asked = False
        self.now = False


current = Running()


@contextlib.contextmanager
def registered(run_dir: Path | None, process: Running) -> Iterator[None]:
    """Be a run's process: `cancel` finds it, and SIGTERM ends it as Ctrl-C does.

    If the run's directory is unknown or cannot be written, only the latter holds.
    """
    global current  # noqa: PLW0603  # there is one run in a process
    before = current
    current = process
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, _interrupt) for number in signals}
    made = [] if run_dir is None else _missing(run_dir / "claims")
    try:
        with contextlib.ExitStack() as stack:
            if run_dir is not None:
                with contextlib.suppress(OSError):  # said later, by what needs the directory
                    stack.enter_context(_claimed(run_dir))
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        current = before
        with contextlib.suppress(OSError):  # nothing stays of a run that did not begin
            for folder in made:
                folder.rmdir()


def _missing(folder: Path) -> list[Path]:
    """This directory and those above it that are not there, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


@contextlib.contextmanager
def _claimed(run_dir: Path) -> Iterator[None]:
    name = f"{PREFIX}{uuid.uuid4().hex[:12]}"
    ended = threading.Event()
    request = _request(run_dir, name)
    with claims.claim(run_dir, name):
        thread = threading.Thread(target=_watch, args=(request, current, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            request.unlink(missing_ok=True)


def _interrupt(number: int, frame: object) -> None:
    """End what is under way; where a library swallows that, the run ends before its next step."""
    current.asked = True
    raise KeyboardInterrupt


def _request(run_dir: Path, name: str) -> Path:
    return run_dir / "claims" / f".{name}.stop"


def _watch(request: Path, running: Running, ended: threading.Event) -> None:
    main = threading.main_thread().ident
    assert main is not None
    while not ended.wait(POLL_S):
        if not request.exists():
            continue
        with contextlib.suppress(UserError, OSError):  # the request was taken back at this moment
            asked = store.read_json(request, {"artifacts": (list, type(None))})
            is_meant = asked["artifacts"] is None or running.artifact in asked["artifacts"]
            if not is_meant or running.follows:  # `cancel` itself ends the jobs in the queue
                request.unlink(missing_ok=True)
            elif not running.asked or (asked["now"] and not running.now):
                running.asked = True
                running.now = asked["now"]
                signal.pthread_kill(main, signal.SIGTERM)


# -------------------------------------------------------------------------------- as cancel sees it


def processes(run_dir: Path) -> list[claims.Owner]:
    """The processes that are at a run."""
    return [owner for owner in claims.owners(run_dir) if owner["claim"].startswith(PREFIX)]


def ask(run_dir: Path, owner: claims.Owner, *, now: bool, artifacts: Sequence[str] | None) -> None:
    """Ask a run's process to stop."""
    store.write_json(_request(run_dir, owner["claim"]), {"now": now, "artifacts": artifacts})


def has_refused(run_dir: Path, owner: claims.Owner) -> bool:
    """Whether a process that was asked a while ago goes on, since it works on other artifacts."""
    refused = not _request(run_dir, owner["claim"]).exists()
    return refused and owner["claim"] in {other["claim"] for other in processes(run_dir)}


def directory(arguments: Sequence[str]) -> Path | None:
    """The directory of the run that these arguments mean, before anything is planned.

    None if they do not say.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        key = argument.partition("=")[0]
        if key in ("root", "name", "recipe"):
            override = command_line.by_grammar(argument, [])
            values[key] = None
            if override is not None and not override.is_sweep_override():
                values[key] = command_line.plain(override.value())
    name = str(values.get("name") or values.get("recipe") or "")
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        return None
    return Path(str(values.get("root") or ".")).expanduser().absolute() / "runs" / name
