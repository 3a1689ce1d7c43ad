"""How far scoring is, on stderr: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from typing import Any

from tqdm import tqdm

from mlalign.core.terminal import say


class Progress:
    """Rows done, rows/s, tokens/s and time left. A context manager.

    `total` is the number of all rows, or None if nobody knows; `done` of them were done before.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        done: int = 0,
        *,
        quiet: bool = False,
        every_s: float = 30,
    ):
        self.title, self.total, self.done, self.every_s = title, total, done, every_s
        self._first = done
        self._tokens = 0
        self._began = self._shown = time.monotonic()
        is_live = sys.stderr.isatty() and not quiet
        self._bar: Any = None
        if is_live:
            form: Any = {"unit": " rows", "unit_scale": True, "dynamic_ncols": True}
            self._bar = tqdm(total=total, initial=done, desc=title, **form)
        self._shows_lines = not is_live and not quiet

    def add(self, rows: int, tokens: int = 0) -> None:
        self.at(self.done + rows, self._tokens + tokens)

    def at(self, done: int, tokens: int) -> None:
        """Show that `done` rows are done, and that `tokens` were read since the beginning."""
        n_new = done - self.done
        self.done, self._tokens = done, tokens
        now = time.monotonic()
        seconds = now - self._began
        if self._bar is not None:
            if tokens:
                self._bar.set_postfix_str(f"{_short(tokens / seconds)} tokens/s", refresh=False)
            self._bar.update(n_new)
        elif self._shows_lines and now - self._shown >= self.every_s:
            self._shown = now
            say(self.line(seconds), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """`scores.jsonl: 1,200 of 4,000 rows, 40 rows/s, 12.3k tokens/s, 01:10 left`."""
        rate = (self.done - self._first) / seconds
        of_total = "" if self.total is None else f" of {self.total:,}"
        parts = [f"{self.title}: {self.done:,}{of_total} rows", f"{_short(rate)} rows/s"]
        if self._tokens:
            parts.append(f"{_short(self._tokens / seconds)} tokens/s")
        if rate and self.total:
            parts.append(f"{tqdm.format_interval((self.total - self.done) / rate)} left")
        return ", ".join(parts)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else tqdm.format_sizeof(number)
