"""Rows in, rows with scores out: what every command that scores does, one window of rows at a time.

A row's new columns are `score` (`scores` for a row of responses; `score_chosen` and `score_rejected` for a pair), and under the same
forms of name what else the scorer tells: its columns, flags, texts, and `detected`.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import reward_models
from mlalign.errors import UserError
from reward_models import files, items
from reward_models.items import Item, Scores
from reward_models.jobs.survey import Entry

COLUMNS = ("prompt", "response", "responses", "messages", "chosen", "rejected", "language", "reference", "id")
UNUSUAL = frozenset(
    ("responses", "messages", "chosen", "rejected", "reference", "english_prompt", "response_lang_requested", "prompt_lang")
)
EXAMPLES = 3  # rows without a score that a window names


def scored(scorer: "reward_models.Scorer", rows: Iterable[tuple[str, dict]], counts: Counter) -> Iterator[dict]:
    """The rows with the columns of their scores, in order; `rows` are (place, row) as `files.read` gives them.

    `counts` gets `rows`, `answers`, `without a score` and every flag.
    """
    for window in files.windows(rows):
        per_row = [items.of_row(row, where) for where, row in window]
        found = _finite(scorer.score_items([item for row_items in per_row for item in row_items]))
        counts.update({"rows": len(window), "answers": len(found.values), "without a score": sum(v is None for v in found.values)})
        counts.update({name: sum(flag) for name, flag in found.flags.items()})
        told = _told(found, "score")
        first = 0
        for (_, row), row_items in zip(window, per_row, strict=True):
            yield {**row, **_columns(_shape(row), told, first, len(row_items))}
            first += len(row_items)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How rows are read: under which names their columns stand, and the language of those that name none."""

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # {prompt: question}
    language: str | None = None
    _languages: set = dataclasses.field(default_factory=lambda: {None}, compare=False, repr=False)  # codes known to be good

    def view(self, row: Mapping) -> Mapping:
        """The row as `items.of_row` wants it."""
        if not self.columns and self.language is None:
            return row
        out = {**row, **{name: row.get(column) for name, column in self.columns.items()}}
        nameless = self.language is not None and not any(out.get(name) for name in items.LANGUAGE_COLUMNS)
        return {**out, "language": self.language} if nameless else out

    def check(self, entry: Entry) -> None:
        """Raises: UserError for a bad row. Plain rows, which most are, are seen to be good at a glance."""
        row = self.view(entry.row or {})
        language = row.get("language")
        plain = type(row.get("prompt")) is str and row["prompt"] and type(row.get("response")) is str and UNUSUAL.isdisjoint(row)
        if not plain or not isinstance(language, str | None) or language not in self._languages:
            self.items(entry)
            self._languages.update([language] if isinstance(language, str) else [])

    def items(self, entry: Entry) -> list[Item]:
        """The items of an entry that is a row. Raises: UserError for a bad row."""
        assert entry.row is not None
        row, where = self.view(entry.row), entry.where
        if not isinstance(row.get("responses"), list | None):
            raise UserError(f"{where}: responses: expected a list, got {type(row['responses']).__name__}")
        if not row.get("id"):
            row = {**row, "id": entry.name}
        try:
            return items.of_row(row, where)
        except UserError as error:
            missing = [f"--{n}-column {c}" for n, c in self.columns.items() if row.get(n) is None]
            raise UserError(*error.messages, *([f"{where}: has nothing under {', '.join(missing)}"] if missing else [])) from None


@dataclasses.dataclass
class Window:
    """The new columns of a window's rows (None for a row that cannot be read), and what there is to count."""

    columns: list[dict | None]
    counts: dict[str, Any]


def of_window(scorer: "reward_models.Scorer", entries: Sequence[Entry], reading: Reading, name: str = "score") -> Window:
    """Score the entries of a window. `name` is what the column of scores is called.

    Raises: UserError if a row has a value under such a name already: it would be lost.
    """
    per_row = [_items(entry, reading) for entry in entries]
    flat = [item for row_items in per_row if row_items for item in row_items]
    found = _finite(scorer.score_items(_own_rows(per_row, flat))) if flat else Scores([])
    told = _told(found, name)
    out: list[dict | None] = []
    first = replaced = 0
    for entry, row_items in zip(entries, per_row, strict=True):
        if row_items is None or entry.row is None:
            out.append(None)
            continue
        columns = _columns(_shape(reading.view(entry.row)), told, first, len(row_items), name)
        if not columns.keys().isdisjoint(entry.row):
            _check_free(entry, columns)
            replaced += 1
        out.append(columns)
        first += len(row_items)
    return Window(out, _counts(per_row, flat, found, entries) | {"replaced": replaced})


