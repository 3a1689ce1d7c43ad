"""Text for a terminal: columns, sizes, times, and nothing that could steer it."""

from collections.abc import Sequence
from typing import Any

from mlalign.reporting.text import visible

UNITS = ("B", "kB", "MB", "GB", "TB")


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Plain text columns, each as wide as its widest cell."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def without_empty(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """A table without the columns in which every row is empty."""
    kept = [i for i in range(len(header)) if any(str(row[i]) for row in rows)]
    return table([[row[i] for i in kept] for row in rows], [header[i] for i in kept])


def harmless(text: str) -> str:
    """Text of models, logs and people without control characters: what would move the cursor is written out as `⟨U+001B⟩`.

    A carriage return begins a new line, so that nothing is hidden behind what a progress bar wrote over it.
    """
    return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


def size(n_bytes: float) -> str:
    """`1.5 GB`: powers of 1000, as disks are sold and quotas counted."""
    unit = 0
    while n_bytes >= 999.5 and unit < len(UNITS) - 1:
        n_bytes, unit = n_bytes / 1000, unit + 1
    return f"{n_bytes:.0f} {UNITS[unit]}" if unit == 0 or n_bytes >= 100 else f"{n_bytes:.1f} {UNITS[unit]}"


def duration(seconds: float) -> str:
    """`4.2 s`, `3:05`, `2:07:30`, `1-02:03:04` (days first, as Slurm writes it)."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{days}-{hour:02d}:{minute:02d}:{second:02d}" if days else clock
