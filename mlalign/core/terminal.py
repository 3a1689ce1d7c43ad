"""Text for a terminal: columns, sizes, times, and no characters that could control it.

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
    cells = [[_cell(value) for value in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return harmless(str(value)).replace("\n", "⟨U+000A⟩")


def without_empty(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """A table without the columns in which every row is empty."""
    kept = [i for i in range(len(header)) if any(str(row[i]) for row in rows)]
    kept_rows = [[row[i] for i in kept] for row in rows]
    return table(kept_rows, [header[i] for i in kept])


def prepare() -> None:
    """Make the standard streams take any text, and hide secrets in tracebacks.

    A character that a stream's encoding lacks is written as its escape.
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
    """`print` for people: without secrets, and without control characters from outside."""
    text = sep.join(map(str, texts))
    print(harmless(secrecy.hidden(text)), file=file, end=end, flush=flush)


def say_error(message: str) -> None:
    """A mistake on stderr.

    Further lines are indented, so that a line from a file name or a log cannot pose as a message.
    """
    say("error: " + message.replace("\n", "\n  "), file=sys.stderr)


def harmless(text: str) -> str:
    """Text with control characters written out, such as `⟨U+001B⟩`.

    A carriage return becomes a line end, so that no text is hidden by text written over it.
    """
    return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


def size(n_bytes: float) -> str:
    """`1.5 GB`: powers of 1000, as disks are sold and quotas counted."""
    unit = 0
    while n_bytes >= 999.5 and unit < len(UNITS) - 1:
        n_bytes /= 1000
        unit += 1
    n_decimals = 0 if unit == 0 or n_bytes >= 100 else 1
    return f"{n_bytes:.{n_decimals}f} {UNITS[unit]}"


def duration(seconds: float) -> str:
    """`4.2 s`, `3:05`, `2:07:30`, `1-02:03:04` (days first, as Slurm writes it)."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02d}:{minute:02d}:{second:02d}"
    if hours:
        return f"{hour}:{minute:02d}:{second:02d}"
    return f"{minute}:{second:02d}"
