"""The tables of a page: `{head, numeric, top, rows}` of cells; `top` rows stay in place when a reader sorts the others.

A cell is `{text, sort, …}`; `sort` is what it is sorted by (a number is set right), `note` small print, `code` a language code, `picture`
an SVG.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlalign.evidence import headline
from mlalign.evidence.text import change, count, is_language, language, number


def cell(text: Any, sort: Any = None, **more: Any) -> dict[str, Any]:
    return {"text": "" if text is None else str(text), "sort": sort, **more}


def tabled(head: Sequence[str], rows: Iterable[Sequence[Any]], top: Iterable[Sequence[Any]] = ()) -> dict[str, Any] | None:
    """A table whose plain cells are texts and numbers; None without rows."""

    def line(row: Sequence[Any]) -> list[dict]:
        return [v if isinstance(v, dict) else cell(count(v), v) if isinstance(v, int | float) else cell(v) for v in row]

    above, below = [line(r) for r in top], [line(r) for r in rows]
    numeric = [any(isinstance(r[i]["sort"], int | float) for r in [*above, *below]) for i in range(len(head))]
    return {"head": list(head), "numeric": numeric, "top": above, "rows": below} if above or below else None


def lang_cell(code: str) -> dict[str, Any]:
    name = language(code)
    return cell(name, name, code=code if is_language(code) else "")


def value_cell(row: Mapping | None, digits: int) -> dict[str, Any]:
    if row is None or row["value"] is None:
        return cell("", None)
    which = f", {language(row['which'])}" if row["which"] else ""
    return cell(number(row["value"], row["metric"], digits), row["value"], note=headline.interval(row, digits) + which)


def changed_cell(old: Mapping | None, new: Mapping | None, gain: Mapping | None, metric: str, digits: int) -> dict[str, Any]:
    """The paired difference with its interval where that was computed, else the difference of the two values."""
    if old is None or new is None or None in (old["value"], new["value"]):
        return cell("", None)
    value = headline.difference(old, new, gain)
    return cell(headline.arrow(value) + change(value, metric, digits), value, note=headline.interval(gain, digits) if gain else "")
