"""SHA-256 of files, remembered so that a large model is not hashed again by every plan and every
step.

What is remembered lies in `STORE/.digests.json`: path -> "size mtime_ns ctime_ns inode sha256". A
digest counts only while all four numbers are those of the file. A change of any of them means
hashing again, and is no mistake. The file is only a help: entries that are malformed count as
missing, and deleting it costs time alone.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlalign.core.errors import UserError

FILE = ".digests.json"
HEX = re.compile(r"[0-9a-f]{64}")
# Smaller files are hashed as fast as they are looked up, and would make the memory long.
REMEMBERED_BYTES = 64 << 10
# A file that changed so short a time before it was hashed may change again without new times: some
# file systems count seconds.
SETTLED_S = 2.0
# Below this starting threads costs more than it saves.
THREADED_BYTES = 32 << 20
LOCK_WAIT_S = 5.0


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def signature(path: Path | str) -> str | None:
    """What tells that a file was touched: "size mtime_ns ctime_ns inode" (of what a link leads to);
    None if nothing is there.
    """
    try:
        return _signature(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _signature(told: os.stat_result) -> str:
    return f"{told.st_size} {told.st_mtime_ns} {told.st_ctime_ns} {told.st_ino}"


def tree(folder: Path) -> dict[str, Path]:
    """Name relative to the folder -> path, of every file below it in a fixed order; links are
    followed, hidden names left out.
    """
    found, seen = {}, set[tuple[int, int]]()
    for at, folders, names in os.walk(folder, followlinks=True):
        told = os.stat(at)
        if (told.st_dev, told.st_ino) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add((told.st_dev, told.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(at, name) for name in names if not name.startswith(".")):
            if path.is_file():
                found[os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")] = (
                    path
                )
    return dict(sorted(found.items()))


class Digests:
    """Digests by path and signature, in memory, and with a folder (a store's) also between
    processes.
    """

    def __init__(self, folder: Path | None = None):
        self._folder = folder
        self._new: dict[str, str] = {}  # not written yet
        self._mine: dict[str, str] = {}  # path -> "signature sha256", as this process found them
        self._recorders: list[dict[str, str]] = []

    @functools.cached_property
    def _remembered(self) -> dict[str, str]:
        return _read(self._folder / FILE) if self._folder else {}

    @functools.cached_property
    def _ahead(self) -> float:
        """The file system's own time, which may differ from this machine's, less this process's
        clock.
        """
        if self._folder:
            import tempfile

            with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=self._folder) as f:
                return os.fstat(f.fileno()).st_mtime - time.monotonic()
        return time.time() - time.monotonic()

    def file(self, path: Path | str) -> str:
        """The digest of a file's content. Raises: UserError if it cannot be read."""
        key = os.path.abspath(path)
        try:
            digest = self._known(key) or self._hash(key)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        for recorder in self._recorders:
            recorder[key] = digest
        return digest

    def files(self, paths: Iterable[Path]) -> dict[Path, str]:
        """The digests of several files; large ones are hashed at the same time."""
        paths = list(paths)
        if len(paths) > 1 and sum(p.stat().st_size for p in paths if p.exists()) >= THREADED_BYTES:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
                return dict(zip(paths, pool.map(self.file, paths), strict=True))
        return {path: self.file(path) for path in paths}

    def path(self, path: Path) -> str:
        """The digest of a file, or of all files below a folder with their relative names (hidden
        ones left out).
        """
        if path.is_file():
            return self.file(path)
        from mlalign.core.store import fingerprint

        found = tree(path)
        digests = self.files(found.values())
        return fingerprint({name: digests[file] for name, file in found.items()})

    def settled(self, path: str) -> str | None:
        """The signature of a file whose digest is known, if a change would show in it; else None."""
        known = self._mine.get(path) or self._remembered.get(path)
        return known.rpartition(" ")[0] if known else None

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[str, str]]:
        """Path -> digest of every file that is asked for in this block."""
        recorder: dict[str, str] = {}
        self._recorders.append(recorder)
        try:
            yield recorder
        finally:
            self._recorders.remove(recorder)

    def moved(self, old: Path, new: Path) -> None:
        """Take what is known of the files below a folder along to its new name."""
        before = f"{os.path.abspath(old)}{os.sep}"
        for known in (self._mine, self._new):
            for path in [p for p in known if p.startswith(before)]:
                known[os.path.join(os.path.abspath(new), path.removeprefix(before))] = known.pop(
                    path
                )

    def save(self) -> None:
        """Write down what is new beside what others wrote meanwhile, where that can be written: a
        plan needs no disk.
        """
        if not self._folder or not self._new:
            return
        from mlalign.core.store import write_json

        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / f"{FILE}.lock"):
                write_json(self._folder / FILE, {**_read(self._folder / FILE), **self._new})
            self._new = {}

    def forget_missing(self) -> None:
        """Drop what is remembered of files that are gone."""
        if not self._folder:
            return
        from mlalign.core.store import write_json

        with contextlib.suppress(OSError), _locked(self._folder / f"{FILE}.lock"):
            known = _read(self._folder / FILE)
            if gone := [path for path in known if signature(path) is None]:
                write_json(
                    self._folder / FILE,
                    {p: told for p, told in known.items() if p not in set(gone)},
                )

    def _known(self, path: str) -> str | None:
        now = signature(path)
        for known in (self._mine, self._remembered):
            told = known.get(path, "")
            if now is not None and told.startswith(now + " "):
                return told.rpartition(" ")[2]
        return None

    def _hash(self, path: str) -> str:
        """Hash a file, again if it is written meanwhile; remember it if a later change cannot go
        unseen.
        """
        self._mine.pop(path, None)
        for _ in range(3):
            before, now = os.stat(path), self._ahead + time.monotonic()
            digest, read = sha256(Path(path)), signature(path)
            if read == _signature(before):
                break
        if read == _signature(before) and abs(now - before.st_ctime) >= SETTLED_S:
            self._mine[path] = f"{read} {digest}"
            if before.st_size >= REMEMBERED_BYTES:
                self._new[path] = self._mine[path]
        return digest


class Watch:
    """Files that were hashed, and their folders: whether any of them was touched since."""

    def __init__(self, known: Digests, files: Iterable[str]):
        files = list(files)
        self._seen = {path: known.settled(path) for path in files}
        self._seen |= {
            folder: signature(folder) for folder in {os.path.dirname(path) for path in files}
        }

    def untouched(self) -> bool:
        """Costs a look at each file.

        A file that was written just before it was hashed counts as touched.
        """
        return all(
            seen is not None and signature(path) == seen for path, seen in self._seen.items()
        )


@functools.cache
def of_store(root: Path) -> Digests:
    """The digests of a store: one memory for all of this process."""
    return Digests(root)


def _read(file: Path) -> dict[str, str]:
    """What is remembered; malformed entries count as missing, and so does all of a malformed file."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    return {
        path: entry
        for path, entry in told.items()
        if isinstance(entry, str) and HEX.fullmatch(entry.rpartition(" ")[2])
    }


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time.

    The lock is the kernel's and dies with its owner; after LOCK_WAIT_S the work is done without it.
    """
    end = time.monotonic() + LOCK_WAIT_S
    with open(path, "ab") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    break
                time.sleep(0.02)
            except OSError:  # a file system without locks
                break
        yield
