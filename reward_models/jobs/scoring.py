"""Rows in, rows with scores out: what every command that scores does, one window of rows at a time.

A row's new columns are `score` (`scores` for a row of responses; `score_chosen` and
`score_rejected` for a pair), and under the same forms of name what else the scorer tells: its
columns, flags, texts, and `detected`.
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
UNUSUAL = frozenset(
    ("reference", "english_prompt", "response_lang_requested", "prompt_lang")
)  # looked at more closely, too
EXAMPLES = 3  # rows without a score that a window names


@dataclasses.dataclass(frozen=True)
class Reading:
    """How rows are read: under which names their columns stand, the language of those that name
    none, and the published form.

    `column` is what the column of scores is called, `told` what the scorer is known to write
    besides, and `accept` raises for items that the scorer will refuse: so all rows that cannot be
    scored are known before the first one is.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # {prompt: question}
    language: str | None = None
    form: str = formats.ROWS
    column: str = "score"
    told: Sequence[str] = ()
    accept: Callable[[Sequence[Item]], None] | None = None
    _languages: set = dataclasses.field(
        default_factory=lambda: {None}, compare=False, repr=False
    )  # codes known to be good
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
        out = conversations.named(
            row, {name: row.get(column) for name, column in self.columns.items()}
        )
        nameless = self.language is not None and not any(
            out.get(name) for name in items.LANGUAGE_COLUMNS
        )
        return {**out, "language": self.language} if nameless else out

    def _converted(self, entry: Entry, row: Mapping) -> dict:
        try:
            return formats.as_row(self.form, entry.source.path, entry.where, row)
        except conversations.Dropped as drop:
            raise UserError(f"{entry.where}: {drop}") from None

    def check(self, entry: Entry) -> None:
        """Raises: UserError for a row that cannot be scored.

        Plain rows, which most are, are seen to be good at a glance.
        """
        row = self.view(entry)
        language = row.get("language")
        known = isinstance(language, str | None) and language in self._languages
        if known and conversations.is_plain(row) and UNUSUAL.isdisjoint(row):
            _check_free(entry, self.written("one"))
            if self.accept is None:
                return
        read, own = self.items(entry)
        _check_free(entry, self.written(read.shape))
        if self.accept is not None:
            try:
                self.accept(own)
            except UserError as error:
                raise UserError(
                    *(f"{entry.where}: {message}" for message in error.messages)
                ) from None
        self._languages.update([language] if isinstance(language, str) else [])

    def written(self, shape: str) -> list[str]:
        """The columns that a row of this shape is known to get."""
        if shape not in self._written:
            columns = [self.column, *self.told]
            self._written[shape] = [
                name for column in columns for name in _names(shape, column, self.column)
            ]
        return self._written[shape]

    def items(self, entry: Entry) -> tuple[Row, list[Item]]:
        """What an entry that is a row says, and its items. Raises: UserError for a bad row."""
        assert entry.row is not None
        row, where = self.view(entry), entry.where
        try:
            read = items.read_row(row, where)
            return read, items.of_row(row, where, read, entry.name)
        except UserError as error:
            missing = [f"--{n}-column {c}" for n, c in self.columns.items() if row.get(n) is None]
            further = [f"{where}: has nothing under {', '.join(missing)}"] if missing else []
            raise UserError(*error.messages, *further) from None


@dataclasses.dataclass
class Window:
    """The new columns of a window's rows (None for a row that cannot be read), and what there is to
    count.
    """

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
    per_row = [own[1] if own else None for own in read]
    flat = [item for row_items in per_row if row_items for item in row_items]
    found = _finite(scorer.score_items(_own_rows(per_row, flat))) if flat else Scores([])
    told = _told(found, reading.column)
    out: list[dict | None] = []
    first = replaced = 0
    for entry, own in zip(entries, read, strict=True):
        if own is None or entry.row is None:
            out.append(None)
            continue
        row, row_items = own
        columns = _columns(row, told, first, len(row_items), reading.column)
        if not columns.keys().isdisjoint(entry.row):
            _check_free(entry, columns)
            replaced += 1
        out.append(columns)
        first += len(row_items)
    return Window(out, _counts(per_row, flat, found, entries) | {"replaced": replaced})


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


