"""Files and hub data sets as streams of records.

Reads JSONL, CSV, TSV (plain, .gz or .zst) and Parquet, and holds one batch; of a
JSON array it holds the text.

What is wrong with the form of a file (not UTF-8, broken JSON, too few columns) goes to `Problems`
with file and line, and reading goes on, so that a person sees all of it at once.
"""

import csv
import dataclasses
import gzip
import io
import re
import zlib
from collections.abc import Hashable, Iterator
from glob import glob
from pathlib import Path
from typing import IO, Any, Literal

from mlalign.core import json_text
from mlalign.core.errors import UserError
from mlalign.core.schema import what

ENDINGS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
PACKED = (".gz", ".zst")
WILDCARDS = re.compile(r"[*?]|\{lang\}")
SHOWN = 20
BATCH = 1024


@dataclasses.dataclass
class Source:
    """One place where rows come from."""

    path: str | None = what(
        None, "a file, a folder or a glob; {lang} in it stands for the language of the file"
    )
    hub: str | None = what(None, "instead of path: a data set on the Hugging Face hub, org/name")
    revision: str | None = what(None, "with hub: the commit or tag")
    config: str | None = what(None, "with hub: the configuration's name")
    hub_split: str = what("train", "with hub: the split to read")
    adapter: Literal["columns", "hh_rlhf", "xcopa", "mgsm", "rewardbench", "tiny_world"] = what(
        "columns", "how a record becomes a row"
    )
    options: dict[str, Any] = what({}, "tiny_world only: n, seed, mix, label_noise")
    format: Literal["jsonl", "csv", "tsv", "parquet"] | None = what(
        None, "by default what the file name's ending says"
    )
    columns: dict[str, Any] = what(
        {}, "our column -> theirs; dots reach into nested ones, whole numbers mean no header line"
    )
    parallel: bool = what(False, "line n of each language's file is the same item (gives group_id)")
    language: str | None = what(
        None,
        "the language of all rows; else a column (columns: {language: …}) or {lang} in the path",
    )
    languages: list[str] | None = what(None, "take only these languages from this source")
    split: Literal["train", "eval"] | None = what(
        None, "all rows belong to this split; else a column says, or a hash of the group"
    )
    source: str | None = what(
        None, "name of the source in the rows; by default the adapter's, hub id's or folder's"
    )
    origin: Literal["native", "human_translated", "machine_translated", "synthetic"] | None = what(
        None, "by default native, or what the adapter knows"
    )
    match: Literal["contains", "exact", "numeric"] = what(
        "contains", "how an answer is compared with a `reference` column"
    )
    licence: str | None = what(None, "goes into manifests and model cards")
    sensitive: bool = what(False, "keep this source's text out of reports and logs")
    weight: float = what(1.0, "chance of a row to survive sub-sampling, relative to other sources")
    max_rows: int | None = what(
        None, "read at most so many rows of each file (a quick trial); the others are not even read"
    )
    keep_empty_answers: bool | None = what(
        None, "an empty answer is an answer; by default only in transcripts (hh_rlhf)"
    )
    answers: str | None = what(
        None,
        "a file of {instruction, output}, with {lang} one for each language: the rows' references"
        " by prompt",
        added=True,
    )


class Problems:
    """Mistakes found while reading: the first ones as text, the others as a number."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.n = 0
        self._told: set[Hashable] = set()

    def add(self, message: str, once: Hashable = None) -> None:
        """Note a mistake; one that concerns a whole file (`once`) is noted a single time."""
        if once is not None and once in self._told:
            return
        if once is not None:
            self._told.add(once)
        self.n += 1
        if self.n <= SHOWN:
            self.messages.append(message)

    def raise_if_any(self) -> None:
        if self.n:
            raise UserError(
                *self.messages, *([f"and {self.n - SHOWN} more"] if self.n > SHOWN else [])
            )


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a source.

    `name` is relative to the part of the pattern without wildcards, with {lang} for the language.
    """

    path: Path
    name: str
    language: str | None
    format: str

    def place(self, number: int) -> str:
        return f"{self.path}: row {number}" if self.format == "parquet" else f"{self.path}:{number}"


def find(source: Source) -> list[File]:
    """The files a source's path stands for, in a fixed order; `language` is the text in the place
    of {lang}.

    Raises: UserError if there are none, or if a file's format is not known.
    """
    pattern = Path(str(source.path)).expanduser()
    if pattern.is_file():
        return [_file(source, pattern, pattern.name, None)]
    if pattern.is_dir():
        found: list[tuple[Path, str, str | None]] = [
            (p, str(p.relative_to(pattern)), None)
            for p in sorted(pattern.rglob("*"))
            if p.is_file() and _format_of(p)
        ]
        missing = f"{pattern} holds no file that can be read ({', '.join([*ENDINGS, *PACKED])})"
    else:
        found = _matching(pattern)
        missing = (
            f"{pattern} matches no file"
            if WILDCARDS.search(str(pattern))
            else f"there is no file {pattern}"
        )
    if not found:
        raise UserError(missing)
    return [_file(source, *f) for f in found]


