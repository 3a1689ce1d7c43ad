"""Work over the shards of a rows artifact: the unit of resume, of reuse and of the Slurm array.

One input shard gives one output shard of the same name, and perhaps further files of that name in
folders `beside` it. A finished shard leaves `shards/NAME.json` (its done marker, with the digests
of its files and the shard's tally) and is kept in the store's shard cache under a key that is a
pure function of what was computed: another artifact that needs the same shard (a language was
added, say) links to it. A shard whose files are not those of its marker is computed again.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mlalign.core.digests import HEX, Digests
from mlalign.core.errors import UserError
from mlalign.core.store import Store, Tally, fingerprint, is_tally, read_json, write_json
from mlalign.core.terminal import say

Work = Callable[[Path, Path, Tally], None]
ROWS, JUDGEMENTS = "rows", "judgements"
FOLDERS = (
    ROWS,
    JUDGEMENTS,
)  # of a step that works on shards: what no marker tells of is not its content


def run_shards(
    inputs: Sequence[Path], partial: Path, store: Store, key: dict, work: Work,
    on_shard: Callable[[Path, Tally], None] = lambda path, tally: None, should_stop: Callable[[], bool] = lambda: False,
    check_inputs: Callable[[], None] = lambda: None, beside: Sequence[str] = (),
) -> bool:  # fmt: skip
    """Bring every shard in `inputs` to `partial/rows/`; True when all are there, False if asked to
    stop.

    `work(source, target, tally)` computes one shard (and is never called for one that is done or in
    the cache); what it writes in the folders `beside` belongs to the shard. `key` names everything
    besides the input shard that its content depends on.
    Raises: UserError if the input shard, or what `check_inputs` looks at, was changed meanwhile:
        nothing of that is kept.
    """
    for source in inputs:
        if should_stop():
            return False
        read = store.digests.file(source)
        shard = _Shard(source, partial, store, fingerprint({**key, "shard": read}), beside)
        if not shard.there():
            tally = Tally()
            for target in shard.files.values():
                target.unlink(missing_ok=True)
            work(source, shard.files[ROWS], tally)
            check_inputs()
            if store.digests.file(source) != read:
                raise UserError(
                    f"{source}: was changed while it was being read; run the same command again"
                )
            shard.keep(tally)
        on_shard(source, tally_of(partial, source))
    return True


def missing(inputs: Iterable[Path], partial: Path, store: Store, key: dict) -> list[Path]:
    """The input shards that `run_shards` will have to compute; what the cache holds is linked on
    the way.
    """
    identities = {
        source: fingerprint({**key, "shard": store.digests.file(source)}) for source in inputs
    }
    return [
        source
        for source, identity in identities.items()
        if not _Shard(source, partial, store, identity, ()).there()
    ]


class _Shard:
    """One shard of an artifact: folder -> file, with its marker, and its place in the cache."""

    def __init__(
        self, source: Path, partial: Path, store: Store, identity: str, beside: Sequence[str]
    ):
        self.files = {folder: partial / folder / source.name for folder in (ROWS, *beside)}
        self._marker, self._identity, self._digests = (
            marker_of(partial, source),
            identity,
            store.digests,
        )
        cached = store.shard_cache(identity)
        self._cached = {
            f: cached if f == ROWS else cached.with_name(f"{identity}.{f}") for f in self.files
        }
        self._cached_marker = cached.with_suffix(".json")

    def there(self) -> bool:
        """Whether the shard is done, or could be linked from the cache."""
        told = read_marker(self._marker)
        if told is None and self._marker.exists():
            _say(f"{self._marker}: is malformed")
        if told and told["key"] == self._identity:
            if self._are(self.files, told):
                return True
            _say(f"{self.files[ROWS]}: is not what was written there")
        return self._from_cache()

    def keep(self, tally: Tally) -> None:
        """Put finished files into the cache, and leave the marker."""
        self._marker.parent.mkdir(parents=True, exist_ok=True)
        self._cached_marker.parent.mkdir(parents=True, exist_ok=True)
        content = {
            f: self._digests.file(path) if path.exists() else None for f, path in self.files.items()
        }
        for folder, path in self.files.items():
            if content[folder] is not None:
                link(path, self._cached[folder])
        others = {f: digest for f, digest in content.items() if f != ROWS}
        told = {"key": self._identity, "sha256": content[ROWS], "beside": others, **tally.to_dict()}
        write_json(self._cached_marker, told)
        write_json(self._marker, told)

    def _from_cache(self) -> bool:
        """Link a shard from the cache; False if it is not there, or its files are no longer what
        was written.
        """
        told = read_marker(self._cached_marker)
        if told is None or told["key"] != self._identity or not self._are(self._cached, told):
            return False
        self._marker.parent.mkdir(parents=True, exist_ok=True)
        for folder, digest in self._recorded(told).items():
            self.files[folder].unlink(missing_ok=True)
            if digest is not None:
                self.files[folder].parent.mkdir(parents=True, exist_ok=True)
                link(self._cached[folder], self.files[folder])
        write_json(self._marker, told)
        return True

    def _are(self, files: dict[str, Path], told: dict) -> bool:
        """Whether files are those of a marker, one and all."""
        recorded = self._recorded(told)
        return recorded.keys() == files.keys() and all(
            (
                not files[f].exists()
                if digest is None
                else files[f].is_file() and self._digests.file(files[f]) == digest
            )
            for f, digest in recorded.items()
        )

    @staticmethod
    def _recorded(told: dict) -> dict[str, str | None]:
        return {ROWS: told["sha256"], **told["beside"]}


def _say(what: str) -> None:
    say(f"{what}; computed again", file=sys.stderr, flush=True)


def marker_of(partial: Path, source: Path) -> Path:
    return partial / "shards" / f"{source.stem}.json"


def read_marker(path: Path) -> dict | None:
    """A done marker: `key`, `sha256` and `beside` (None for a file that there is none of), and a
    tally. None if it is no such thing.
    """
    try:
        told = read_json(path)
    except UserError:
        return None
    if not isinstance(told, dict) or not isinstance(told.get("key"), str) or not is_tally(told):
        return None
    beside = told.setdefault("beside", {})
    digests = [told.get("sha256"), *(beside.values() if isinstance(beside, dict) else [0])]
    return (
        told
        if all(d is None or (isinstance(d, str) and HEX.fullmatch(d)) for d in digests)
        else None
    )


def tally_of(partial: Path, source: Path) -> Tally:
    """The tally of a finished shard. Raises: UserError if its marker is gone, or malformed."""
    told = read_marker(marker_of(partial, source))
    if told is None:
        raise UserError(
            f"{marker_of(partial, source)}: is malformed; run the same command again, which"
            " computes this shard anew"
        )
    return Tally(told)


def pending(inputs: Iterable[Path], partial: Path) -> list[Path]:
    """The input shards without a done marker."""
    return [p for p in inputs if not marker_of(partial, p).exists()]


def total(inputs: Iterable[Path], partial: Path) -> Tally:
    """The sum of the tallies of all finished shards."""
    tally = Tally()
    for source in inputs:
        tally.merge(tally_of(partial, source))
    return tally


def cache_problem(marker: Path, digests: Digests) -> str | None:
    """What is wrong with a shard in the cache, of which this is the marker; None if its files are
    those that were put there.
    """
    told = read_marker(marker)
    if told is None or told["key"] != marker.stem:
        return f"{marker} is malformed, or another shard's"
    recorded = {ROWS: told["sha256"], **told["beside"]}
    files = {marker.with_suffix("" if f == ROWS else f".{f}"): d for f, d in recorded.items() if d}
    wrong = [
        path for path, digest in files.items() if not path.is_file() or digests.file(path) != digest
    ]
    return f"{wrong[0]} is missing or was changed" if wrong else None


def recorded(partial: Path) -> dict[str, str]:
    """`rows/NAME.parquet` (and files beside it) -> digest, as the markers of all shards tell."""
    found: dict[str, str] = {}
    for path in sorted((partial / "shards").glob("*.json")):
        told = read_marker(path) or {"sha256": None, "beside": {}}
        digests = {ROWS: told["sha256"], **told["beside"]}
        found |= {
            f"{folder}/{path.stem}.parquet": digest for folder, digest in digests.items() if digest
        }
    return found


def forget(partial: Path, store: Store) -> None:
    """Take the shards of an artifact out of the cache, so that they are computed again."""
    for marker in (partial / "shards").glob("*.json"):
        if told := read_marker(marker):
            cached = store.shard_cache(told["key"])
            for path in [
                cached.with_suffix(".json"),
                cached,
                *cached.parent.glob(f"{cached.name}.*"),
            ]:
                path.unlink(missing_ok=True)


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
