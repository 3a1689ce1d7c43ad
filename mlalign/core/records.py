"""Reads the records of files and hub data sets as streams.

Memory holds one batch; of a JSON array the whole text.

Mistakes in the form of a file (not UTF-8, broken JSON, too few columns) go to `Problems` with file
and line, and reading goes on, so that a person sees all of them at once.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mlalign.core import json_text
from mlalign.core.sources import File, Problems, Source

COMMIT = re.compile(r"[0-9a-f]{40}")
BATCH = 1024  # rows of Parquet


def read(file: File, header: bool, problems: Problems) -> Iterator[tuple[int, Any]]:
    """(line or row number from 1, record) of every record.

    A record is a mapping, or of tables without a `header` a list of fields.
    """
    match file.format:
        case "jsonl":
            return _jsonl(file, problems)
        case "parquet":
            return _parquet(file, problems)
    return _table(file, header, problems)


def open_packed(path: Path) -> IO[bytes]:
    """A file as bytes, unpacked by its ending.

    Reading a broken file raises an OSError, EOFError or zlib.error.
    """
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return open(path, "rb")


def _lines(file: File, problems: Problems) -> Iterator[tuple[int, str]]:
    try:
        with open_packed(file.path) as stream:
            for number, raw in enumerate(stream, 1):
                encoding = (
                    "utf-8-sig" if number == 1 else "utf-8"
                )  # a byte order mark may come first
                try:
                    yield number, raw.decode(encoding)
                except UnicodeDecodeError as error:
                    problems.add(
                        f"{file.path}:{number}: not UTF-8 (byte {error.start + 1} of the line is"
                        f" 0x{raw[error.start]:02x});"
                        " convert the file: iconv -f ITS_ENCODING -t UTF-8"
                    )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problems.add(
            f"{file.path}: the gzip file is damaged or cut short ({error}); fetch it again"
        )
    except OSError as error:
        problems.add(f"{file.path}: cannot be read ({error.strerror or error})")


def _jsonl(file: File, problems: Problems) -> Iterator[tuple[int, dict]]:
    """The objects of a file: one a line, or those of a JSON array over several lines."""
    lines = _lines(file, problems)
    for number, line in lines:
        place = f"{file.path}:{number}"
        if not line.strip():
            continue
        if _begins_array(line):
            rest = "".join(text for _, text in lines)
            yield from _array(file, line + rest, number, problems)
            return
        try:
            record = json_text.load(line)
        except ValueError as error:
            if line.strip() == "{":
                problems.add(
                    f"{place}: is one object over several lines;"
                    " rows are an object a line, or an array [{…}, …]"
                )
                return
            problems.add(f"{place}: broken JSON ({error}); each line must hold one whole object")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            problems.add(
                f"{place}: expected an object {{…}}, found a {type(record).__name__};"
                " one object a line, please"
            )


def _begins_array(line: str) -> bool:
    """Whether a line begins an array of rows."""
    text = line.strip()
    return text == "[" or text.replace(" ", "").startswith("[{")


def _array(file: File, text: str, first: int, problems: Problems) -> Iterator[tuple[int, dict]]:
    try:
        for line, record in json_text.items(text):
            number = first + line - 1
            if isinstance(record, dict):
                yield number, record
            else:
                problems.add(
                    f"{file.path}:{number}: expected an object {{…}} in the array,"
                    f" found a {type(record).__name__}"
                )
    except ValueError as error:
        problems.add(f"{file.path}: the JSON array is broken: {error}")


def _table(file: File, header: bool, problems: Problems) -> Iterator[tuple[int, Any]]:
    rows = _tsv(file, problems) if file.format == "tsv" else _csv(file, problems)
    names: list[str] | None = None
    if header:
        _, names = next(rows, (0, []))
    for number, fields in rows:
        if names is None:
            yield number, fields
        elif len(fields) == len(names):
            yield number, dict(zip(names, fields, strict=True))
        else:
            problems.add(
                f"{file.path}:{number}: {len(fields)} columns, but the header has {len(names)}"
            )


def _tsv(file: File, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Fields between tabs; quotes have no meaning."""
    for number, line in _lines(file, problems):
        if line.strip():
            yield number, line.rstrip("\r\n").split("\t")


def _csv(file: File, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader((line for _, line in _lines(file, problems)), strict=True)
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            problems.add(
                f"{file.path}:{reader.line_num}: broken CSV ({error});"
                " a quote inside a quoted field is written twice"
            )
            return
        if fields is None:
            return
        if fields:
            yield reader.line_num, fields


def _parquet(file: File, problems: Problems) -> Iterator[tuple[int, dict]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file.path) as parquet:
            for batch in parquet.iter_batches(batch_size=BATCH):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        problems.add(
            f"{file.path}: cannot be read as Parquet after row {number} ({reason}); fetch it again"
        )


def _other_commit(records: Any, revision: str | None) -> str | None:
    """The commit of a loaded data set if it is not the one asked for.

    Without network, `datasets` silently takes the latest commit in its cache.
    """
    if not revision or not COMMIT.fullmatch(revision) or not records.cache_files:
        return None
    commit = Path(records.cache_files[0]["filename"]).parent.name
    if commit == revision or not COMMIT.fullmatch(commit):
        return None
    return commit


def read_hub(source: Source, problems: Problems) -> Iterator[tuple[int, dict]]:
    """The records of a hub data set, which is downloaded once and then read from the cache."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        records = load_dataset(
            source.hub, source.config, split=source.hub_split, revision=source.revision
        )
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError, ValueError) as error:
        reason = str(error).splitlines()[0]
        problems.add(
            f"hub {source.hub}: cannot be loaded ({reason});"
            " check hub, config, hub_split and revision, or, without network,"
            " bring it beforehand with `mlalign fetch`"
        )
        return

    other = _other_commit(records, source.revision)
    if other:
        problems.add(
            f"hub {source.hub}: without network only commit {other} can be had,"
            f" not {source.revision}; bring it with `mlalign fetch`"
        )
        return
    yield from enumerate(records, 1)
