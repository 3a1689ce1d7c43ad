"""The rows that travel between stages: their schemas, and reading and writing them as Parquet
shards.

`prompt`, `chosen`, `rejected` and `completion` are TRL's conversational format (a list of
`{"role", "content"}`), so any TRL trainer takes our rows. A rows artifact holds
`rows/LANGUAGE.SPLIT.NNNNN.parquet`: a shard has one prompt language and one split, so that adding a
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

# kind -> the columns beyond COMMON; the words are resolved to Arrow types in `schema`
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
    """The Arrow schema of a kind of row; for `scores`, with one double column `score.NAME` per
    name.

    With `parents`, responses say which candidate they were made from.
    """
    import pyarrow as pa

    kinds = {
        "string": pa.string(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "ints": pa.list_(pa.int64()),
        "strings": pa.list_(pa.string()),
        "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        "responses": pa.list_(
            pa.struct(
                [
                    ("candidate_id", pa.string()),
                    ("text", pa.string()),
                    ("reasoning", pa.string()),
                    ("n_tokens", pa.int64()),
                    ("finish_reason", pa.string()),
                    *([("parent", pa.string())] if parents else []),
                ]
            )
        ),
    }
    fields = [(name, pa.string()) for name in COMMON]
    fields += [(name, kinds[t]) for name, t in COLUMNS[kind].items()]
    fields += [(f"score.{name}", pa.float64()) for name in scores]
    return pa.schema(fields, metadata={"kind": kind})


def row_id(source: str, key: str, prompt_lang: str) -> str:
    """`hash(source, key in source, prompt_lang)`: 16 hex digits, the same on every machine."""
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
    """One plain string as a conversation of one message."""
    return [{"role": role, "content": prompt}]


def text_of(conversation: Sequence[Mapping]) -> str:
    """The contents of a conversation joined by newlines (for statistics and language
    identification).
    """
    return "\n".join(m["content"] for m in conversation)


def to_json(value: Any) -> str:
    """A JSON string with sorted keys, for the `reference` and `metadata` columns."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def shard_name(language: str, split: str, index: int) -> str:
    return f"{language}.{split}.{index:05d}.parquet"


def language_of(shard: Path) -> str:
    """The prompt language of a shard, which its name says."""
    return shard.name.split(".", maxsplit=1)[0]


def shards(
    path: Path, split: str | None = None, languages: Sequence[str] | None = None
) -> list[Path]:
    """The shard files of a rows artifact in a fixed order, optionally of one split and some prompt
    languages only.

    Of a finished artifact they are those that its manifest lists: a file that was put beside them
    is not read.
    """
    from mlalign.core.store import listed

    folder, files = Path(path) / "rows", listed(Path(path))
    if not folder.is_dir():
        from mlalign.core.errors import UserError

        raise UserError(
            f"{path}: holds no rows (no folder {folder.name}/); give a rows artifact, or bring"
            " files in with `mlalign prepare`"
        )
    found = sorted(
        p for p in folder.glob("*.parquet") if files is None or f"rows/{p.name}" in files
    )
    return [p for p in found if _wanted(p, split, languages)]


def _wanted(path: Path, split: str | None, languages: Sequence[str] | None) -> bool:
    language, its_split, _ = path.stem.split(".")
    return (split is None or its_split == split) and (languages is None or language in languages)


def read_shard(path: Path, columns: Sequence[str] | None = None) -> list[dict]:
    """All rows of one shard as dictionaries, in file order."""
    import pyarrow.parquet as pq

    return pq.read_table(
        path, columns=list(columns) if columns else None, partitioning=None
    ).to_pylist()


def read(
    path: Path,
    split: str | None = None,
    languages: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[dict]:
    """Stream the rows of an artifact, shard by shard: memory holds one shard."""
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
    """Spread a stream of rows over shards by language and split; memory holds at most one open
    shard for each.

    Use as a context manager. The order of rows within a language and split is the order of writing.
    """

    def __init__(self, path: Path, kind: str, shard_rows: int = SHARD_ROWS):
        self.folder, self.kind, self.shard_rows = Path(path) / "rows", kind, shard_rows
        self._open: dict[tuple[str, str], list[dict]] = defaultdict(list)
        self._next: dict[tuple[str, str], int] = defaultdict(int)

    def write(self, row: dict) -> None:
        where = (row["prompt_lang"], row["split"])
        self._open[where].append(row)
        if len(self._open[where]) == self.shard_rows:
            self._flush(where)

    def write_all(self, rows: Iterable[dict]) -> None:
        for row in rows:
            self.write(row)

    def _flush(self, where: tuple[str, str]) -> None:
        rows = self._open.pop(where)
        write_shard(self.folder / shard_name(*where, self._next[where]), self.kind, rows)
        self._next[where] += 1

    def __enter__(self) -> "ShardWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            for where in sorted(self._open):
                self._flush(where)
