"""Figures as inline SVG: pure functions of numbers, a few kB each.

Horizontal places are percentages and vertical ones pixels, so that a figure takes the width of any screen while its text keeps its
size. Colours are classes that the page's style sheet maps for light, dark and print; shape and line style repeat what colour says:
hollow is before, filled is after. Labels are escaped.
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


def svg(height: float, body: Sequence[str], title: str, kind: str = "fig") -> Markup:
    """The frame of a figure; `title` is what a screen reader says."""
    text = escape(visible(title))
    return Markup(f'<svg class="{kind}" role="img" aria-label="{text}" width="100%" height="{height:g}">') + Markup(
        "".join(body) + "</svg>"
    )


def text(x: float, y: float, content: Any, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.2f}%" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(visible(str(content)))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.2f}%" y1="{y1:g}" x2="{x2:.2f}%" y2="{y2:g}" class="{kind}"/>'


def short(label: str, letters: int = LABEL_LETTERS) -> str:
    return label if len(label) <= letters else label[: letters - 1] + "…"


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About `n` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / n
    power = 10 ** math.floor(math.log10(rough))
    step = next(s for s in (power, 2 * power, 2.5 * power, 5 * power, 10 * power) if s >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def domain(intervals: Sequence[Interval | None], reference: float | None = None) -> tuple[float, float]:
    """The range that all values and bounds need, with a little room."""
    values = [v for i in intervals if i for v in i if v is not None]
    values += [reference] if reference is not None else []
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.04 or 0.05
    return low - room, high + room


def scale(of: tuple[float, float], left: float, right: float) -> Callable[[float], float]:
    low, high = of
    return lambda v: left + (right - left) * (min(max(v, low), high) - low) / ((high - low) or 1.0)


# ------------------------------------------------------------------------------------------------------- before and after


def languages_plot(rows: Sequence[Mapping], title: str, form: Format, reference: float | None = None) -> Markup:
    """One line per language: `label`, `before` (or None) and `after` as intervals."""
    left, right, step = 36.0, 97.0, 22
    of = domain([i for r in rows for i in (r["before"], r["after"])], reference)
    x, bottom = scale(of, left, right), step * len(rows) + 6
    body = [line(x(t), 2, x(t), bottom, "grid") + text(x(t), bottom + 15, form(t), "tick", "middle") for t in ticks(*of, 6)]
    if reference is not None:
        body.append(line(x(reference), 0, x(reference), bottom, "reference"))
    for i, row in enumerate(rows):
        y = step * i + 14
        body.append(text(0, y + 4, short(row["label"]), "label"))
        if row["before"] and row["after"]:
            body.append(line(x(row["before"][0]), y, x(row["after"][0]), y, "way"))
        body += [_mark(row["before"], x, y + 4, "before"), _mark(row["after"], x, y, "after")]
    return svg(bottom + 22, body, title)


def _mark(interval: Interval | None, x: Callable[[float], float], y: float, kind: str) -> str:
    if interval is None:
        return ""
    value, low, high = interval
    bar = line(x(low), y, x(high), y, f"bar {kind}") if low is not None and high is not None else ""
    return bar + f'<circle cx="{x(value):.2f}%" cy="{y}" r="4.5" class="dot {kind}"/>'


def ranks_plot(rows: Sequence[Mapping], title: str, form: Format, reference: float | None = None) -> Markup:
    """Many languages: each a column, in the order given; values upwards."""
    height, left = 250, 11.0
    of = domain([i for r in rows for i in (r["before"], r["after"])], reference)
    up, across = scale(of, height - 8, 8), scale((-1, len(rows)), left, 100)
    body = [line(left, up(t), 100, up(t), "grid") + text(left - 1, up(t) + 4, form(t), "tick", "end") for t in ticks(*of)]
    if reference is not None:
        body.append(line(left, up(reference), 100, up(reference), "reference"))
    for i, row in enumerate(rows):
        told = ", ".join(f"{k} {form(row[k][0])}" for k in ("before", "after") if row[k])
        marks = "".join(_column(row[k], across(i), up, k) for k in ("before", "after"))
        body.append(f"<g><title>{escape(visible(row['label']))}: {told}</title>{marks}</g>")
    return svg(height, body, title)


def _column(interval: Interval | None, x: float, up: Callable[[float], float], kind: str) -> str:
    if interval is None:
        return ""
    value, low, high = interval
    bar = line(x, up(low), x, up(high), f"bar {kind}") if low is not None and high is not None else ""
    return bar + f'<circle cx="{x:.2f}%" cy="{up(value):.1f}" r="2.2" class="dot small {kind}"/>'


def strip(before: Interval | None, after: Interval | None, of: tuple[float, float], reference: float | None = None) -> Markup:
    """The picture in one line of a table; its numbers stand beside it."""
    x = scale(of, 3, 97)
    body = [line(x(reference), 0, x(reference), 18, "reference")] if reference is not None else []
    body += [_mark(before, x, 11, "before"), _mark(after, x, 7, "after")]
    return Markup('<svg class="strip" aria-hidden="true" width="100%" height="18">' + "".join(body) + "</svg>")


# ------------------------------------------------------------------------------------------------ distributions and curves


def ridges(edges: Sequence[float], rows: Sequence[Mapping], title: str, form: Format) -> Markup:
    """One histogram per row (`label`, `counts`, `quantiles` at 5, 25, 50, 75 and 95%) over common bins; the line is the median."""
    height, body = 74, []
    x = scale((edges[0], edges[-1]), 1, 99)
    for i, row in enumerate(rows):
        base, top = height * i + 68, max(row["counts"]) or 1
        body.append(text(0, height * i + 13, short(row["label"], 44), "label"))
        for n, low, high in zip(row["counts"], edges, edges[1:], strict=False):
            if n:
                h = 46 * n / top
                body.append(f'<rect x="{x(low):.2f}%" y="{base - h:.1f}" width="{x(high) - x(low):.2f}%" height="{h:.1f}" class="bin"/>')
        body += [line(1, base, 99, base, "axis"), line(x(row["quantiles"][2]), base - 50, x(row["quantiles"][2]), base, "median")]
    bottom = height * len(rows)
    body += [text(x(t), bottom + 12, form(t), "tick", "middle") for t in ticks(edges[0], edges[-1], 4)]
    return svg(bottom + 18, body, title)


def box(quantiles: Sequence[float], of: tuple[float, float]) -> Markup:
    """Quantiles at 5, 25, 50, 75 and 95% in one line of a table."""
    x = scale(of, 2, 98)
    p5, p25, p50, p75, p95 = map(x, quantiles)
    body = line(p5, 9, p95, 9, "bar after") + f'<rect x="{p25:.2f}%" y="4" width="{max(p75 - p25, 0.3):.2f}%" height="10" class="bin"/>'
    return Markup(f'<svg class="strip" aria-hidden="true" width="100%" height="18">{body}{line(p50, 2, p50, 16, "median")}</svg>')


def meter(share: float) -> Markup:
    """A share of 1 as a bar; its number stands beside it."""
    return Markup(
        '<svg class="meter" aria-hidden="true" width="72" height="10"><rect width="72" height="10" class="empty"/>'
        f'<rect width="{72 * min(share, 1):.1f}" height="10" class="bin"/></svg>'
    )


def curve(points: Sequence[Sequence[float]], title: str) -> Markup:
    """A line through (step, value) points, faint where raw and strong where smoothed."""
    height, left = 130, 15.0
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    of = domain([(y, None, None) for y in ys])
    up, across = scale(of, 1000, 0), scale((xs[0], xs[-1]), 0, 1000)
    size = max(len(ys) // 12, 1)
    smooth = [sum(ys[max(0, i - size) : i + size + 1]) / len(ys[max(0, i - size) : i + size + 1]) for i in range(len(ys))]
    down = scale(of, height - 22, 6)
    body = [line(left, down(t), 100, down(t), "grid") + text(left - 1, down(t) + 4, brief(t), "tick", "end") for t in ticks(*of, 3)]
    body.append(f'<svg x="{left}%" y="6" width="{100 - left}%" height="{height - 28}" viewBox="0 0 1000 1000" preserveAspectRatio="none">')
    for kind, values in (("raw", ys), ("smooth", smooth)):
        places = " ".join(f"{across(a):.0f},{up(b):.0f}" for a, b in zip(xs, values, strict=True))
        body.append(f'<polyline points="{places}" class="{kind}" vector-effect="non-scaling-stroke"/>')
    body.append("</svg>" + text(left, height - 6, f"step {xs[0]:g}", "tick") + text(100, height - 6, f"{xs[-1]:g}", "tick", "end"))
    return svg(height, body, title)


def scatter(
    points: Sequence[tuple[float, float, bool]], title: str, form: Format, *, log: bool, best: Callable[..., float] | None = None
) -> Markup:
    """Points (x, y, hollow); x on a logarithmic scale with `log`. With `best` (min or max) a line of the best y so far, along x."""
    height, left = 210, 12.0
    xs, ys = [math.log10(p[0]) if log else p[0] for p in points], [p[1] for p in points]
    of, wide = domain([(y, None, None) for y in ys]), domain([(x, None, None) for x in xs])
    up, across = scale(of, height - 26, 6), scale(wide, left, 99)
    body = [line(left, up(t), 99, up(t), "grid") + text(left - 1, up(t) + 4, form(t), "tick", "end") for t in ticks(*of, 4)]
    marks = _decades(*wide) if log else [(t, t) for t in ticks(*wide, 5)]
    body += [text(across(t), height - 6, brief(value), "tick", "middle") for t, value in marks]
    if best is not None:
        steps = [(x, best(so_far)) for i, x in enumerate(xs) if (so_far := [y for _, y, hollow in points[: i + 1] if not hollow])]
        for (x0, y0), (x1, y1) in itertools.pairwise(steps):
            body.append(line(across(x0), up(y0), across(x1), up(y0), "axis") + line(across(x1), up(y0), across(x1), up(y1), "axis"))
    for x, (value, y, hollow) in zip(xs, points, strict=True):
        kind = "before" if hollow else "after"
        told = f"<title>{brief(value)}: {escape(form(y))}</title>"
        body.append(f'<g>{told}<circle cx="{across(x):.2f}%" cy="{up(y):.1f}" r="4" class="dot {kind}"/></g>')
    return svg(height, body, title)


def _decades(low: float, high: float) -> list[tuple[float, float]]:
    """(logarithm, value) of round numbers between two logarithms: 1, 2, 5, 10, …, or powers of ten alone where they are many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [(math.log10(n) + e, n * 10.0**e) for e in powers for n in ((1,) if high - low > 2.5 else (1, 2, 5))]
    return [(t, v) for t, v in found if low <= t <= high]


