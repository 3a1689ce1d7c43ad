"""The rows that travel between stages: their schemas, and their Parquet shards.

`prompt`, `chosen`, `rejected` and `completion` are in TRL's conversational format (a list of
`{"role", "content"}`), so any TRL trainer takes our rows. A rows artifact holds
`rows/LANGUAGE.SPLIT.NNNNN.parquet`: a shard has one prompt language and one split, so adding a
language adds files and changes none.
"""

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SPLITS = ("train", "eval")
COMMON = ("id", "group_id", "prompt_lang", "source", "origin", "split")
SHARD_ROWS = 1024

# kind -> column beyond COMMON -> its type, which `schema` turns into Arrow's
COLUMNS = {
    "text": {"text": "string"},
    "prompt": {"prompt": "messages", "reference": "string", "metadata": "string"},
    "demonstration": {
        "prompt": "messages",
        "completion": "messages",
        "response_lang": "string",
        "metadata": "string",
    },
    "candidates": {
        "prompt": "messages",
        "response_lang_requested": "string",
        "reference": "string",
        "responses": "responses",
    },
    "judgement": {
        "candidate_id": "string",
        "scorer": "string",
        "raw": "string",
        "value": "double",
        "parse_status": "string",
    },
    "preference": {
        "prompt": "messages",
        "chosen": "messages",
        "rejected": "messages",
        "chosen_lang": "string",
        "rejected_lang": "string",
        "margin": "double",
        "method": "string",
        "score_chosen": "double",
        "score_rejected": "double",
        "metadata": "string",
    },
    "unpaired": {"prompt": "messages", "completion": "messages", "label": "bool"},
    "ranking": {
        "prompt": "messages",
        "responses": "strings",
        "ranks": "ints",
        "metadata": "string",
    },
    # plus `score.NAME` columns of doubles
    "scores": {"candidate_id": "string", "response_lang_detected": "string"},
}


