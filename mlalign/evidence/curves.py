"""Figures of numbers along a line: training curves, and points of a sweep or a search.

Inline SVG as in `mlalign.evidence.figures`.
"""

import itertools
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from mlalign.evidence import figures


def curve(points: Sequence[Sequence[float]], title: str) -> Markup:
    """A line through (step, value) points: faint as measured, strong where smoothed."""
    height, left = 130, 15.0
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    of = _values_domain(ys)
    body = figures.levels(of, 3, figures.scale(of, height - 22, 6), left, 100, figures.brief)

    place = f'x="{left}%" y="6" width="{100 - left}%" height="{height - 28}"'
    body.append(f'<svg {place} viewBox="0 0 1000 1000" preserveAspectRatio="none">')
    up = figures.scale(of, 1000, 0)
    across = figures.scale((xs[0], xs[-1]), 0, 1000)
    for kind, values in (("raw", ys), ("smooth", _smooth(ys))):
        places = []
        for x, y in zip(xs, values, strict=True):
            places.append(f"{across(x):.0f},{up(y):.0f}")
        attributes = f'class="{kind}" vector-effect="non-scaling-stroke"'
        body.append(f'<polyline points="{" ".join(places)}" {attributes}/>')
    body.append("</svg>")

    body.append(figures.text(left, height - 6, f"step {xs[0]:g}", "tick"))
    body.append(figures.text(100, height - 6, f"{xs[-1]:g}", "tick", "end"))
    return figures.svg(height, body, title)


def _values_domain(values: Sequence[float]) -> tuple[float, float]:
    return figures.domain([(value, None, None) for value in values])


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred moving means, over about a sixth of the values."""
    reach = max(len(values) // 12, 1)
    means = []
    for i in range(len(values)):
        window = values[max(0, i - reach) : i + reach + 1]
        means.append(sum(window) / len(window))
    return means


def scatter(
    points: Sequence[tuple[float, float, bool]],
    title: str,
    form: figures.Format,
    *,
    log: bool,
    best: Callable[..., float] | None = None,
) -> Markup:
    """Points (x, y, hollow); `log` puts x on a logarithmic scale.

    With `best` (min or max), a line shows the best y so far along x; hollow points do not count.
    """
    height, left = 210, 12.0
    xs = [x for x, _, _ in points]
    if log:
        xs = [math.log10(x) for x in xs]
    of_x = _values_domain(xs)
    of_y = _values_domain([y for _, y, _ in points])
    across = figures.scale(of_x, left, 99)
    up = figures.scale(of_y, height - 26, 6)
    body = figures.levels(of_y, 4, up, left, 99, form)
    if log:
        marks = _decades(*of_x)
    else:
        marks = [(value, value) for value in figures.ticks(*of_x, 5)]
    for position, value in marks:
        body.append(
            figures.text(across(position), height - 6, figures.brief(value), "tick", "middle")
        )

    if best is not None:
        corners = [(across(x), up(y)) for x, y in _best_so_far(xs, points, best)]
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            body.append(figures.line(x0, y0, x1, y0, "axis"))
            body.append(figures.line(x1, y0, x1, y1, "axis"))
    for x, (value, y, hollow) in zip(xs, points, strict=True):
        kind = "before" if hollow else "after"
        title_ = f"<title>{figures.brief(value)}: {escape(form(y))}</title>"
        place = f'cx="{across(x):.2f}%" cy="{up(y):.1f}"'
        body.append(f'<g>{title_}<circle {place} r="4" class="dot {kind}"/></g>')
    return figures.svg(height, body, title)


def _best_so_far(
    xs: Sequence[float],
    points: Sequence[tuple[float, float, bool]],
    best: Callable[..., float],
) -> list[tuple[float, float]]:
    """(x, the best y up to there) from the first filled point on."""
    steps: list[tuple[float, float]] = []
    for x, (_, y, hollow) in zip(xs, points, strict=True):
        if hollow and not steps:
            continue
        so_far = steps[-1][1] if steps else y
        if not hollow:
            so_far = best(so_far, y)
        steps.append((x, so_far))
    return steps


def _decades(low: float, high: float) -> list[tuple[float, float]]:
    """(logarithm, value) of round numbers between two logarithms.

    1, 2, 5, 10, … or, over a wide range, only powers of ten.
    """
    factors = (1,) if high - low > 2.5 else (1, 2, 5)
    marks = []
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for factor in factors:
            logarithm = math.log10(factor) + exponent
            if low <= logarithm <= high:
                marks.append((logarithm, factor * 10.0**exponent))
    return marks
