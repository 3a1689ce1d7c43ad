"""Sections that are matrices of languages by languages: reward transfer, consistency, language confusion.

Small matrices are tables with their numbers, large ones pictures; both say their range. A section is None where there is nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.evidence import figures, headline
from mlalign.evidence.cells import cell, lang_cell, tabled
from mlalign.evidence.text import language, metric_name, number

Section = dict[str, Any]
SMALL_MATRIX = 16  # columns that fit as a table with numbers
UNKNOWN = "unknown"  # in the place of a detected language


def transfer(content: Mapping, digits: int) -> Section | None:
    """The source x target matrices: one source as a plot with intervals, few as a table with numbers, many as a picture."""
    return {"matrices": [_matrix(content, m, i, digits) for i, m in enumerate(content["matrices"])]} if content["matrices"] else None


def _matrix(content: Mapping, matrix: Mapping, index: int, digits: int) -> dict[str, Any]:
    metric, name = matrix["metric"], metric_name(matrix["metric"])
    out = {"name": name, "step": matrix["step"], "sources": len(matrix["sources"]), "targets": len(matrix["targets"])}
    if len(matrix["sources"]) == 1:
        rows = {r["language"]: r for r in content["metrics"] if (r["step"], r["metric"]) == (matrix["step"], metric)}
        lines = headline.plot_rows({}, rows)
        draw = figures.ranks_plot if len(lines) > headline.MANY else figures.languages_plot
        drawn = draw(lines if draw is figures.ranks_plot else lines[::-1], name, headline.axis(metric, digits), headline.reference(metric))
        return {**out, "plot": drawn, "source": matrix["sources"][0]}
    known = [v for row in matrix["values"] for v in row if v is not None]
    told = heat(matrix["values"], matrix["sources"], matrix["targets"], metric, f"matrix-{index}", digits, (min(known), max(known)))
    return {**out, **told, "means": _means(matrix["values"], matrix["sources"], matrix["targets"], metric, digits)}


def heat(
    values: Sequence[Sequence], sources: Sequence[str], targets: Sequence[str], metric: str, name: str, digits: int,
    spread: tuple[float, float], power: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """A matrix with shaded cells over a range: with its numbers where it is small, else a picture and the data to read it."""
    low, high = spread
    told = {"legend": figures.legend_numbers(low, high, power, metric, digits), "rows": sources, "columns": targets}
    shades = [[figures.shade(v, low, high, power) for v in row] for row in values]
    if len(targets) <= SMALL_MATRIX:
        lines = zip(sources, values, shades, strict=True)
        cells = [
            (s, [cell("" if v is None else number(v, metric, digits), shade=c) for v, c in zip(vs, cs, strict=True)]) for s, vs, cs in lines
        ]
        return {**told, "cells": cells}
    title = f"{metric_name(metric)}: {len(sources)} by {len(targets)}, from {number(low, metric, digits)} to {number(high, metric, digits)}"
    data = {"rows": [language(s) for s in sources], "columns": [language(t) for t in targets], "values": values}
    return {**told, "heat": figures.heat(shades, title, name), "data": data, "id": name}


def _means(values: Sequence[Sequence], sources: Sequence[str], targets: Sequence[str], metric: str, digits: int) -> dict[str, Any] | None:
    down = dict(zip(targets, zip(*values, strict=True), strict=True))
    across = dict(zip(sources, values, strict=True))

    def mean(found: Sequence | None) -> dict[str, Any]:
        known = [v for v in found or () if v is not None]
        value = sum(known) / len(known) if known else None
        return cell(number(value, metric, digits) if known else "", value)

    codes = dict.fromkeys([*sources, *targets])
    return tabled(["language", "mean as source", "mean as target"], [[lang_cell(c), mean(across.get(c)), mean(down.get(c))] for c in codes])


def consistency(content: Mapping, digits: int) -> Section | None:
    """How often two languages are right or wrong together: languages by languages, for the first and the last evaluation, on one scale."""
    told = [c for c in content["consistency"] if len(c["languages"]) > 1]
    shown = told if len(told) == 1 else [*told[:1], *told[-1:]]
    values = [[[None if a == b else v for b, v in enumerate(row)] for a, row in enumerate(c["values"])] for c in shown]
    known = [v for matrix in values for row in matrix for v in row if v is not None]
    if not known:
        return None
    matrices = []
    for i, (found, matrix) in enumerate(zip(shown, values, strict=True)):
        codes = found["languages"]
        drawn = heat(matrix, codes, codes, "consistency", f"consistency-{i}", digits, (min(known), max(known)))
        matrices.append({"model": headline.label_of(content, found["step"]), **drawn})
    return {"matrices": matrices}


def confusion(content: Mapping, digits: int) -> Section | None:
    """How often the requested language was answered, and what came in its place."""
    order = {e["step"]: i for i, e in enumerate(content["evaluations"])}
    told = sorted((t for t in content["confusion"] if set(t["detected"]) != {UNKNOWN}), key=lambda t: order.get(t["step"], len(order)))
    if not told:
        return None
    names = [headline.label_of(content, t["step"]) for t in told]
    codes = list(dict.fromkeys(c for t in told for c in t["asked"]))
    rows = [[lang_cell(c), *(_right(t, c) for t in told), cell(_others(told[-1], c))] for c in codes]
    head = ["asked for", *(f"answered in it: {name}" for name in names), f"most frequent others: {names[-1]}"]
    pairs = list(zip(names, told, strict=True))
    first_last = pairs if len(pairs) == 1 else [pairs[0], pairs[-1]]
    return {"table": tabled(head, rows), "matrices": [{"model": n, **_crossed(t, i, digits)} for i, (n, t) in enumerate(first_last)]}


def _shares(told: Mapping, code: str) -> dict[str, float]:
    """detected -> its share of the answers for which `code` was asked."""
    if code not in told["asked"]:
        return {}
    counts = told["counts"][told["asked"].index(code)]
    return {d: n / sum(counts) for d, n in zip(told["detected"], counts, strict=True) if n}


def _right(told: Mapping, code: str) -> dict[str, Any]:
    shares = _shares(told, code)
    return cell(f"{shares.get(code, 0):.1%}", shares.get(code, 0)) if shares else cell("")


def _others(told: Mapping, code: str) -> str:
    others = sorted(((s, d) for d, s in _shares(told, code).items() if d != code), reverse=True)[:3]
    return ", ".join(f"{language(d)} {s:.1%}" for s, d in others)


def _crossed(told: Mapping, index: int, digits: int) -> dict[str, Any]:
    """Rows asked, columns answered, in percent of the row; languages that nobody asked for are one column."""
    asked = told["asked"]
    rows = [_shares(told, code) for code in asked]
    extra = [d for d in told["detected"] if d not in asked and d != UNKNOWN]
    columns = [*asked, *(["other"] if extra else []), UNKNOWN]
    values = [[*(r.get(c) for c in asked), *([sum(r.get(d, 0) for d in extra) or None] if extra else []), r.get(UNKNOWN)] for r in rows]
    return heat(values, asked, columns, "adherence", f"confusion-{index}", digits, (0, 1), power=2)
