"""Text for a terminal: columns, sizes, times, and nothing that could steer it.

Everything that is shown goes through `say`.
"""

import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TextIO

from mlalign.core import secrecy
from mlalign.core.visible import visible

UNITS = ("B", "kB", "MB", "GB", "TB")


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Plain text columns, each as wide as its widest cell."""
    cells = [[harmless(str(c)).replace("\n", "⟨U+000A⟩") for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def without_empty(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """A table without the columns in which every row is empty."""
    kept = [i for i in range(len(header)) if any(str(row[i]) for row in rows)]
    return table([[row[i] for i in kept] for row in rows], [header[i] for i in kept])


def prepare() -> None:
    """Make the standard streams take any text, and tracebacks show no secrets.

    Where the encoding of a stream lacks a character, its escape is written instead.
    """
    sys.excepthook = _crash
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)), file=sys.stderr, end="")


def say(
    *texts: object, file: TextIO | None = None, sep: str = " ", end: str = "\n", flush: bool = False
) -> None:
    """`print`, for all that a person is to read: without control characters and secrets that names,
    models or servers bring in.
    """
    print(harmless(secrecy.hidden(sep.join(map(str, texts)))), file=file, end=end, flush=flush)


def say_error(message: str) -> None:
    """A mistake on stderr.

    Further lines are indented, so that none of a file's name or a log poses as a message of its
    own.
    """
    say("error: " + message.replace("\n", "\n  "), file=sys.stderr)


def harmless(text: str) -> str:
    """Text of models, logs and people without control characters: what would move the cursor is
    written out as `⟨U+001B⟩`.

    A carriage return begins a new line, so that nothing is hidden behind what a progress bar wrote
    over it.
    """
    return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


def size(n_bytes: float) -> str:
    """`1.5 GB`: powers of 1000, as disks are sold and quotas counted."""
    unit = 0
    while n_bytes >= 999.5 and unit < len(UNITS) - 1:
        n_bytes, unit = n_bytes / 1000, unit + 1
    return (
        f"{n_bytes:.0f} {UNITS[unit]}"
        if unit == 0 or n_bytes >= 100
        else f"{n_bytes:.1f} {UNITS[unit]}"
    )


def duration(seconds: float) -> str:
    """`4.2 s`, `3:05`, `2:07:30`, `1-02:03:04` (days first, as Slurm writes it)."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{days}-{hour:02d}:{minute:02d}:{second:02d}" if days else clock
