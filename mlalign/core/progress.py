"""How far a step is: read from its progress.json, shown by `run` and `status`."""

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
LINE_S = 30  # without a terminal, a line this often


class Display:
    """Progress on a terminal (one line, rewritten) or in a file (a line now and then)."""

    def __init__(self, out: TextIO | None = None):
        self.out = out or sys.stdout
        self.live = self.out.isatty()
        self._title, self._partial, self._last, self._shown = "", Path(), 0.0, ""

    def line(self, text: str) -> None:
        say(text, file=self.out, flush=True)

    def begin(self, title: str, partial: Path) -> None:
        self._title, self._partial, self._last = title, partial, time.monotonic()
        if not self.live:
            self.line(f"{title}: started")

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._last < (TICK_S if self.live else LINE_S):
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
    """How far a step is, or an empty text when it has not said anything."""
    return text(told(partial))


def told(partial: Path) -> dict[str, Any]:
    """`{done, total, unit, by_language}` as the step wrote it; empty when it has not said anything.

    Tasks of an array are added up; those that have not begun are not in the total.
    """
    paths = [
        p
        for p in (partial / "progress.json", *sorted((partial / "parts").glob("*.progress.json")))
        if p.is_file()
    ]
    try:
        parts = [read_json(path, shapes.PROGRESS) for path in paths]
    except (
        UserError
    ):  # renamed under us with its artifact, or spoilt: how far a step is, is a kindness
        return {}
    if not parts:
        return {}
    totals = [part["total"] for part in parts]
    languages: Counter[str] = sum((Counter(part["by_language"]) for part in parts), Counter())
    done, total = sum(part["done"] for part in parts), None if None in totals else sum(totals)
    return {"done": done, "total": total, "unit": parts[0]["unit"], "by_language": dict(languages)}


def text(progress: Mapping[str, Any]) -> str:
    """`120/400 shards (eng_Latn 64, swh_Latn 56)`; nothing for an empty one."""
    if not progress:
        return ""
    by = ", ".join(
        f"{language} {n}" for language, n in sorted(progress["by_language"].items())[:12]
    )
    done = (
        progress["done"] if progress["total"] is None else f"{progress['done']}/{progress['total']}"
    )
    return f"{done} {progress['unit']}" + (f" ({by})" if by else "")
