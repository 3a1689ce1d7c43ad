"""How far a step is: read from its `progress.json`, shown by `run` and `status`."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from mlalign.core import shapes
from mlalign.core.errors import UserError
from mlalign.core.store import read_json
from mlalign.core.terminal import harmless, say

TICK_S = 0.5
LINE_S = 30  # without a terminal, seconds between lines
SHOWN_LANGUAGES = 12


class Display:
    """Progress on a terminal (one line, rewritten) or in a file (a line now and then)."""

    def __init__(self, out: TextIO | None = None):
        self.out = out or sys.stdout
        self.live = self.out.isatty()
        self._title = ""
        self._partial = Path()
        self._last = 0.0
        self._shown = ""

    def line(self, text: str) -> None:
        say(text, file=self.out, flush=True)

    def begin(self, title: str, partial: Path) -> None:
        self._title = title
        self._partial = partial
        self._last = time.monotonic()
        if not self.live:
            self.line(f"{title}: started")

    def tick(self) -> None:
        now = time.monotonic()
        interval_s = TICK_S if self.live else LINE_S
        if now - self._last < interval_s:
            return

        self._last = now
        text = f"{self._title}: {describe(self._partial) or 'starting'}"
        if self.live:
            print(f"\r\x1b[K{harmless(text)[:200]}", end="", file=self.out, flush=True)
        elif text != self._shown:
            self.line(text)
        self._shown = text

    def end(self, text: str) -> None:
        if self.live:
            print("\r\x1b[K", end="", file=self.out)
        self.line(text)

    def failed(self, artifact: str) -> None:
        """A step of a sweep failed, and the run goes on with what does not depend on it."""


def describe(partial: Path) -> str:
    """How far a step is, as text; empty if the step has not written its progress yet."""
    return text(read(partial))


def read(partial: Path) -> dict[str, Any]:
    """`{done, total, unit, by_language}` as the step wrote it; empty if it has not written it yet.

    Tasks of an array are added up; tasks that have not begun are not in the total.
    """
    paths = [partial / "progress.json", *sorted((partial / "parts").glob("*.progress.json"))]
    try:
        parts = [read_json(path, shapes.PROGRESS) for path in paths if path.is_file()]
    except UserError:  # renamed with its artifact meanwhile, or broken: show nothing
        return {}
    if not parts:
        return {}

    by_language: Counter[str] = Counter()
    for part in parts:
        by_language += Counter(part["by_language"])
    totals = [part["total"] for part in parts]
    return {
        "done": sum(part["done"] for part in parts),
        "total": None if None in totals else sum(totals),
        "unit": parts[0]["unit"],
        "by_language": dict(by_language),
    }


def text(progress: Mapping[str, Any]) -> str:
    """`120/400 shards (eng_Latn 64, swh_Latn 56)`; empty for an empty progress."""
    if not progress:
        return ""
    done = f"{progress['done']}"
    if progress["total"] is not None:
        done += f"/{progress['total']}"
    shown = f"{done} {progress['unit']}"

    counts = sorted(progress["by_language"].items())[:SHOWN_LANGUAGES]
    if counts:
        by_language = ", ".join(f"{language} {n}" for language, n in counts)
        shown += f" ({by_language})"
    return shown
