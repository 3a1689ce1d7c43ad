"""Work on the shards of a rows artifact: the unit of resume, of reuse and of the Slurm array.

One input shard gives one output shard of the same name, and perhaps a file of that name in each of
some folders `beside` it. A finished shard leaves a marker `shards/NAME.json` with the digests of
its files and its tally. The store's shard cache keeps it under a key that depends only on what was
computed, so another artifact that needs the same shard (because a language was added, say) links to
it. A shard whose files are not those of its marker is computed again.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mlalign.core.digests import HEX, Digests
from mlalign.core.errors import UserError
from mlalign.core.resume import say_damaged
from mlalign.core.store import Store, Tally, fingerprint, is_tally, read_json, write_json

Work = Callable[[Path, Path, Tally], None]
ROWS, JUDGEMENTS = "rows", "judgements"
# In a step that works on shards, a file in these folders counts only if a marker records it.
FOLDERS = (ROWS, JUDGEMENTS)


def run_shards(
    inputs: Sequence[Path],
    partial: Path,
    store: Store,
    key: dict,
    work: Work,
    on_shard: Callable[[Path, Tally], None] = lambda path, tally: None,
    should_stop: Callable[[], bool] = lambda: False,
    check_inputs: Callable[[], None] = lambda: None,
    beside: Sequence[str] = (),
) -> bool:
    """Bring the shard of every input to `partial/rows/`.

    `work(source, target, tally)` computes a shard that is neither done nor in the cache. What it
    writes in the folders `beside` belongs to the shard. `key` names everything besides the input
    shard that the content depends on.

    Returns True when all are there, False if asked to stop.
    Raises: UserError if the input shard, or what `check_inputs` looks at, was changed meanwhile.
        Nothing made from it is kept.
    """
    for source in inputs:
        if should_stop():
            return False

        content = store.digests.file(source)
        shard = _Shard(source, partial, store, fingerprint({**key, "shard": content}), beside)
        if not shard.is_there():
            tally = Tally()
            for file in shard.files.values():
                file.unlink(missing_ok=True)
            work(source, shard.files[ROWS], tally)

            check_inputs()
            if store.digests.file(source) != content:
                raise UserError(
                    f"{source}: was changed while it was being read; run the same command again"
                )
            shard.keep(tally)
        on_shard(source, tally_of(partial, source))
    return True


def missing(inputs: Iterable[Path], partial: Path, store: Store, key: dict) -> list[Path]:
    """The input shards that `run_shards` will have to compute; links what the cache holds."""
    sources = []
    for source in inputs:
        identity = fingerprint({**key, "shard": store.digests.file(source)})
        if not _Shard(source, partial, store, identity, ()).is_there():
            sources.append(source)
    return sources


class _Shard:
    """A shard of an artifact (`files` by folder, and a marker), and its place in the cache."""

    def __init__(
        self, source: Path, partial: Path, store: Store, identity: str, beside: Sequence[str]
    ):
        folders = (ROWS, *beside)
        cached = store.shard_cache(identity)
        self.files = {folder: partial / folder / source.name for folder in folders}
        self._marker = marker_of(partial, source)
        self._cached = _cached_files(cached, folders)
        self._cached_marker = cached.with_suffix(".json")
        self._identity, self._digests = identity, store.digests

    def is_there(self) -> bool:
        """Whether the shard is done, or could be linked from the cache."""
        marker = read_marker(self._marker)
        if marker is None and self._marker.exists():
            say_damaged(self._marker, "is malformed")
        if marker and marker["key"] == self._identity:
            if not _damaged(self.files, marker, self._digests):
                return True
            say_damaged(self.files[ROWS])
        return self._link_cached()

    def keep(self, tally: Tally) -> None:
        """Put finished files into the cache, and leave the marker."""
        self._marker.parent.mkdir(parents=True, exist_ok=True)
        self._cached_marker.parent.mkdir(parents=True, exist_ok=True)
        digests: dict[str, str | None] = {}
        for folder, file in self.files.items():
            digests[folder] = None
            if file.exists():
                digests[folder] = self._digests.file(file)
                link(file, self._cached[folder])

        content = {"sha256": digests.pop(ROWS), "beside": digests}
        marker = {"key": self._identity, **content, **tally.to_dict()}
        write_json(self._cached_marker, marker)
        write_json(self._marker, marker)

    def _link_cached(self) -> bool:
        """Link the shard from the cache; False if it is not there as it was written."""
        marker = read_marker(self._cached_marker)
        if marker is None or marker["key"] != self._identity:
            return False
        if _damaged(self._cached, marker, self._digests):
            return False

        self._marker.parent.mkdir(parents=True, exist_ok=True)
        for folder, digest in _recorded(marker).items():
            file = self.files[folder]
            file.unlink(missing_ok=True)
            if digest is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                link(self._cached[folder], file)
        write_json(self._marker, marker)
        return True


def _cached_files(cached: Path, folders: Iterable[str]) -> dict[str, Path]:
    """Folder -> file of a shard in the cache, of which `cached` is the one of rows."""
    files = {folder: cached.with_name(f"{cached.name}.{folder}") for folder in folders}
    return files | {ROWS: cached}


def _recorded(marker: Mapping) -> dict[str, str | None]:
    """Folder -> digest of the shard's file there; None where there is none."""
    return {ROWS: marker["sha256"], **marker["beside"]}