def _items(entry: Entry, reading: Reading) -> list[Item] | None:
    if entry.row is None:
        return None
    try:
        return reading.items(entry)
    except UserError:  # counted, and put aside, by the survey
        return None


def _own_rows(per_row: Sequence[Sequence[Item] | None], flat: list[Item]) -> list[Item]:
    """The items; rows that share an id (translations, say) are told apart, because answers are compared within a row."""
    seen = Counter(row_items[0].row for row_items in per_row if row_items)
    if len(seen) == sum(seen.values()):
        return flat
    return [
        dataclasses.replace(item, row=f"{item.row}#{i}") if seen[item.row] > 1 else item
        for i, row_items in enumerate(per_row) for item in row_items or ()
    ]  # fmt: skip


def _check_free(entry: Entry, columns: Mapping) -> None:
    """Raises: UserError if a column that the row has would be lost; one that is null is only waiting for its value."""
    row = entry.row or {}
    if names := [repr(name) for name in columns if row.get(name) is not None]:
        raise UserError(
            f"{entry.where}: has a column {', '.join(names)} already, which would be lost; call the new ones otherwise with --column NAME"
        )


def _finite(found: Scores) -> Scores:
    """The scores with None and the flag `not_finite` for NaN and infinities, should a scorer give them."""
    bad = [v is not None and not math.isfinite(v) for v in found.values]
    columns = {name: [v if v is None or math.isfinite(v) else None for v in values] for name, values in found.columns.items()}
    if not any(bad):
        return dataclasses.replace(found, columns=columns) if columns else found
    flag = [a or b for a, b in zip(bad, found.flags.get("not_finite", bad), strict=True)]
    values = [None if b else v for v, b in zip(found.values, bad, strict=True)]
    return dataclasses.replace(found, values=values, columns=columns, flags={**found.flags, "not_finite": flag})


def _told(found: Scores, name: str) -> dict[str, Sequence]:
    """Column -> a value per item."""
    further: dict[str, Sequence] = {
        **found.columns,
        **found.flags,
        **found.texts,
        **({"detected": found.detected} if found.detected is not None else {}),
    }
    return {name: found.values} | (further if name == "score" else {f"{name}.{n}": values for n, values in further.items()})


def _shape(row: Mapping) -> str:
    """Which of the shapes `items.of_row` takes a row for."""
    if row.get("messages"):
        return "one"
    if row.get("chosen") is not None and row.get("rejected") is not None:
        return "pair"
    return "many" if row.get("responses") is not None else "one"


def _columns(shape: str, told: Mapping[str, Sequence], first: int, n: int, name: str = "score") -> dict[str, Any]:
    if shape == "one":
        return {column: values[first] for column, values in told.items()}
    if shape == "pair":
        return {f"{column}_{side}": values[first + i] for column, values in told.items() for i, side in enumerate(("chosen", "rejected"))}
    return {"scores" if column == name == "score" else column: list(values[first : first + n]) for column, values in told.items()}


def _counts(per_row: Sequence[Sequence[Item] | None], flat: Sequence[Item], found: Scores, entries: Sequence[Entry]) -> dict[str, Any]:
    """`rows`, `answers`, `without a score`, `tokens`, every flag; the same by language; the first places without a score."""
    marks = {"without a score": [v is None for v in found.values], **found.flags}
    languages: dict[str, Counter] = {}
    for code, n in Counter(item.language or "" for item in flat).items():
        languages[code] = Counter(answers=n)
    for name, values in marks.items():
        for item, value in zip(flat, values, strict=True):
            if value:
                languages[item.language or ""][name] += 1
    counts: dict[str, Any] = {"rows": sum(row_items is not None for row_items in per_row), "answers": len(flat)}
    counts |= {name: sum(values) for name, values in marks.items()} | {"tokens": found.tokens}
    return counts | {
        "languages": {code: dict(by) for code, by in sorted(languages.items())},
        "examples": _examples(per_row, found, entries),
    }


def _examples(per_row: Sequence[Sequence[Item] | None], found: Scores, entries: Sequence[Entry]) -> list[str]:
    """`rows.jsonl:17 (not_finite)` for the first rows in which an answer has no score."""
    out: list[str] = []
    first = 0
    for entry, row_items in zip(entries, per_row, strict=True):
        here = range(first, first + len(row_items or ()))
        without = [i for i in here if found.values[i] is None]
        if without and len(out) < EXAMPLES:
            why = [name for name, values in found.flags.items() if any(values[i] for i in without)]
            out.append(entry.where + (f" ({', '.join(why)})" if why else ""))
        first = here.stop
    return out
