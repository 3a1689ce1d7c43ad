"""Rows of all shards, brought together by `group_id`: the versions of an item in all its languages.

A group's rows lie in the shards of its languages. `Slices` reads every shard once and deals its
rows out to `n` files by `hash(group_id)`, so that a slice holds whole groups, and memory holds one
shard or one slice. `run` makes rows of each slice and keeps them, so that a stopped step resumes.

How rows are spread over shards changes neither what a slice holds nor how many slices there are. It
does change the order of rows within a slice, so code that makes rows of them sorts them first.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlalign.core import resume, rows
from mlalign.core.store import Store, Tally, fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

Work = Callable[[list[list[dict]], Tally], Iterable[dict]]

SLICE_ROWS = 4096  # the mean number of rows in a slice


def run(
    inputs: Sequence[Sequence[Path]],
    kept: Path,
    target: Path,
    work: Work,
    kind_of: Callable[[Mapping], str],
    store: Store,
) -> Iterator[tuple[int, Tally]]:
    """Make rows of each slice; yields the number of slices and each one's counts when it is done.

    `inputs`: several lists of shards, such as candidates and their scores.
    `work(parts, tally)`: gets a slice's rows of each input and returns the rows to write. They
        become shards `LANGUAGE.SPLIT.SLICE.parquet` in `target`.
    `kind_of(row)`: the kind of a row to write.
    `kept`: a folder for what an unfinished step keeps. A slice whose files are still as they were
        written is not computed again.
    """
    digest = store.digests.file
    n = n_slices(inputs[0])
    dealt = [Slices(kept / f"input{i}", n) for i in range(len(inputs))]
    for slices, shards in zip(dealt, inputs, strict=True):
        slices.make(shards, digest)

    for index in range(n):
        marker = kept / f"{index:05d}.json"
        key = _key([slices.file(index) for slices in dealt], digest)
        done = resume.read_value(marker, key)
        if done is None or not _are_unchanged(target, done["files"], digest):
            tally = Tally()
            new_rows = work([slices.read(index) for slices in dealt], tally)
            names = _write(target, index, new_rows, kind_of)
            content = {name: digest(target / name) for name in names}
            done = {"tally": tally.to_dict(), "files": content}
            resume.write_value(marker, key, done)
        yield n, Tally(done["tally"])


def _key(files: Iterable[Path], digest: Callable[[Path], str]) -> str:
    """The fingerprint of a slice's input files, some of which may not exist."""
    digests = []
    for file in files:
        digests.append(digest(file) if file.exists() else None)
    return fingerprint({"files": digests})


def _are_unchanged(folder: Path, files: Mapping[str, str], digest: Callable[[Path], str]) -> bool:
    """Whether a folder's files (name -> digest) exist and have these digests."""
    for name, recorded in files.items():
        file = folder / name
        if not file.is_file() or digest(file) != recorded:
            return False
    return True


def _write(
    target: Path,
    index: int,
    new_rows: Iterable[dict],
    kind_of: Callable[[Mapping], str],
) -> list[str]:
    """Write a slice's rows as shards. Returns the names of the files."""
    by_shard: dict[str, list[dict]] = defaultdict(list)
    for row in new_rows:
        name = rows.shard_name(row["prompt_lang"], row["split"], index)
        by_shard[name].append(row)
    for name, shard_rows in by_shard.items():
        rows.write_shard(target / name, kind_of(shard_rows[0]), shard_rows)
    return list(by_shard)


def n_slices(shards: Sequence[Path]) -> int:
    """How many slices the rows of these shards make."""
    import pyarrow.parquet as pq

    n_rows = sum(pq.read_metadata(shard).num_rows for shard in shards)
    return max(1, -(-n_rows // SLICE_ROWS))


def slice_of(group_id: str, n: int) -> int:
    """The slice of a group, from 0 to below n; the same on every machine."""
    return rows.seed_of(group_id) % n


class Slices:
    """The rows of some shards in `n` files below `folder`, each with whole groups."""

    def __init__(self, folder: Path, n: int):
        self.folder = folder
        self.n = n

    def file(self, index: int) -> Path:
        return self.folder / f"{index:05d}.arrow"

    def make(self, shards: Sequence[Path], digest: Callable[[Path], str]) -> None:
        """Deal the rows out, unless an earlier try has done so and the files are unchanged."""
        identities = [[shard.name, digest(shard)] for shard in shards]
        key = fingerprint({"shards": identities, "n": self.n})
        if self._are_kept(key, digest):
            return

        self.folder.mkdir(parents=True, exist_ok=True)
        schema = _schema_of(shards)
        with contextlib.ExitStack() as files:
            writers: dict[int, Any] = {}
            for shard in shards:
                self._deal(shard, schema, writers, files)
        content = {self.file(i).name: digest(self.file(i)) for i in writers}
        resume.write_value(self._marker, key, content)

    def read(self, index: int) -> list[dict]:
        """The rows of a slice, in the order of the shards; empty if no group falls into it."""
        import pyarrow as pa

        file = self.file(index)
        if not file.exists():
            return []
        with pa.OSFile(str(file)) as source:
            return pa.ipc.open_stream(source).read_all().to_pylist()

    @property
    def _marker(self) -> Path:
        return self.folder / "slices.json"

    def _are_kept(self, key: str, digest: Callable[[Path], str]) -> bool:
        kept = resume.read_value(self._marker, key)
        if kept is None:
            return False
        return _are_unchanged(self.folder, kept, digest)

    def _deal(
        self,
        shard: Path,
        schema: "pa.Schema",
        writers: dict[int, Any],
        files: contextlib.ExitStack,
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        own_columns = pq.read_table(shard, partitioning=None)
        empty = schema.empty_table()  # adds the columns that only other shards have
        table = pa.concat_tables([empty, own_columns], promote_options="default")
        for index, part in self._parts(table).items():
            if index not in writers:
                sink = files.enter_context(pa.OSFile(str(self.file(index)), "wb"))
                options = pa.ipc.IpcWriteOptions(compression="zstd")
                writer = pa.ipc.new_stream(sink, schema, options=options)
                writers[index] = files.enter_context(writer)
            writers[index].write_table(part)

    def _parts(self, table: "pa.Table") -> dict[int, "pa.Table"]:
        """Slice -> its rows of a table, in their order."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, group in enumerate(table["group_id"].to_pylist()):
            places[slice_of(group, self.n)].append(place)
        return {index: table.take(places[index]) for index in sorted(places)}


def _schema_of(shards: Sequence[Path]) -> "pa.Schema":
    """The columns of all shards: one may lack a score column that another has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa.unify_schemas([pq.read_schema(shard) for shard in shards]).remove_metadata()
