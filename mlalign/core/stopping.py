"""How the process of a step learns that it is to stop, also where nothing of its stage looks.

A stage looks for the file STOP where it could save its state. Until it does so for the first time
(imports, the load of a model) nothing is worth saving, and the process ends by itself. Afterwards
whoever waits for others, such as a server, looks at `asked`.
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
    """From now on look for a STOP that was not there before; if the stage does not look yet, call
    `end`, which ends the process.
    """
    before = [_written(path) for path in files]

    def look() -> None:
        while not asked.is_set():
            time.sleep(POLL_S)
            now = [_written(path) for path in files]
            if any(
                time_ is not None and time_ != old for time_, old in zip(now, before, strict=True)
            ):
                asked.set()
        if not stage_looks.is_set():
            end()

    threading.Thread(target=look, daemon=True).start()


def _written(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
