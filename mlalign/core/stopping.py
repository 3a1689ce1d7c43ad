"""How the process of a step learns that it is to stop, even while its stage does not look.

A stage looks for the file STOP whenever it could save its state. Before it first does so (during
imports, or while a model loads) there is nothing to save, and the process ends by itself. Later,
code that waits for something else, such as a server, looks at `asked`.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_S = 0.5

asked = threading.Event()
stage_looks = threading.Event()


class Stopped(Exception):
    """A stage was asked to stop and has saved what it needs to go on."""


def watch(files: Sequence[Path], end: Callable[[], None]) -> None:
    """Look for new STOP files from now on, in a thread.

    If the stage does not look for them yet when one appears, `end` is called to end the process.
    """
    before = {path: _time_written(path) for path in files}

    def look() -> None:
        while not asked.is_set():
            time.sleep(POLL_S)
            for path in files:
                written = _time_written(path)
                if written is not None and written != before[path]:
                    asked.set()
        if not stage_looks.is_set():
            end()

    threading.Thread(target=look, daemon=True).start()


def _time_written(path: Path) -> int | None:
    """Nanoseconds since the epoch; None if there is no such file."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
