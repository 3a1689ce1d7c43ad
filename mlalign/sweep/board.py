"""The variants of a sweep while it runs: what each has, what it waits for, and its result."""

import shutil
import time
from pathlib import Path
from typing import Any, TextIO

from mlalign.core.progress import TICK_S, Display, describe
from mlalign.core.terminal import say, table
from mlalign.recipes.node import Node
from mlalign.recipes.plan import Plan
from mlalign.sweep import results

MAX_LINES = 16


class Board(Display):
    """On a terminal a table of the variants above the running step, redrawn in place.

    Elsewhere it prints a line when a variant is done.
    """

    def __init__(self, plan: Plan, metric: str | None = None, out: TextIO | None = None):
        super().__init__(out)
        self._plan = plan
        self._metric = metric
        self._nodes = {n.name: n for n in plan.nodes}
        self._done: set[str] = set()
        self._failed: set[str] = set()  # names of steps
        self._values: dict[str, str] = {}
        self._running = ""
        self._drawn = 0
        self.announced: set[str] = set()
        self._look()
        self.announced = {v.label for v in plan.variants if self._finished(v.steps)}

    def begin(self, title: str, partial: Path) -> None:
        artifact = partial.name.removesuffix(".partial")
        self._running = next((n.name for n in self._plan.nodes if n.artifact == artifact), "")
        super().begin(title, partial)
        self._draw()

    def tick(self) -> None:
        if not self.live:
            super().tick()
            return
        if time.monotonic() - self._last >= TICK_S:
            self._last = time.monotonic()
            self._draw()

    def end(self, text: str) -> None:
        self._running = ""
        self.line(text)

    def line(self, text: str) -> None:
        self._wipe()
        super().line(text)
        self._look()
        for variant in self._plan.variants:
            if variant.label not in self.announced and self._finished(variant.steps):
                self.announced.add(variant.label)
                super().line(f"variant {variant.label}: done{self._value(variant.label, ', ')}")
        self._draw()

    def failed(self, artifact: str) -> None:
        self._failed.update(n.name for n in self._plan.nodes if n.artifact == artifact)

    def close(self) -> None:
        """Leave the last table standing."""
        self._wipe()
        self._look()
        say(self.table(every=True), file=self.out, flush=True)

    # -------------------------------------------------- table

    def table(self, *, every: bool = False) -> str:
        """The variants with what they have and wait for.

        Of many variants only the first that are not done, unless `every` one is wanted.
        """
        rows = [self._row(variant) for variant in self._plan.variants]
        unfinished = [row for row in rows if row[2] != "done"]
        shown = rows if every or len(rows) <= MAX_LINES else unfinished[:MAX_LINES]
        text = table(shown, ["variant", "steps", "", self._metric or ""])
        if len(shown) < len(rows):
            text += f"\n{len(rows) - len(unfinished)} of {len(rows)} variants are done"
        return text

    def _row(self, variant: Any) -> list[str]:
        steps = list(variant.steps.values())
        done = sum(s in self._done for s in steps)
        label = variant.label
        return [label, f"{done}/{len(steps)}", self._state(steps), self._value(label)]

    def _state(self, steps: list[str]) -> str:
        unfinished = [step for step in steps if step not in self._done]
        if not unfinished:
            return "done"
        failed = [step for step in unfinished if step in self._failed]
        if failed:
            return f"failed: {failed[0]}"
        if self._running in unfinished:
            return f"{self._running}: {describe(self._partial) or 'running'}"
        return f"waits for {unfinished[0]}"

    def _value(self, label: str, before: str = "") -> str:
        if label not in self._values:
            variant = next(v for v in self._plan.variants if v.label == label)
            if not self._finished(variant.steps):
                return ""
            row = results.average(self._plan.store, variant.steps, self._nodes, self._metric)
            self._values[label] = results.as_text(row) if row else ""
        text = self._values[label]
        return before + text if text else ""

    def _finished(self, steps: dict[str, str]) -> bool:
        return all(s in self._done for s in steps.values())

    def _look(self) -> None:
        for name, node in self._nodes.items():
            if name not in self._done and self._is_done(node):
                self._done.add(name)

    def _is_done(self, node: Node) -> bool:
        return (self._plan.store.root / node.artifact / "manifest.json").is_file()

    # -------------------------------------------------- drawing

    def _draw(self) -> None:
        if not self.live:
            return
        self._wipe()
        width = shutil.get_terminal_size().columns - 1
        lines = ["", *self.table().splitlines()]
        if self._running:
            lines.append(f"{self._title}: {describe(self._partial) or 'starting'}")
        say("\n".join(line[:width] for line in lines), file=self.out, flush=True)
        self._drawn = len(lines)

    def _wipe(self) -> None:
        """Take back the table that was drawn last."""
        if self.live and self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="", file=self.out, flush=True)
        self._drawn = 0