def _matching(pattern: Path) -> list[tuple[Path, str, str | None]]:
    """(path, name, text in the place of {lang}) of every file that a pattern of `*`, `**`, `?` and
    `{lang}` matches.
    """
    fixed = next((p for p in pattern.parents if not WILDCARDS.search(str(p))), Path())
    expression = (
        re.escape(str(pattern.relative_to(fixed)))
        .replace(r"\*\*/", "(?:.*/)?")
        .replace(r"\*", "[^/]*")
        .replace(r"\?", "[^/]")
    )
    expression = expression.replace(r"\{lang\}", "(?P<lang>[A-Za-z0-9_-]+)", 1).replace(
        r"\{lang\}", "(?P=lang)"
    )
    found = []
    for path in sorted(
        map(Path, glob(str(pattern).replace("[", "[[]").replace("{lang}", "*"), recursive=True))
    ):
        name = str(path.relative_to(fixed))
        match = re.fullmatch(expression, name)
        if match and path.is_file():
            language = match.groupdict().get("lang")
            start, end = match.span("lang") if language else (0, 0)
            found.append(
                (path, f"{name[:start]}{{lang}}{name[end:]}" if language else name, language)
            )
    return found


def _file(source: Source, path: Path, name: str, language: str | None) -> File:
    kind = source.format or _format_of(path)
    if kind is None:
        raise UserError(
            f"{path}: its ending does not say what it is; set format: jsonl, csv, tsv or parquet"
        )
    return File(path, name, language, kind)


def _format_of(path: Path) -> str | None:
    return ENDINGS.get(unpacked_name(path).suffix)


def unpacked_name(path: Path) -> Path:
    """The name of a file without the ending that says how it is packed."""
    return path.with_suffix("") if path.suffix in PACKED else path


def read(file: File, header: bool, problems: Problems) -> Iterator[tuple[int, Any]]:
    """(line or row number from 1, record) for every record; a record is a mapping, without `header`
    a list of fields.
    """
    match file.format:
        case "jsonl":
            return _jsonl(file, problems)
        case "parquet":
            return _parquet(file, problems)
    return _table(file, header, problems)


def open_packed(path: Path) -> IO[bytes]:
    """A file as bytes, unpacked by its ending.

    Broken ones raise an OSError, EOFError or zlib.error while they are read.
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
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    problems.add(
                        f"{file.path}:{number}: not UTF-8 (byte {error.start + 1} of the line is"
                        f" 0x{raw[error.start]:02x}); convert the file: iconv -f ITS_ENCODING -t"
                        " UTF-8"
                    )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problems.add(
            f"{file.path}: the gzip file is damaged or cut short ({error}); fetch it again"
        )
    except OSError as error:
        problems.add(f"{file.path}: cannot be read ({error.strerror or error})")


def _jsonl(file: File, problems: Problems) -> Iterator[tuple[int, dict]]:
    """The objects of a file, one a line, or of a JSON array, which begins with [ and goes on over
    several lines.
    """
    lines = _lines(file, problems)
    for number, line in lines:
        if not line.strip():
            continue
        if _begins_array(line):
            yield from _array(file, line + "".join(text for _, text in lines), number, problems)
            return
        try:
            record = json_text.load(line)
        except ValueError as error:
            if line.strip() == "{":
                problems.add(
                    f"{file.path}:{number}: is one object over several lines; rows are an object a"
                    " line, or an array [{…}, …]"
                )
                return
            problems.add(
                f"{file.path}:{number}: broken JSON ({error}); each line must hold one whole object"
            )
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            problems.add(
                f"{file.path}:{number}: expected an object {{…}}, found a {type(record).__name__};"
                " one object a line, please"
            )


def _begins_array(line: str) -> bool:
    """Whether a line is the beginning of an array of rows, and no row itself."""
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
                    f"{file.path}:{number}: expected an object {{…}} in the array, found a"
                    f" {type(record).__name__}"
                )
    except ValueError as error:
        problems.add(f"{file.path}: the JSON array is broken: {error}")


def _table(file: File, header: bool, problems: Problems) -> Iterator[tuple[int, Any]]:
    rows = _tsv(file, problems) if file.format == "tsv" else _csv(file, problems)
    names = next(rows, (0, []))[1] if header else None
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
                f"{file.path}:{reader.line_num}: broken CSV ({error}); a quote inside a quoted"
                " field is written twice"
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
        problems.add(
            f"{file.path}: cannot be read as Parquet after row {number}"
            f" ({str(error).splitlines()[0]}); fetch it again"
        )


def _other_commit(records: Any, revision: str | None) -> str | None:
    """The commit that a prepared data set has, if it is not the one asked for: offline, `datasets`
    takes the latest that it has.
    """
    if not revision or not re.fullmatch("[0-9a-f]{40}", revision) or not records.cache_files:
        return None
    commit = Path(records.cache_files[0]["filename"]).parent.name
    return commit if commit != revision and re.fullmatch("[0-9a-f]{40}", commit) else None


def read_hub(source: Source, problems: Problems) -> Iterator[tuple[int, dict]]:
    """The records of a hub data set: downloaded once (or taken from the cache, offline too), then
    read from disk.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        records = load_dataset(
            source.hub, source.config, split=source.hub_split, revision=source.revision
        )
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError, ValueError) as error:
        problems.add(
            f"hub {source.hub}: cannot be loaded ({str(error).splitlines()[0]}); check hub, config,"
            " hub_split and revision, or where there is no network, let `mlalign fetch` bring it"
            " beforehand"
        )
        return
    if other := _other_commit(records, source.revision):
        problems.add(
            f"hub {source.hub}: without network only commit {other} can be had, not"
            f" {source.revision}; let `mlalign fetch` bring it"
        )
        return
    yield from enumerate(records, 1)
