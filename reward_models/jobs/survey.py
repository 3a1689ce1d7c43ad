"""The first look at an input: every row is checked, and the input is cut into windows.

That happens before a model is opened. A window is a run of rows of one file, as many as `--window`
says and at most WINDOW_BYTES. It is the unit of scoring, of resume and of sharing work. Where it
begins and ends depends on the files alone. Its key is the digest of its place and content, so
finished work is found by what it was computed from.
"""

import base64
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlalign.core.digests import signature
from mlalign.core.errors import UserError
from reward_models import files
from reward_models.jobs.identity import KNOWN

WINDOW_BYTES = 8 << 20
CHANGED = "{}: was changed while it was being scored; run the same command again"
NAMED = 10  # bad rows that an error shows


@dataclasses.dataclass(frozen=True)
class Source:
    """One input file.

    `name` stands for it in row ids: its file name, with its number where two files share one.
    """

    path: Path
    name: str

    def where(self, number: int) -> str:
        """The place of a row or line, for messages."""
        if files.is_table(self.path):
            return f"{self.path}: row {number}"
        return f"{self.path}:{number}"

    @property
    def stat(self) -> str | None:
        """A text that changes when the file is touched."""
        return signature(self.path)


@dataclasses.dataclass(frozen=True)
class Window:
    """Rows of file number `file`.

    JSONL: `size` bytes from byte `start`, beginning with line `first`.
    Tables: `size` rows from row `start`.
    `rows` counts rows, not empty lines.
    """

    file: int
    start: int
    size: int
    first: int
    rows: int
    key: str


class Entry(NamedTuple):
    """Row or line `number` of a file.

    What is no row has the problem, and in JSONL the line, instead.
    """

    source: Source
    number: int
    row: dict | None
    line: bytes | None = None
    problem: UserError | None = None

    @property
    def where(self) -> str:
        """Its place, for messages."""
        return self.source.where(self.number)

    @property
    def name(self) -> str:
        """A name in the place of an id, the same wherever the file lies."""
        return f"{self.source.name}:{self.number}"

    def content(self) -> dict:
        """The row, or the line as text, or as base64 where it is none: nothing is lost."""
        if self.row is not None:
            return {"row": self.row}
        assert self.line is not None
        try:
            return {"line": self.line.decode("utf-8")}
        except UnicodeDecodeError:
            return {"line_base64": base64.b64encode(self.line).decode()}


Check = Callable[[Entry], Any]


@dataclasses.dataclass(frozen=True)
class Survey:
    """What is known of all input files.

    `files` has an entry {name, stat, sha256 (of JSONL: unzipped), rows} for each.
    """

    files: list[dict]
    windows: list[Window]
    rejected: int

    @property
    def rows(self) -> int:
        return sum(window.rows for window in self.windows)

    def to_dict(self) -> dict:
        windows = [list(dataclasses.astuple(window)) for window in self.windows]
        return {"files": self.files, "windows": windows, "rejected": self.rejected}

    @staticmethod
    def of_dict(value: dict) -> "Survey":
        windows = [Window(*fields) for fields in value["windows"]]
        return Survey(value["files"], windows, value["rejected"])


def sources(paths: Sequence[Path]) -> list[Source]:
    n_files = Counter(path.name for path in paths)
    inputs = []
    for i, path in enumerate(paths):
        name = path.name if n_files[path.name] == 1 else f"{i}/{path.name}"
        inputs.append(Source(path, name))
    return inputs


def take(
    inputs: Sequence[Source],
    n_rows: int,
    check: Check,
    reject: Callable[[dict], None] | None = None,
    tick: Callable[[int], None] = lambda rows: None,
) -> Survey:
    """Look at every row, and cut the input into windows of `n_rows` rows.

    `check(entry)` raises for a bad row. Bad rows go to `reject` as `{where, reason, row (or line)}`
    or, without it, are an error at the end. `tick` gets the number of rows that were looked at
    since its last call.

    Raises: UserError that names the first bad rows and counts the others; UserError for an input
        without a row.
    """
    surveyed: list[dict] = []
    windows: list[Window] = []
    bad = Bad(reject)
    for i, source in enumerate(inputs):
        digest = hashlib.sha256()
        n_of_file = 0
        for window, entries in _cut(i, source, n_rows, digest):
            for entry in entries:
                bad.note(entry, entry.problem or _problem(check, entry))
            if entries:
                windows.append(dataclasses.replace(window, rows=len(entries)))
            n_of_file += len(entries)
            tick(len(entries))
        sha256 = KNOWN.file(source.path) if files.is_table(source.path) else digest.hexdigest()
        facts = {"name": source.name, "stat": source.stat, "sha256": sha256, "rows": n_of_file}
        surveyed.append(facts)
    bad.end()
    if not windows:
        raise UserError(f"{', '.join(str(source.path) for source in inputs[:3])}: holds no rows")
    return Survey(surveyed, windows, bad.count)


class Bad:
    """The bad rows of an input: counted, and either put aside or an error."""

    def __init__(self, reject: Callable[[dict], None] | None):
        self.reject = reject
        self.count = 0
        self._messages: list[str] = []

    def note(self, entry: Entry, problem: UserError | None) -> None:
        if problem is None:
            return
        self.count += 1
        if self.reject:
            reason = "; ".join(problem.messages)
            self.reject({"where": entry.where, "reason": reason, **entry.content()})
        elif self.count <= NAMED:
            self._messages += problem.messages

    def end(self) -> None:
        if not self.count or self.reject:
            return
        messages = self._messages
        if self.count > NAMED:
            messages.append(f"… and {self.count - NAMED:,} further bad rows")
        mend = "mend them, or put them aside with --on-bad-row skip"
        raise UserError(*messages, f"{self.count:,} bad rows: {mend}")


