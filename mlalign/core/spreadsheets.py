"""CSV that spreadsheets can open without harm: no cell is a formula. The one writer of all tables."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlalign.core.visible import visible

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """CSV text with a header. None becomes an empty field; keys that are no column are left out.

    A text that a spreadsheet would compute begins with an apostrophe: `=1+1` becomes `'=1+1`.
    Numbers stay numbers, also as text. Control characters are written out; line ends and tabs are
    spaces.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([neutral(column) for column in columns])
    writer.writerows([neutral(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def neutral(value: Any) -> Any:
    """A cell that no spreadsheet computes: `'@sum` for `@sum`; -0.5 and "-0.5" as they are."""
    if not isinstance(value, str):
        return value
    text = visible(" ".join(value.split("\r\n")).translate({9: " ", 10: " ", 13: " "}))
    return f"'{text}" if text.lstrip().startswith(FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