def _damaged(files: Mapping[str, Path], marker: Mapping, digests: Digests) -> Path | None:
    """The first file that is not what the marker records; None if all are."""
    recorded = _recorded(marker)
    if recorded.keys() != files.keys():
        return files[ROWS]
    for folder, file in files.items():
        digest = digests.file(file) if file.is_file() else None
        if digest != recorded[folder]:
            return file
    return None


def marker_of(partial: Path, source: Path) -> Path:
    return partial / "shards" / f"{source.stem}.json"


def read_marker(path: Path) -> dict | None:
    """A done marker: `key`, `sha256` and `beside` (digests; None: no such file), and a tally.

    None if it is missing or malformed.
    """
    try:
        marker = read_json(path)
    except UserError:
        return None
    if not isinstance(marker, dict) or not isinstance(marker.get("key"), str):
        return None
    beside = marker.setdefault("beside", {})
    if not is_tally(marker) or not isinstance(beside, dict):
        return None
    for digest in (marker.get("sha256", 0), *beside.values()):
        is_digest = isinstance(digest, str) and HEX.fullmatch(digest)
        if digest is not None and not is_digest:
            return None
    return marker


def tally_of(partial: Path, source: Path) -> Tally:
    """The tally of a finished shard. Raises: UserError if its marker is missing or malformed."""
    path = marker_of(partial, source)
    marker = read_marker(path)
    if marker is None:
        mend = "run the same command again, which computes this shard anew"
        raise UserError(f"{path}: is malformed; {mend}")
    return Tally(marker)


def pending(inputs: Iterable[Path], partial: Path) -> list[Path]:
    """The input shards without a done marker."""
    return [source for source in inputs if not marker_of(partial, source).exists()]


def total(inputs: Iterable[Path], partial: Path) -> Tally:
    """The sum of the tallies of all finished shards."""
    tally = Tally()
    for source in inputs:
        tally.merge(tally_of(partial, source))
    return tally


def cache_problem(path: Path, digests: Digests) -> str | None:
    """What is wrong with the shard in the cache whose marker is at `path`; None if nothing is."""
    marker = read_marker(path)
    if marker is None or marker["key"] != path.stem:
        return f"{path} is malformed, or another shard's"
    files = _cached_files(path.with_suffix(""), _recorded(marker))
    damaged = _damaged(files, marker, digests)
    return f"{damaged} is missing or was changed" if damaged else None


def recorded(partial: Path) -> dict[str, str]:
    """`rows/NAME.parquet` (and files beside it) -> digest, from the markers of all shards."""
    digests: dict[str, str] = {}
    for path in sorted((partial / "shards").glob("*.json")):
        marker = read_marker(path)
        for folder, digest in _recorded(marker).items() if marker else ():
            if digest:
                digests[f"{folder}/{path.stem}.parquet"] = digest
    return digests


def forget(partial: Path, store: Store) -> None:
    """Take the shards of an artifact out of the cache, so that they are computed again."""
    for path in (partial / "shards").glob("*.json"):
        marker = read_marker(path)
        if marker:
            cached = store.shard_cache(marker["key"])
            for file in [cached, *cached.parent.glob(f"{cached.name}.*")]:
                file.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system cannot; an existing target is replaced."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
