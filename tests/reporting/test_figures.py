"""Figures: well-formed SVG whose marks stand where the numbers say."""

from xml.etree import ElementTree

import pytest

from mlalign.evidence import curves, figures
from mlalign.evidence.text import number


def percent(value):
    return number(value, "accuracy", 2)


def parsed(svg):
    return ElementTree.fromstring(str(svg))


def test_ticks_are_round_and_inside():
    assert figures.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert figures.ticks(0.61, 0.79, 4) == [0.65, 0.7, 0.75]
    assert figures.ticks(3, 3) == [3]


def test_scale_and_domain():
    x = figures.scale((0, 2), 10, 30)
    assert [x(0), x(1), x(2), x(9)] == [10, 20, 30, 30]
    low, high = figures.domain([(0.5, 0.4, 0.6), None], reference=0.2)
    assert low == pytest.approx(0.2 - 0.016)
    assert high == pytest.approx(0.6 + 0.016)


def test_languages_plot_places_values():
    rows = [{"label": "<b>", "before": (0.0, None, None), "after": (1.0, 0.5, 1.0)}]
    root = parsed(figures.languages_plot(rows, "a & b", percent))
    circles = {c.get("class"): float(c.get("cx")[:-1]) for c in root.iter("circle")}
    x = figures.scale(figures.domain([(0.0, None, None), (1.0, 0.5, 1.0)]), 36, 97)
    assert circles == {
        "dot before": pytest.approx(x(0), abs=0.01),
        "dot after": pytest.approx(x(1), abs=0.01),
    }
    bar = next(line for line in root.iter("line") if line.get("class") == "bar after")
    assert float(bar.get("x1")[:-1]) == pytest.approx(x(0.5), abs=0.01)
    assert "<b>" in [t.text for t in root.iter("text")]
    assert root.get("aria-label") == "a & b"


def test_ranks_plot_has_a_column_per_language():
    rows = [{"label": f"l{i}", "before": None, "after": (i / 50, None, None)} for i in range(50)]
    root = parsed(figures.ranks_plot(rows, "t", percent))
    heights = [float(c.get("cy")) for c in root.iter("circle")]
    assert len(heights) == 50
    assert heights == sorted(heights, reverse=True)
    assert root.find("g/title").text == "l0: after 0%"


def test_ridges_draw_the_counts():
    row = {"label": "r", "counts": [1, 0, 2], "quantiles": [0, 1, 1.5, 2, 3]}
    bins = [r for r in parsed(figures.ridges([0, 1, 2, 3], [row], "t", str)).iter("rect")]
    assert [float(b.get("height")) for b in bins] == [23, 46]


def test_curve_and_box_and_meter_are_well_formed():
    assert (
        len(list(parsed(curves.curve([(1, 2.0), (2, 1.0), (3, 0.5)], "loss")).iter("polyline")))
        == 2
    )
    assert parsed(curves.curve([(1, 2.0), (2, 2.0)], "flat")) is not None
    assert parsed(figures.box([1, 2, 3, 4, 5], (0, 6))) is not None
    assert parsed(figures.meter(0.5))[1].get("width") == "36.0"


def test_shades():
    assert [figures.shade(v, 0, 1) for v in (None, 0, 0.5, 1)] == [None, 0, 4, 8]
    assert figures.shade(0.04, 0, 1, power=2) == 1  # 0.2 of the way up
    assert figures.shade(1, 1, 1) == 0
    assert figures.legend_numbers(0, 0.9, 1, "accuracy", 2)[1] == "10%"


def test_heat_groups_cells_by_shade():
    root = parsed(figures.heat([[0, 1, None], [1, 1, 8]], "t", "m"))
    assert {p.get("class"): p.get("d").count("M") for p in root} == {"s0": 1, "s1": 3, "s8": 1}
    assert root.get("viewBox") == "0 0 3 2"