def _problem(check: Check, entry: Entry) -> UserError | None:
    try:
        check(entry)
    except UserError as error:
        return error
    return None


def _cut(
    number: int, source: Source, n_rows: int, digest: Any
) -> Iterator[tuple[Window, list[Entry]]]:
    """The windows of a file, `rows` not counted yet, and what is in each.

    `digest` gets the content of JSONL.
    """
    if files.is_table(source.path):
        return _cut_table(number, source, n_rows)
    return _cut_jsonl(number, source, n_rows, digest)


def _cut_table(number: int, source: Source, n_rows: int) -> Iterator[tuple[Window, list[Entry]]]:
    file = files.open_table(source.path)
    size = max(1, min(n_rows, WINDOW_BYTES * file.n_rows // max(file.n_bytes, 1)))
    for start in range(0, file.n_rows, size):
        n = min(size, file.n_rows - start)
        window = Window(number, start, n, start + 1, 0, _table_key(source, start))
        yield window, _of_rows(source, window, file.rows(start, n))


def _table_key(source: Source, start: int) -> str:
    """The key of a window of a table: it depends on the whole file as it is now."""
    return _key(source, start, KNOWN.file(source.path).encode())


def _cut_jsonl(
    number: int, source: Source, n_rows: int, digest: Any
) -> Iterator[tuple[Window, list[Entry]]]:
    start = 0
    first = 1
    with files.whole_gzip(source.path), files.open_jsonl(source.path) as f:
        for lines in _runs(f, n_rows):
            if first == 1:
                files.check_lines(source.path, lines[0])
            raw = b"".join(lines)
            digest.update(raw)
            window = Window(number, start, len(raw), first, 0, _key(source, first, raw))
            yield window, _of_lines(source, window, raw)
            start += len(raw)
            first += len(lines)


def _runs(f: Iterable[bytes], n_rows: int) -> Iterator[list[bytes]]:
    """The lines in runs of a window's size."""
    lines: list[bytes] = []
    size = 0
    for line in f:
        lines.append(line)
        size += len(line)
        if len(lines) == n_rows or size >= WINDOW_BYTES:
            yield lines
            lines = []
            size = 0
    if lines:
        yield lines


def _key(source: Source, first: int, content: bytes) -> str:
    return hashlib.sha256(f"{source.name}\n{first}\n".encode() + content).hexdigest()[:24]


def lines_of(window: Window, raw: bytes) -> list[tuple[int, bytes]]:
    """(number, line) of every line of a window that is not empty.

    Files that were joined have byte order marks within; they are left out.
    """
    lines = []
    for number, line in enumerate(raw.split(b"\n"), window.first):
        line = line.removeprefix(files.BOM)  # noqa: PLW2901
        if line.strip():
            lines.append((number, line))
    return lines


def _of_lines(source: Source, window: Window, raw: bytes) -> list[Entry]:
    entries = []
    for number, line in lines_of(window, raw):
        try:
            entries.append(Entry(source, number, files.parse(line)))
        except ValueError as error:
            problem = UserError(f"{source.where(number)}: {error}")
            entries.append(Entry(source, number, None, line, problem))
    return entries


def _of_rows(source: Source, window: Window, rows: Iterable[dict]) -> list[Entry]:
    return [Entry(source, number, row) for number, row in enumerate(rows, window.first)]


class Reader:
    """Reads windows of the input files again. One file is open at a time."""

    def __init__(self, inputs: Sequence[Source]):
        self._inputs = inputs
        self._number: int | None = None
        self._file: Any = None

    def entries(self, window: Window) -> list[Entry]:
        source = self._inputs[window.file]
        if files.is_table(source.path):
            rows = self._open(window).rows(window.start, window.size)
            self._check_table(window)
            return _of_rows(source, window, rows)
        return _of_lines(source, window, self.raw(window))

    def raw(self, window: Window) -> bytes:
        """The bytes of a window of JSONL.

        Raises: UserError if they are no longer those of the survey.
        """
        source = self._inputs[window.file]
        with files.whole_gzip(source.path):
            file = self._open(window)
            file.seek(window.start)
            raw: bytes = file.read(window.size)
        if _key(source, window.first, raw) != window.key:
            raise UserError(CHANGED.format(source.path))
        return raw

    def table(self, window: Window) -> Any:
        """A window of Parquet as an Arrow table.

        Raises: UserError if the file is no longer that of the survey.
        """
        table = self._open(window).table(window.start, window.size)
        self._check_table(window)
        return table

    def _check_table(self, window: Window) -> None:
        """After reading: the file was hashed before, and is only looked at here."""
        source = self._inputs[window.file]
        if _table_key(source, window.start) != window.key:
            raise UserError(CHANGED.format(source.path))

    def _open(self, window: Window) -> Any:
        if self._number != window.file:
            path = self._inputs[window.file].path
            self._file = files.open_table(path) if files.is_table(path) else files.open_jsonl(path)
            self._number = window.file
        return self._file
