"""How far scoring is, on stderr: a bar on a terminal, a line now and then elsewhere, nothing if it
is to be quiet.
"""

import sys
import time
from typing import Any

from tqdm import tqdm

from mlalign.core.terminal import say


class Progress:
    """Rows done of `total` (`done` of them before; None: nobody knows), rows/s, tokens/s, time
    left. A context manager.
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
        self._first, self._began, self._said, self._tokens = (
            done,
            time.monotonic(),
            time.monotonic(),
            0,
        )
        live = sys.stderr.isatty() and not quiet
        self._bar: Any = (
            tqdm(
                total=total,
                initial=done,
                desc=title,
                unit=" rows",
                unit_scale=True,
                dynamic_ncols=True,
            )
            if live
            else None
        )
        self._lines = not live and not quiet

    def add(self, rows: int, tokens: int = 0) -> None:
        self.at(self.done + rows, self._tokens + tokens)

    def at(self, done: int, tokens: int) -> None:
        """So many rows are done by now, and so many tokens were read for those since the beginning
        of this one.
        """
        more, self.done, self._tokens = done - self.done, done, tokens
        now = time.monotonic()
        if self._bar is not None:
            if tokens:
                self._bar.set_postfix_str(
                    f"{_short(tokens / (now - self._began))} tokens/s", refresh=False
                )
            self._bar.update(more)
        elif self._lines and now - self._said >= self.every_s:
            self._said = now
            say(self.line(now - self._began), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """`scores.jsonl: 1,200 of 4,000 rows, 40 rows/s, 12.3k tokens/s, 01:10 left`."""
        rate = (self.done - self._first) / seconds
        parts = [
            (
                f"{self.title}: {self.done:,}{'' if self.total is None else f' of {self.total:,}'}"
                " rows"
            ),
            f"{_short(rate)} rows/s",
        ]
        parts += [f"{_short(self._tokens / seconds)} tokens/s"] if self._tokens else []
        parts += (
            [f"{tqdm.format_interval((self.total - self.done) / rate)} left"]
            if rate and self.total
            else []
        )
        return ", ".join(parts)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else tqdm.format_sizeof(number)
