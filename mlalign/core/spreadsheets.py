"""CSV that is safe to open in a spreadsheet: no cell is a formula. All tables are written here."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlalign.core.visible import visible

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
SPACES = str.maketrans("\t\n\r", "   ")


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """CSV text with a header. None becomes an empty field; keys that are no column are left out.

    A text that a spreadsheet would compute gets an apostrophe: `=1+1` becomes `'=1+1`. Numbers stay
    numbers, also as text. Control characters are written out; line ends and tabs become spaces.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([neutral(column) for column in columns])
    for row in rows:
        writer.writerow([neutral(row.get(column)) for column in columns])
    return out.getvalue()


def neutral(value: Any) -> Any:
    """A cell that no spreadsheet computes: `'@sum` for `@sum`; -0.5 and "-0.5" as they are."""
    if not isinstance(value, str):
        return value
    one_line = value.replace("\r\n", " ").translate(SPACES)
    text = visible(one_line)
    is_formula = text.lstrip().startswith(FORMULA) and not _is_number(text)
    return f"'{text}" if is_formula else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
