"""Files of rows as people have them, by their ending, every row with its place for messages.

JSONL (also gzipped) and Parquet are streamed. JSON arrays, CSV and TSV are read as `mlalign
prepare` reads them, and held in memory.
"""

import base64
import bisect
import contextlib
import datetime
import gzip
import itertools
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from mlalign.core import json_text
from mlalign.core.conversations.reader import NEEDED
from mlalign.core.durable import whole
from mlalign.core.errors import UserError

WINDOW = 1024  # rows in memory
# What is taken out of a folder; files of other kinds may hold anything.
STREAMED = (".jsonl", ".jsonl.gz", ".parquet")
HELD = (".json", ".csv", ".tsv")
ENDINGS = (*STREAMED, *HELD)
BOM = b"\xef\xbb\xbf"
HALF_A_PAIR = "has half of a surrogate pair (\\ud8…), which is no text"
T = TypeVar("T")


def read(path: Path) -> Iterator[tuple[str, dict]]:
    """(place, row) for every row of a file.

    The place (`FILE:LINE`, `FILE: row N`) names the row in messages.

    Raises: UserError for a missing file, another ending, a broken line.
    """
    check(path)
    return _read_table(path) if is_table(path) else _read_jsonl(path)


def check(path: Path) -> None:
    """Raises: UserError if a file has another ending or is not there."""
    if not path.name.endswith(ENDINGS):
        endings = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        raise UserError(f"{path}: expected a name ending in {endings}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")


def expand(texts: Sequence[str]) -> list[Path]:
    """The files that paths, glob patterns and folders stand for.

    A folder stands for its files of rows, by name.

    Raises: UserError with every path that stands for none.
    """
    paths: list[Path] = []
    mistakes: list[str] = []
    for text in texts:
        try:
            paths += _expand(text)
        except UserError as error:
            mistakes += error.messages
    if mistakes:
        raise UserError(*mistakes)
    return list(dict.fromkeys(paths))


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        return _of_folder(path)
    paths = [path]
    if any(character in text for character in "*?[") and not path.exists():
        paths = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not paths:
            raise UserError(f"{text}: no file has a name like this")
    for file in paths:
        check(file)
    return paths


def _of_folder(folder: Path) -> list[Path]:
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    paths = sorted(path for path in visible if path.name.endswith(STREAMED))
    if not paths:
        problem = f"a folder without files ending in {', '.join(STREAMED)}"
        raise UserError(f"{folder}: {problem}; name files of another kind one by one")
    return paths


def is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def is_table(path: Path) -> bool:
    """Whether a file is read by the numbers of rows, and not by the bytes of lines."""
    return not path.name.endswith((".jsonl", ".jsonl.gz"))


def windows(rows: Iterable[T], size: int = WINDOW) -> Iterator[list[T]]:
    """The rows in lists of `size`; the last may be shorter."""
    iterator = iter(rows)
    while window := list(itertools.islice(iterator, size)):
        yield window


# -------------------------------------------------------------------------------------------- JSONL


def open_jsonl(path: Path) -> IO[bytes]:
    """A JSONL file as bytes, unzipped."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return open(path, "rb")


@contextlib.contextmanager
def whole_gzip(path: Path) -> Iterator[None]:
    """Raises: UserError where a gzipped file that is read in this block is broken."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: is not a whole gzip file ({error})") from None


def parse(line: bytes) -> dict | None:
    """The row in a line of JSONL; None for an empty line.

    Raises: ValueError that says what is wrong with it.
    """
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    if not text:
        return None
    row = json_text.load(text)
    if not json_text.is_text(row, text):
        raise ValueError(HALF_A_PAIR)
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with {NEEDED}")
    return row


def check_lines(path: Path, first: bytes) -> None:
    """Raises: UserError if the first line of a file begins an array and is not a row."""
    if first.removeprefix(BOM).strip() == b"[":
        raise UserError(f"{path}: is a JSON array, and no row a line; give it the ending .json")


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict]]:
    with whole_gzip(path), open_jsonl(path) as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                check_lines(path, line)
            try:
                row = parse(line.removeprefix(BOM))
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}") from None
            if row is not None:
                yield f"{path}:{number}", row


def to_json(row: Any) -> str:
    """A row as strict JSON.

    Dates and times are written in ISO 8601, bytes in base64, decimals as strings, NaN and
    infinities as null.
    """
    try:
        return STRICT.encode(row)
    except ValueError:
        return STRICT.encode(_without_nan(row))


