"""Figures as inline SVG: pure functions of numbers, a few kB each.

Horizontal positions are percentages and vertical ones pixels: a figure is as wide as the screen
allows, while its text keeps its size. Colours are classes that the page's style sheet maps for
light, dark and print. Shape and line style repeat what colour says: hollow is before, filled is
after. Labels are escaped.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from mlalign.core.visible import visible
from mlalign.evidence.text import number

SHADES = 9
LABEL_LETTERS = 22
Interval = tuple[float, float | None, float | None]  # value, low, high
Format = Callable[[float], str]
Scale = Callable[[float], float]


def svg(
    height: float,
    body: Sequence[str],
    title: str,
    kind: str = "fig",
) -> Markup:
    """The frame of a figure; `title` is what a screen reader says."""
    label = escape(visible(title))
    size = f'width="100%" height="{height:g}"'
    start = f'<svg class="{kind}" role="img" aria-label="{label}" {size}>'
    return Markup(start) + Markup("".join(body) + "</svg>")


def _strip(body: str) -> Markup:
    """The frame of a picture in one line of a table; the numbers are in the cells beside it."""
    start = '<svg class="strip" aria-hidden="true" width="100%" height="18">'
    return Markup(f"{start}{body}</svg>")


def text(
    x: float,
    y: float,
    content: Any,
    kind: str = "",
    anchor: str = "start",
) -> str:
    label = escape(visible(str(content)))
    return f'<text x="{x:.2f}%" y="{y:g}" class="{kind}" text-anchor="{anchor}">{label}</text>'


def line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    kind: str,
) -> str:
    return f'<line x1="{x1:.2f}%" y1="{y1:g}" x2="{x2:.2f}%" y2="{y2:g}" class="{kind}"/>'


def short(label: str, letters: int = LABEL_LETTERS) -> str:
    return label if len(label) <= letters else label[: letters - 1] + "…"


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About `n` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / n
    power = 10 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (1, 2, 2.5, 5, 10)]
    step = next(step for step in steps if step >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def domain(
    intervals: Sequence[Interval | None],
    reference: float | None = None,
) -> tuple[float, float]:
    """The range of all values and bounds, with a little room on both sides."""
    values = [] if reference is None else [reference]
    for interval in intervals:
        values += [value for value in interval or () if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.04 or 0.05
    return low - room, high + room


def scale(of: tuple[float, float], left: float, right: float) -> Scale:
    """Maps the range `of` to `left` … `right`; values outside it go to the nearer end."""
    low, high = of
    width = (high - low) or 1.0

    def place(value: float) -> float:
        inside = min(max(value, low), high)
        return left + (right - left) * (inside - low) / width

    return place


def levels(
    of: tuple[float, float],
    n: int,
    up: Scale,
    left: float,
    right: float,
    form: Format,
) -> list[str]:
    """Horizontal grid lines with their numbers to the left."""
    body = []
    for value in ticks(*of, n):
        y = up(value)
        body.append(line(left, y, right, y, "grid"))
        body.append(text(left - 1, y + 4, form(value), "tick", "end"))
    return body


# ------------------------------------------------------------------------------- before and after


def languages_plot(
    rows: Sequence[Mapping],
    title: str,
    form: Format,
    reference: float | None = None,
) -> Markup:
    """One line per language: `label`, `before` (or None) and `after` as intervals."""
    left, right, step = 36.0, 97.0, 22
    of = _both_domain(rows, reference)
    across = scale(of, left, right)
    bottom = step * len(rows) + 6
    body = []
    for value in ticks(*of, 6):
        x = across(value)
        body.append(line(x, 2, x, bottom, "grid"))
        body.append(text(x, bottom + 15, form(value), "tick", "middle"))
    if reference is not None:
        x = across(reference)
        body.append(line(x, 0, x, bottom, "reference"))

    for i, row in enumerate(rows):
        y = step * i + 14
        before, after = row["before"], row["after"]
        body.append(text(0, y + 4, short(row["label"]), "label"))
        if before and after:
            start, end = across(before[0]), across(after[0])
            body.append(line(start, y, end, y, "way"))
        body.append(_mark(before, across, y + 4, "before"))
        body.append(_mark(after, across, y, "after"))
    return svg(bottom + 22, body, title)


def _both_domain(rows: Sequence[Mapping], reference: float | None) -> tuple[float, float]:
    intervals = []
    for row in rows:
        intervals += [row["before"], row["after"]]
    return domain(intervals, reference)


def _mark(
    interval: Interval | None,
    across: Scale,
    y: float,
    kind: str,
) -> str:
    if interval is None:
        return ""
    value, low, high = interval
    dot = f'<circle cx="{across(value):.2f}%" cy="{y}" r="4.5" class="dot {kind}"/>'
    if low is None or high is None:
        return dot
    bar = line(across(low), y, across(high), y, f"bar {kind}")
    return bar + dot


def ranks_plot(
    rows: Sequence[Mapping],
    title: str,
    form: Format,
    reference: float | None = None,
) -> Markup:
    """Many languages: each a column, in the order given; values upwards."""
    height, left = 250, 11.0
    of = _both_domain(rows, reference)
    up = scale(of, height - 8, 8)
    across = scale((-1, len(rows)), left, 100)
    body = levels(of, 5, up, left, 100, form)
    if reference is not None:
        y = up(reference)
        body.append(line(left, y, 100, y, "reference"))

    for i, row in enumerate(rows):
        values, marks = [], []
        for side in ("before", "after"):
            interval = row[side]
            if interval:
                values.append(f"{side} {form(interval[0])}")
                marks.append(_column(interval, across(i), up, side))
        label = escape(visible(row["label"]))
        title_ = f"<title>{label}: {', '.join(values)}</title>"
        body.append(f"<g>{title_}{''.join(marks)}</g>")
    return svg(height, body, title)


def _column(interval: Interval, x: float, up: Scale, kind: str) -> str:
    value, low, high = interval
    dot = f'<circle cx="{x:.2f}%" cy="{up(value):.1f}" r="2.2" class="dot small {kind}"/>'
    if low is None or high is None:
        return dot
    bar = line(x, up(low), x, up(high), f"bar {kind}")
    return bar + dot


def strip(
    before: Interval | None,
    after: Interval | None,
    of: tuple[float, float],
    reference: float | None = None,
) -> Markup:
    """Before and after as a picture in one line of a table."""
    across = scale(of, 3, 97)
    marks = []
    if reference is not None:
        x = across(reference)
        marks.append(line(x, 0, x, 18, "reference"))
    marks.append(_mark(before, across, 11, "before"))
    marks.append(_mark(after, across, 7, "after"))
    return _strip("".join(marks))


# ----------------------------------------------------------------------------------- distributions


def ridges(
    edges: Sequence[float],
    rows: Sequence[Mapping],
    title: str,
    form: Format,
) -> Markup:
    """One histogram per row over common bins; the vertical line is the median.

    A row has `label`, `counts` (one per bin) and `quantiles` (at 5, 25, 50, 75 and 95%).
    """
    height = 74
    across = scale((edges[0], edges[-1]), 1, 99)
    body = []
    for i, row in enumerate(rows):
        top = height * i
        base = top + 68
        median = across(row["quantiles"][2])
        label = short(row["label"], 44)
        body.append(text(0, top + 13, label, "label"))
        body += _bins(edges, row["counts"], across, base)
        body.append(line(1, base, 99, base, "axis"))
        body.append(line(median, base - 50, median, base, "median"))

    bottom = height * len(rows)
    for value in ticks(edges[0], edges[-1], 4):
        body.append(text(across(value), bottom + 12, form(value), "tick", "middle"))
    return svg(bottom + 18, body, title)


def _bins(
    edges: Sequence[float],
    counts: Sequence[int],
    across: Scale,
    base: float,
) -> list[str]:
    most = max(counts) or 1
    bars = []
    for n, (low, high) in zip(counts, itertools.pairwise(edges), strict=True):
        if n == 0:
            continue
        height = 46 * n / most
        left, right = across(low), across(high)
        place = f'x="{left:.2f}%" y="{base - height:.1f}"'
        size = f'width="{right - left:.2f}%" height="{height:.1f}"'
        bars.append(f'<rect {place} {size} class="bin"/>')
    return bars


def box(quantiles: Sequence[float], of: tuple[float, float]) -> Markup:
    """Quantiles at 5, 25, 50, 75 and 95% as a picture in one line of a table."""
    p5, p25, p50, p75, p95 = map(scale(of, 2, 98), quantiles)
    whiskers = line(p5, 9, p95, 9, "bar after")
    width = max(p75 - p25, 0.3)
    middle = f'<rect x="{p25:.2f}%" y="4" width="{width:.2f}%" height="10" class="bin"/>'
    return _strip(whiskers + middle + line(p50, 2, p50, 16, "median"))


def meter(share: float) -> Markup:
    """A share of 1 as a bar; its number is in the cell beside it."""
    start = '<svg class="meter" aria-hidden="true" width="72" height="10">'
    empty = '<rect width="72" height="10" class="empty"/>'
    filled = f'<rect width="{72 * min(share, 1):.1f}" height="10" class="bin"/>'
    return Markup(f"{start}{empty}{filled}</svg>")


def brief(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


# --------------------------------------------------------------------------------------- matrices


def shade(
    value: float | None,
    low: float,
    high: float,
    power: float = 1.0,
) -> int | None:
    """0 (lowest) to SHADES - 1 (highest); None for no value.

    With `power` 2, most of the shades are spent on low values.
    """
    if value is None:
        return None
    width = (high - low) or 1.0
    share = max((value - low) / width, 0)
    level = int(SHADES * share ** (1 / power))
    return min(level, SHADES - 1)


def heat(
    shades: Sequence[Sequence[int | None]],
    title: str,
    name: str,
) -> Markup:
    """A large matrix of shades (rows downwards), one path per shade.

    The page's script finds it by `data-matrix` and tells the cell under the pointer.
    """
    squares: dict[int, list[str]] = {}
    for i, row in enumerate(shades):
        for j, level in enumerate(row):
            if level is not None:
                squares.setdefault(level, []).append(f"M{j} {i}h1v1h-1z")
    paths = []
    for level, of_level in sorted(squares.items()):
        paths.append(f'<path class="s{level}" d="{"".join(of_level)}"/>')

    size = f'viewBox="0 0 {max(map(len, shades))} {len(shades)}" shape-rendering="crispEdges"'
    names = f'aria-label="{escape(visible(title))}" data-matrix="{escape(name)}"'
    return Markup(f'<svg class="heat" role="img" {names} {size}>{"".join(paths)}</svg>')


def legend_numbers(
    low: float,
    high: float,
    power: float,
    metric: str,
    digits: int,
) -> list[str]:
    """The lower bound of each shade, and the upper bound of the last."""
    numbers = []
    for i in range(SHADES + 1):
        share = (i / SHADES) ** power
        bound = low + (high - low) * share
        numbers.append(number(bound, metric, digits))
    return numbers