def brief(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


# ---------------------------------------------------------------------------------------------------------------- matrices


def shade(value: float | None, low: float, high: float, power: float = 1.0) -> int | None:
    """0 (lowest) to SHADES - 1 (highest); None for no value. With `power` 2 the low values get most of the shades."""
    if value is None:
        return None
    return min(int(SHADES * max((value - low) / ((high - low) or 1.0), 0) ** (1 / power)), SHADES - 1)


def heat(shades: Sequence[Sequence[int | None]], title: str, name: str) -> Markup:
    """A large matrix of shades (rows downwards), one path per shade; the page's script tells the cell under the pointer (`data-matrix`)."""
    paths: dict[int, list[str]] = {}
    for i, row in enumerate(shades):
        for j, s in enumerate(row):
            if s is not None:
                paths.setdefault(s, []).append(f"M{j} {i}h1v1h-1z")
    body = "".join(f'<path class="s{s}" d="{"".join(d)}"/>' for s, d in sorted(paths.items()))
    size = f'viewBox="0 0 {max(map(len, shades))} {len(shades)}"'
    start = f'<svg class="heat" role="img" aria-label="{escape(visible(title))}" data-matrix="{escape(name)}" {size}'
    return Markup(f'{start} shape-rendering="crispEdges">{body}</svg>')


def legend_numbers(low: float, high: float, power: float, metric: str, digits: int) -> list[str]:
    """The lower bound of each shade, and the upper bound of the last."""
    return [number(low + (high - low) * (i / SHADES) ** power, metric, digits) for i in range(SHADES + 1)]