def _own_rows(per_row: Sequence[Sequence[Item] | None], flat: list[Item]) -> list[Item]:
    """The items; rows that share an id (translations, say) are told apart, because answers are
    compared within a row.
    """
    seen = Counter(row_items[0].row for row_items in per_row if row_items)
    if len(seen) == sum(seen.values()):
        return flat
    return [
        dataclasses.replace(item, row=f"{item.row}#{i}") if seen[item.row] > 1 else item
        for i, row_items in enumerate(per_row) for item in row_items or ()
    ]  # fmt: skip


def _check_free(entry: Entry, columns: Iterable[str]) -> None:
    """Raises: UserError if a column that the row has would be lost; one that is null is only
    waiting for its value.
    """
    row = entry.row or {}
    if names := [repr(name) for name in columns if row.get(name) is not None]:
        raise UserError(
            f"{entry.where}: has a column {', '.join(names)} already, which would be lost; call the"
            " new ones otherwise with --column NAME"
        )


def _finite(found: Scores) -> Scores:
    """The scores with None and the flag `not_finite` for NaN and infinities, should a scorer give
    them.
    """
    bad = [v is not None and not math.isfinite(v) for v in found.values]
    columns = {
        name: [v if v is None or math.isfinite(v) else None for v in values]
        for name, values in found.columns.items()
    }
    if not any(bad):
        return dataclasses.replace(found, columns=columns) if columns else found
    flag = [a or b for a, b in zip(bad, found.flags.get("not_finite", bad), strict=True)]
    values = [None if b else v for v, b in zip(found.values, bad, strict=True)]
    return dataclasses.replace(
        found, values=values, columns=columns, flags={**found.flags, "not_finite": flag}
    )


def _told(found: Scores, name: str) -> dict[str, Sequence]:
    """Column -> a value per item."""
    further: dict[str, Sequence] = {
        **found.columns,
        **found.flags,
        **found.texts,
        **({"detected": found.detected} if found.detected is not None else {}),
    }
    return {name: found.values} | (
        further if name == "score" else {f"{name}.{n}": values for n, values in further.items()}
    )


def _columns(
    row: Row, told: Mapping[str, Sequence], first: int, n: int, name: str = "score"
) -> dict[str, Any]:
    """The new columns of a row whose answers are the items [first, first + n); `told` has a value
    per item under each name.
    """
    if row.shape == "one":
        return {column: values[first] for column, values in told.items()}
    out: dict[str, Any] = {}
    for column, values in told.items():
        names = _names(row.shape, column, name)
        out.update(
            zip(
                names,
                (
                    values[first : first + n]
                    if row.shape == "pair"
                    else [list(values[first : first + n])]
                ),
                strict=True,
            )
        )
    return out if row.n_chosen is None else {**out, "n_chosen": row.n_chosen}


def _names(shape: str, column: str, name: str) -> tuple[str, ...]:
    """What a column is called in a row of this shape; `name` is that of the scores."""
    if shape == "pair":
        return f"{column}_chosen", f"{column}_rejected"
    return ("scores" if shape == "many" and column == name == "score" else column,)


def _counts(
    per_row: Sequence[Sequence[Item] | None],
    flat: Sequence[Item],
    found: Scores,
    entries: Sequence[Entry],
) -> dict[str, Any]:
    """`rows`, `answers`, `without a score`, `tokens`, every flag; the same by language; the first
    places without a score.
    """
    marks = {"without a score": [v is None for v in found.values], **found.flags}
    languages: dict[str, Counter] = {}
    for code, n in Counter(item.language or "" for item in flat).items():
        languages[code] = Counter(answers=n)
    for name, values in marks.items():
        for item, value in zip(flat, values, strict=True):
            if value:
                languages[item.language or ""][name] += 1
    counts: dict[str, Any] = {
        "rows": sum(row_items is not None for row_items in per_row),
        "answers": len(flat),
    }
    counts |= {name: sum(values) for name, values in marks.items()} | {"tokens": found.tokens}
    return counts | {
        "languages": {code: dict(by) for code, by in sorted(languages.items())},
        "examples": _examples(per_row, found, entries),
    }


def _examples(
    per_row: Sequence[Sequence[Item] | None], found: Scores, entries: Sequence[Entry]
) -> list[str]:
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