def _plain(value: Any) -> Any:
    """What stands in JSON for a value that only Parquet knows."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(own) for own in value]
    is_nan = isinstance(value, float) and not math.isfinite(value)
    return None if is_nan else value


# ------------------------------------------------------------------------------------------ Parquet


class Parquet:
    """A Parquet file read from front to back in pieces of any size.

    Memory holds about one piece, whatever the size of the file's row groups.
    """

    def __init__(self, path: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16)
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise _broken_parquet(path, error) from None
        metadata = self._file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        self.path = path
        self.schema = self._file.schema_arrow
        self.n_rows = metadata.num_rows
        self.n_bytes = sum(group.total_byte_size for group in groups)  # encoded, not compressed
        self._ends = list(itertools.accumulate(group.num_rows for group in groups))
        # The rows [at, next_row) are held in memory.
        self._at = self._next_row = 0
        self._held = self.schema.empty_table()
        self._batches: Iterator | None = None

    def table(self, start: int, n: int) -> Any:
        """Rows [start, start + n) as an Arrow table. Raises: UserError if the file is broken."""
        import pyarrow as pa

        is_ahead = self._group(start) > self._group(self._next_row)
        if self._batches is None or start < self._at or is_ahead:
            self._open(self._group(start), n)
        while self._next_row < start + n:
            self._drop(start)
            batch = pa.Table.from_batches([self._batch()], schema=self.schema)
            self._held = pa.concat_tables([self._held, batch])
        self._drop(start)
        pa.default_memory_pool().release_unused()  # what decoding needed goes back to the system
        return self._held.slice(0, n)

    def rows(self, start: int, n: int) -> list[dict]:
        """The same rows as dictionaries. Times in nanoseconds, which Python lacks, are text."""
        import pyarrow as pa

        table = self.table(start, n)
        for i, field in enumerate(table.schema):
            is_ns = getattr(field.type, "unit", None) == "ns"
            if is_ns and pa.types.is_temporal(field.type):
                table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
        return table.to_pylist()

    def _group(self, row: int) -> int:
        return bisect.bisect_right(self._ends, row)

    def _open(self, group: int, batch_size: int) -> None:
        groups = list(range(group, len(self._ends)))
        self._batches = self._file.iter_batches(
            batch_size=batch_size, row_groups=groups, use_threads=False
        )
        self._at = self._next_row = self._ends[group - 1] if group else 0
        self._held = self.schema.empty_table()

    def _drop(self, start: int) -> None:
        """Forget the rows before `start`."""
        n_before = min(max(start - self._at, 0), self._held.num_rows)
        self._at += n_before
        self._held = self._held.slice(n_before)

    def _batch(self) -> Any:
        import pyarrow as pa

        assert self._batches is not None
        try:
            batch = next(self._batches)
        except (pa.ArrowException, OSError) as error:
            raise _broken_parquet(self.path, error) from None
        self._next_row += batch.num_rows
        return batch


def _broken_parquet(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})")


class Held:
    """A JSON array, CSV or TSV in memory, with the part of `Parquet`'s interface that is used."""

    def __init__(self, path: Path):
        from mlalign.core import records, sources

        problems = sources.Problems()
        file = sources.find(sources.Source(path=str(path)))[0]
        self._rows = []
        for number, row in records.read(file, True, problems):
            try:
                to_json(row).encode()
            except UnicodeEncodeError:
                problems.add(f"{file.place(number)}: {HALF_A_PAIR}")
            self._rows.append(row)
        problems.raise_if_any()
        self.path = path
        self.n_rows = len(self._rows)
        self.n_bytes = path.stat().st_size

    def rows(self, start: int, n: int) -> list[dict]:
        """Rows [start, start + n)."""
        return self._rows[start : start + n]


def open_table(path: Path) -> "Parquet | Held":
    """A file that is read by the numbers of rows. Raises: UserError for a broken one."""
    return Parquet(path) if is_parquet(path) else Held(path)


def _read_table(path: Path) -> Iterator[tuple[str, dict]]:
    file = open_table(path)
    for start in range(0, file.n_rows, WINDOW):
        n = min(WINDOW, file.n_rows - start)
        for number, row in enumerate(file.rows(start, n), start + 1):
            yield f"{path}: row {number}", row


# ------------------------------------------------------------------------------------------ writing


def write(path: Path, rows: Iterable[dict]) -> None:
    """Write rows as JSONL or Parquet, the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        if is_parquet(path):
            _write_parquet(temporary, rows)
        else:
            with open(temporary, "w", encoding="utf-8") as f:
                f.writelines(to_json(row) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[dict]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for window in windows(rows):
            schema = writer.schema if writer else None
            table = pa.Table.from_pylist(window, schema=schema)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer:
            writer.close()
    if writer is None:
        pq.write_table(pa.table({}), path)
