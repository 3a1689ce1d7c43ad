"""Rows in, the columns of their scores out, one window of rows at a time.

A row's new columns are `score` (`scores` for a row of responses; `score_chosen` and
`score_rejected` for a pair). What else the scorer reports, its columns, flags, texts and
`detected`, gets names of the same form.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import reward_models
from mlalign.core import conversations, formats, resume
from mlalign.core.conversations import Row
from mlalign.core.errors import UserError
from reward_models import files, items
from reward_models.items import Item, Scores
from reward_models.jobs import survey
from reward_models.jobs.job import Job
from reward_models.jobs.progress import Progress
from reward_models.jobs.survey import Entry, Reader

COLUMNS = (
    "prompt",
    "response",
    "responses",
    "messages",
    "chosen",
    "rejected",
    "language",
    "reference",
    "id",
)
# Rows with one of these are looked at more closely.
UNUSUAL = frozenset(("reference", "english_prompt", "response_lang_requested", "prompt_lang"))
EXAMPLES = 3  # rows without a score that a window names


@dataclasses.dataclass(frozen=True)
class Reading:
    """How rows are read.

    columns    what their columns are called, {prompt: question}
    language   of rows that name none
    form       the published form that they are in
    column     what the column of scores is called
    reported   further columns that the scorer is known to write
    accept     raises for items that the scorer will refuse, so that all rows that cannot be scored
               are known before the first one is scored
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    language: str | None = None
    form: str = formats.ROWS
    column: str = "score"
    reported: Sequence[str] = ()
    accept: Callable[[Sequence[Item]], None] | None = None
    # Codes that are known to be good.
    _languages: set = dataclasses.field(default_factory=lambda: {None}, compare=False, repr=False)
    _written: dict[str, list[str]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    def view(self, entry: Entry) -> Mapping:
        """The row as `items.of_row` wants it.

        Raises: UserError for a record that is not in the form.
        """
        row: Mapping = entry.row or {}
        if self.form != formats.ROWS:
            row = {**row, **self._converted(entry, row)}
        if not self.columns and self.language is None:
            return row
        values = {name: row.get(column) for name, column in self.columns.items()}
        view = conversations.named(row, values)
        names_language = any(view.get(name) for name in items.LANGUAGE_COLUMNS)
        if self.language is None or names_language:
            return view
        return {**view, "language": self.language}

    def _converted(self, entry: Entry, row: Mapping) -> dict:
        try:
            return formats.as_row(self.form, entry.source.path, entry.where, row)
        except conversations.Dropped as drop:
            raise UserError(f"{entry.where}: {drop}") from None

    def check(self, entry: Entry) -> None:
        """Raises: UserError for a row that cannot be scored.

        A glance is enough for plain rows, which most are.
        """
        row = self.view(entry)
        language = row.get("language")
        is_known = isinstance(language, str | None) and language in self._languages
        if is_known and conversations.is_plain(row) and UNUSUAL.isdisjoint(row):
            _check_free(entry, self.written("one"))
            if self.accept is None:
                return
        read, own = self.items(entry)
        _check_free(entry, self.written(read.shape))
        if self.accept is not None:
            try:
                self.accept(own)
            except UserError as error:
                messages = [f"{entry.where}: {message}" for message in error.messages]
                raise UserError(*messages) from None
        if isinstance(language, str):
            self._languages.add(language)

    def written(self, shape: str) -> list[str]:
        """The columns that a row of this shape is known to get."""
        if shape not in self._written:
            names: list[str] = []
            for column in (self.column, *self.reported):
                names += _names(shape, column, self.column)
            self._written[shape] = names
        return self._written[shape]

    def items(self, entry: Entry) -> tuple[Row, list[Item]]:
        """What an entry that is a row says, and its items. Raises: UserError for a bad row."""
        assert entry.row is not None
        row = self.view(entry)
        where = entry.where
        try:
            read = items.read_row(row, where)
            return read, items.of_row(row, where, read, entry.name)
        except UserError as error:
            messages = list(error.messages)
            empty = [name for name in self.columns if row.get(name) is None]
            if empty:
                options = [f"--{name}-column {self.columns[name]}" for name in empty]
                messages.append(f"{where}: has nothing under {', '.join(options)}")
            raise UserError(*messages) from None


@dataclasses.dataclass
class Window:
    """The new columns of a window's rows (None for a row that cannot be read), and counts."""

    columns: list[dict | None]
    counts: dict[str, Any]


def of_window(
    scorer: "reward_models.Scorer",
    entries: Sequence[Entry],
    reading: Reading,
    *,
    some_bad: bool = False,
) -> Window:
    """Score the entries of a window.

    `some_bad`: the survey has put rows of the input aside, which get no columns.

    Raises: UserError if a row has a value under such a name already: it would be lost.
    """
    read = [_read(entry, reading, some_bad) for entry in entries]
    items_of_rows = [own[1] if own else [] for own in read]
    flat = [item for row_items in items_of_rows for item in row_items]
    scores = Scores([])
    if flat:
        scores = _finite(scorer.score_items(_own_rows(items_of_rows, flat)))

    values = _values(scores, reading.column)
    columns_of_rows: list[dict | None] = []
    first = n_replaced = 0
    for entry, own in zip(entries, read, strict=True):
        if own is None or entry.row is None:
            columns_of_rows.append(None)
            continue
        row, row_items = own
        columns = _columns(row, values, first, len(row_items), reading.column)
        if not columns.keys().isdisjoint(entry.row):
            _check_free(entry, columns)
            n_replaced += 1
        columns_of_rows.append(columns)
        first += len(row_items)

    counts = {
        "rows": sum(own is not None for own in read),
        **_counts(flat, scores),
        "examples": _examples(items_of_rows, scores, entries),
        "replaced": n_replaced,
    }
    return Window(columns_of_rows, counts)


def keep_windows(
    scorer: "reward_models.Scorer",
    run: Job,
    reader: Reader,
    windows: Sequence[survey.Window],
    reading: Reading,
    progress: Progress,
    *,
    some_bad: bool = False,
) -> None:
    """Score windows of a run one by one, and keep what is finished."""
    with resume.Writer(run.units) as writer:
        for window in windows:
            result = of_window(scorer, reader.entries(window), reading, some_bad=some_bad)
            lines = "".join(f"{files.STRICT.encode(columns)}\n" for columns in result.columns)
            writer.add(window.key, lines.encode(), result.counts)
            progress.add(window.rows, result.counts["tokens"])


def _read(entry: Entry, reading: Reading, some_bad: bool) -> tuple[Row, list[Item]] | None:
    """What a row says; None for one that the survey has counted and put aside."""
    if entry.row is None:
        return None
    if not some_bad:
        return reading.items(entry)
    try:
        reading.check(entry)
    except UserError:
        return None
    return reading.items(entry)


def _own_rows(items_of_rows: Sequence[Sequence[Item]], flat: list[Item]) -> list[Item]:
    """The items, with a row id of its own for each row: answers are compared within a row.

    Rows may share an id, as translations do.
    """
    n_rows = Counter(row_items[0].row for row_items in items_of_rows if row_items)
    if n_rows.total() == len(n_rows):
        return flat
    own_items = []
    for i, row_items in enumerate(items_of_rows):
        for item in row_items:
            if n_rows[item.row] > 1:
                item = dataclasses.replace(item, row=f"{item.row}#{i}")  # noqa: PLW2901
            own_items.append(item)
    return own_items


def _check_free(entry: Entry, columns: Iterable[str]) -> None:
    """Raises: UserError if a column of the row would be lost; one that is null may be filled."""
    row = entry.row or {}
    names = [repr(name) for name in columns if row.get(name) is not None]
    if names:
        problem = f"has a column {', '.join(names)} already, which would be lost"
        mend = "call the new ones otherwise with --column NAME"
        raise UserError(f"{entry.where}: {problem}; {mend}")


def _finite(scores: Scores) -> Scores:
    """The scores with None for NaN and infinities, and the flag `not_finite` for such values."""
    columns = {name: list(map(_or_none, values)) for name, values in scores.columns.items()}
    values = list(map(_or_none, scores.values))
    pairs = zip(values, scores.values, strict=True)
    is_lost = [new is None and old is not None for new, old in pairs]
    if not any(is_lost):
        return dataclasses.replace(scores, columns=columns) if columns else scores
    already = scores.flags.get("not_finite", is_lost)
    flag = [lost or flagged for lost, flagged in zip(is_lost, already, strict=True)]
    flags = {**scores.flags, "not_finite": flag}
    return dataclasses.replace(scores, values=values, columns=columns, flags=flags)


def _or_none(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _values(scores: Scores, column: str) -> dict[str, Sequence]:
    """Column -> a value per item; `column` is that of the scores."""
    further: dict[str, Sequence] = {**scores.columns, **scores.flags, **scores.texts}
    if scores.detected is not None:
        further["detected"] = scores.detected
    prefix = "" if column == "score" else f"{column}."
    return {column: scores.values} | {f"{prefix}{name}": own for name, own in further.items()}


def _columns(
    row: Row, values: Mapping[str, Sequence], first: int, n: int, score: str
) -> dict[str, Any]:
    """The new columns of a row whose answers are the items [first, first + n).

    `values` has a value per item for each column, and `score` is the column of scores.
    """
    if row.shape == "one":
        return {column: own[first] for column, own in values.items()}
    columns: dict[str, Any] = {}
    for column, of_items in values.items():
        own = list(of_items[first : first + n])
        names = _names(row.shape, column, score)
        columns.update(zip(names, own if row.shape == "pair" else [own], strict=True))
    return columns if row.n_chosen is None else {**columns, "n_chosen": row.n_chosen}


def _names(shape: str, column: str, name: str) -> tuple[str, ...]:
    """What a column is called in a row of this shape; `name` is that of the scores."""
    if shape == "pair":
        return f"{column}_chosen", f"{column}_rejected"
    return ("scores" if shape == "many" and column == name == "score" else column,)


def _counts(flat: Sequence[Item], scores: Scores) -> dict[str, Any]:
    """`answers`, `without a score`, every flag, `tokens`; the same by language."""
    marks = {"without a score": [value is None for value in scores.values], **scores.flags}
    languages: dict[str, Counter] = {}
    for code, n in Counter(item.language or "" for item in flat).items():
        languages[code] = Counter(answers=n)
    for name, marked in marks.items():
        for item, is_marked in zip(flat, marked, strict=True):
            if is_marked:
                languages[item.language or ""][name] += 1
    return {
        "answers": len(flat),
        **{name: sum(marked) for name, marked in marks.items()},
        "tokens": scores.tokens,
        "languages": {code: dict(own) for code, own in sorted(languages.items())},
    }


def _examples(
    items_of_rows: Sequence[Sequence[Item]], scores: Scores, entries: Sequence[Entry]
) -> list[str]:
    """`rows.jsonl:17 (not_finite)` for the first rows in which an answer has no score."""
    examples: list[str] = []
    first = 0
    for entry, row_items in zip(entries, items_of_rows, strict=True):
        end = first + len(row_items)
        without = [i for i in range(first, end) if scores.values[i] is None]
        first = end
        if not without or len(examples) == EXAMPLES:
            continue
        flags = scores.flags.items()
        reasons = [name for name, marks in flags if any(marks[i] for i in without)]
        examples.append(f"{entry.where} ({', '.join(reasons)})" if reasons else entry.where)
    return examples
