"""The tables of a page: `{head, numeric, top, rows}`. `top` rows stay first when a reader sorts.

A cell is `{text, sort, …}`. Rows are sorted by `sort`; a column with a number is aligned right.
Optional keys: `note` (small print), `code` (a language code), `picture` (an SVG).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlalign.evidence import headline
from mlalign.evidence.text import change, count, is_language, language, number


def cell(text: Any, sort: Any = None, **more: Any) -> dict[str, Any]:
    return {"text": "" if text is None else str(text), "sort": sort, **more}


def tabled(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    top: Iterable[Sequence[Any]] = (),
) -> dict[str, Any] | None:
    """A table of cells, texts and numbers; None without rows."""
    top_cells = [list(map(_as_cell, row)) for row in top]
    row_cells = [list(map(_as_cell, row)) for row in rows]
    every_row = top_cells + row_cells
    if not every_row:
        return None

    numeric = []
    for column in range(len(head)):
        keys = [row[column]["sort"] for row in every_row]
        numeric.append(any(map(_is_number, keys)))
    return {
        "head": list(head),
        "numeric": numeric,
        "top": top_cells,
        "rows": row_cells,
    }


def _as_cell(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if _is_number(value):
        return cell(count(value), value)
    return cell(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def lang_cell(code: str) -> dict[str, Any]:
    name = language(code)
    return cell(name, name, code=code if is_language(code) else "")


def value_cell(row: Mapping | None, digits: int) -> dict[str, Any]:
    """The value of a row of metrics, with its interval as small print."""
    if row is None or row["value"] is None:
        return cell("")

    value, which = row["value"], row["which"]
    note = headline.interval(row, digits)
    if which:
        note += f", {language(which)}"
    text = number(value, row["metric"], digits)
    return cell(text, value, note=note)


def changed_cell(
    old: Mapping | None,
    new: Mapping | None,
    gain: Mapping | None,
    metric: str,
    digits: int,
) -> dict[str, Any]:
    """The paired difference with its interval if there is one, else the plain difference."""
    if old is None or new is None or None in (old["value"], new["value"]):
        return cell("")

    value = headline.difference(old, new, gain)
    note = headline.interval(gain, digits) if gain else ""
    return cell(headline.arrow(value) + change(value, metric, digits), value, note=note)
