"""Where rows come from: a `Source`, the files that it stands for, and mistakes in them.

A file is JSONL, a JSON array, CSV, TSV (plain, .gz or .zst) or Parquet; `records` reads it.
"""

import dataclasses
import re
from collections.abc import Hashable
from glob import glob
from pathlib import Path
from typing import Any, Literal

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
SHOWN = 20  # mistakes
# A file of a source: its path, its name (as in `File`), and the text in the place of {lang}.
Match = tuple[Path, str, str | None]


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
    """Mistakes found while reading: the first ones as messages, the others only counted."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.n = 0
        self._noted: set[Hashable] = set()

    def add(self, message: str, once: Hashable = None) -> None:
        """Note a mistake. Of the mistakes with the same `once` only the first is noted."""
        if once is not None:
            if once in self._noted:
                return
            self._noted.add(once)
        self.n += 1
        if self.n <= SHOWN:
            self.messages.append(message)

    def raise_if_any(self) -> None:
        if self.n > SHOWN:
            raise UserError(*self.messages, f"and {self.n - SHOWN} more")
        if self.n:
            raise UserError(*self.messages)


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a source.

    `name` is relative to the part of the pattern without wildcards, and has {lang} in the place of
    the language.
    """

    path: Path
    name: str
    language: str | None
    format: str

    def place(self, number: int) -> str:
        if self.format == "parquet":
            return f"{self.path}: row {number}"
        return f"{self.path}:{number}"


def find(source: Source) -> list[File]:
    """The files that a source's path stands for, in a fixed order.

    Their `language` is the text in the place of {lang}.
    Raises: UserError if there are none, or if a file's format is not known.
    """
    pattern = Path(str(source.path)).expanduser()
    if pattern.is_file():
        return [_file(source, pattern, pattern.name, None)]
    matches = _readable_below(pattern) if pattern.is_dir() else _matching(pattern)
    if not matches:
        raise UserError(_why_none(pattern))
    return [_file(source, *match) for match in matches]


def _why_none(pattern: Path) -> str:
    if pattern.is_dir():
        return f"{pattern} holds no file that can be read ({', '.join([*ENDINGS, *PACKED])})"
    if WILDCARDS.search(str(pattern)):
        return f"{pattern} matches no file"
    return f"there is no file {pattern}"


def _readable_below(folder: Path) -> list[Match]:
    """The files below a folder whose ending tells their format."""
    matches: list[Match] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _format_of(path):
            matches.append((path, str(path.relative_to(folder)), None))
    return matches


def _matching(pattern: Path) -> list[Match]:
    """The files that a pattern of `*`, `**`, `?` and `{lang}` matches."""
    fixed = next((folder for folder in pattern.parents if not _has_wildcards(folder)), Path())
    expression = _expression(str(pattern.relative_to(fixed)))
    wildcards = str(pattern).replace("[", "[[]").replace("{lang}", "*")
    matches: list[Match] = []
    for path in sorted(map(Path, glob(wildcards, recursive=True))):
        name = str(path.relative_to(fixed))
        match = expression.fullmatch(name)
        if match is None or not path.is_file():
            continue
        language = match.groupdict().get("lang")
        if language:
            start, end = match.span("lang")
            name = f"{name[:start]}{{lang}}{name[end:]}"
        matches.append((path, name, language))
    return matches


def _has_wildcards(path: Path) -> bool:
    return WILDCARDS.search(str(path)) is not None


def _expression(pattern: str) -> re.Pattern[str]:
    """A pattern of `*`, `**`, `?` and `{lang}`, whose places must all hold the same language."""
    expression = re.escape(pattern)
    expression = expression.replace(r"\*\*/", "(?:.*/)?")
    expression = expression.replace(r"\*", "[^/]*")
    expression = expression.replace(r"\?", "[^/]")
    expression = expression.replace(r"\{lang\}", "(?P<lang>[A-Za-z0-9_-]+)", 1)
    expression = expression.replace(r"\{lang\}", "(?P=lang)")
    return re.compile(expression)


def _file(source: Source, path: Path, name: str, language: str | None) -> File:
    format_ = source.format or _format_of(path)
    if format_ is None:
        raise UserError(
            f"{path}: its ending does not say what it is; set format: jsonl, csv, tsv or parquet"
        )
    return File(path, name, language, format_)


def _format_of(path: Path) -> str | None:
    return ENDINGS.get(unpacked_name(path).suffix)


def unpacked_name(path: Path) -> Path:
    """The path of a file without the ending that says how it is packed."""
    return path.with_suffix("") if path.suffix in PACKED else path