@functools.cache
def schema(kind: str, scores: tuple[str, ...] = (), parents: bool = False) -> Any:
    """The Arrow schema of a kind of row, with a double column `score.NAME` for each of `scores`.

    With `parents`, responses say which candidate they were made from.
    """
    import pyarrow as pa

    message = [("role", pa.string()), ("content", pa.string())]
    response = [
        ("candidate_id", pa.string()),
        ("text", pa.string()),
        ("reasoning", pa.string()),
        ("n_tokens", pa.int64()),
        ("finish_reason", pa.string()),
    ]
    if parents:
        response.append(("parent", pa.string()))
    types = {
        "string": pa.string(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "ints": pa.list_(pa.int64()),
        "strings": pa.list_(pa.string()),
        "messages": pa.list_(pa.struct(message)),
        "responses": pa.list_(pa.struct(response)),
    }

    fields = [(name, pa.string()) for name in COMMON]
    fields += [(name, types[type_]) for name, type_ in COLUMNS[kind].items()]
    fields += [(f"score.{name}", pa.float64()) for name in scores]
    return pa.schema(fields, metadata={"kind": kind})


def row_id(source: str, key: str, prompt_lang: str) -> str:
    """`hash(source, key in the source, prompt_lang)`: 16 hex digits, equal on every machine."""
    return _digest(source, key, prompt_lang)


def candidate_id(row: str, sampler: str, index: int) -> str:
    """`hash(row id, sampler fingerprint, index)`: 16 hex digits.

    Sampling seeds derive from it (`seed_of`).
    """
    return _digest(row, sampler, str(index))


def derived_id(parent: str, sampler: str) -> str:
    """The id of the row of candidates that a sampler makes from one candidate."""
    return _digest(parent, sampler)


def side_id(row: str, side: str) -> str:
    """The `candidate_id` of one side (`chosen` or `rejected`) of a preference row."""
    return f"{row}:{side}"


def seed_of(identifier: str) -> int:
    """A sampling seed in [0, 2**31) from a candidate's id."""
    return int(hashlib.sha256(identifier.encode()).hexdigest()[:8], 16) >> 1


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def messages(prompt: str, role: str = "user") -> list[dict]:
    """A plain string as a conversation of one message."""
    return [{"role": role, "content": prompt}]


def text_of(conversation: Sequence[Mapping]) -> str:
    """The contents of a conversation's messages, joined by newlines."""
    return "\n".join(message["content"] for message in conversation)


def to_json(value: Any) -> str:
    """A JSON string with sorted keys, for the `reference` and `metadata` columns."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def shard_name(language: str, split: str, index: int) -> str:
    return f"{language}.{split}.{index:05d}.parquet"


def language_of(shard: Path) -> str:
    """The prompt language of a shard, from its name."""
    return shard.name.split(".", maxsplit=1)[0]


def shards(
    path: Path, split: str | None = None, languages: Sequence[str] | None = None
) -> list[Path]:
    """The shard files of a rows artifact in a fixed order.

    `split` and `languages` (prompt languages) restrict them. Of a finished artifact only files that
    its manifest lists are read, not what was put beside them.
    """
    from mlalign.core.store import listed

    folder = Path(path) / "rows"
    files = listed(Path(path))
    if not folder.is_dir():
        from mlalign.core.errors import UserError

        raise UserError(
            f"{path}: holds no rows (no folder {folder.name}/);"
            " give a rows artifact, or bring files in with `mlalign prepare`"
        )

    chosen = []
    for file in sorted(folder.glob("*.parquet")):
        is_listed = files is None or f"rows/{file.name}" in files
        if is_listed and _is_wanted(file, split, languages):
            chosen.append(file)
    return chosen


def _is_wanted(shard: Path, split: str | None, languages: Sequence[str] | None) -> bool:
    language, own_split, _ = shard.stem.split(".")
    if split is not None and own_split != split:
        return False
    return languages is None or language in languages


def read_shard(path: Path, columns: Sequence[str] | None = None) -> list[dict]:
    """All rows of one shard as dictionaries, in file order."""
    import pyarrow.parquet as pq

    wanted = list(columns) if columns else None
    return pq.read_table(path, columns=wanted, partitioning=None).to_pylist()


def read(
    path: Path,
    split: str | None = None,
    languages: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[dict]:
    """Stream the rows of an artifact, one shard in memory at a time."""
    for shard in shards(path, split, languages):
        yield from read_shard(shard, columns)


def kind_of(path: Path) -> str:
    """The kind of row (`prompt`, `preference`, …) that an artifact's shards hold."""
    import pyarrow.parquet as pq

    first = next(iter(shards(path)), None)
    if first is None:
        from mlalign.core.errors import UserError

        raise UserError(f"{path}: holds no rows at all; see `dropped` in its manifest.json")
    return pq.read_schema(first).metadata[b"kind"].decode()


def write_shard(
    path: Path, kind: str, rows: Sequence[dict], scores: Sequence[str] = (), parents: bool = False
) -> None:
    """Write one Parquet file atomically; the bytes depend only on the rows.

    Columns that a row lacks become null.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows), schema=schema(kind, tuple(scores), parents))
    temporary = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


class ShardWriter:
    """A context manager that writes a stream of rows as shards by language and split.

    Rows keep their order within a language and split. Memory holds at most one open shard for each.
    """

    def __init__(self, path: Path, kind: str, shard_rows: int = SHARD_ROWS):
        self.folder = Path(path) / "rows"
        self.kind = kind
        self.shard_rows = shard_rows
        # (language, split) -> the rows of its open shard, and that shard's number
        self._open: dict[tuple[str, str], list[dict]] = defaultdict(list)
        self._next: dict[tuple[str, str], int] = defaultdict(int)

    def write(self, row: dict) -> None:
        group = (row["prompt_lang"], row["split"])
        self._open[group].append(row)
        if len(self._open[group]) == self.shard_rows:
            self._flush(group)

    def write_all(self, rows: Iterable[dict]) -> None:
        for row in rows:
            self.write(row)

    def _flush(self, group: tuple[str, str]) -> None:
        rows = self._open.pop(group)
        name = shard_name(*group, self._next[group])
        write_shard(self.folder / name, self.kind, rows)
        self._next[group] += 1

    def __enter__(self) -> "ShardWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            for group in sorted(self._open):
                self._flush(group)
