"""SHA-256 of files, remembered so that not every plan and step hashes a large model again.

The digests are kept in `STORE/.digests.json`: path -> "size mtime_ns ctime_ns inode sha256". A
digest counts only while all four numbers still match the file; otherwise the file is hashed again.
The cache may be deleted at any time, and malformed entries count as missing.
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
# Smaller files are hashed as fast as they are looked up, and would only bloat the cache.
REMEMBERED_BYTES = 64 << 10
# A file that changed this recently may change again without a new mtime: some file systems count
# whole seconds.
SETTLED_S = 2.0
# Below this starting threads costs more than it saves.
THREADED_BYTES = 32 << 20
LOCK_WAIT_S = 5.0


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def signature(path: Path | str) -> str | None:
    """ "size mtime_ns ctime_ns inode", which changes when a file is touched; None without a file.

    Of a link it is that of the target.
    """
    try:
        return _signature(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _signature(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def tree(folder: Path) -> dict[str, Path]:
    """Relative name -> path of every file below a folder, sorted by name.

    Links are followed; hidden files and folders are left out.
    """
    files: dict[str, Path] = {}
    visited: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        inode = (status.st_dev, status.st_ino)
        if inode in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(inode)

        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                files[_printable(path.relative_to(folder))] = path
    return dict(sorted(files.items()))


def _printable(path: Path) -> str:
    """A file name as text, with the bytes that are not UTF-8 escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Digests:
    """Digests by path and signature, kept in memory and, with a `folder`, on its disk."""

    def __init__(self, folder: Path | None = None):
        self._folder = folder
        # Both map a path to "signature sha256".
        self._mine: dict[str, str] = {}  # hashed by this process
        self._new: dict[str, str] = {}  # of these, the ones to be saved
        self._recorders: list[dict[str, str]] = []

    @functools.cached_property
    def _remembered(self) -> dict[str, str]:
        return _read(self._folder / FILE) if self._folder else {}

    @functools.cached_property
    def _ahead(self) -> float:
        """Seconds from the monotonic clock to the file system's clock, or else this machine's."""
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
        """The digests of several files, hashed in threads if they are large."""
        paths = list(paths)
        if len(paths) < 2 or _n_bytes(paths) < THREADED_BYTES:
            return {path: self.file(path) for path in paths}

        from concurrent.futures import ThreadPoolExecutor

        n_threads = min(8, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(n_threads) as pool:
            return dict(zip(paths, pool.map(self.file, paths), strict=True))

    def path(self, path: Path) -> str:
        """The digest of a file, or of a folder: of its files (`tree`) and their relative names."""
        if path.is_file():
            return self.file(path)
        from mlalign.core.store import fingerprint

        files = tree(path)
        digests = self.files(files.values())
        return fingerprint({name: digests[file] for name, file in files.items()})

    def settled(self, path: str) -> str | None:
        """The signature that a file had when it was hashed; None if it is not remembered."""
        entry = self._mine.get(path) or self._remembered.get(path)
        if not entry:
            return None
        return entry.rpartition(" ")[0]

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
        """Keep the digests of the files below a folder that was renamed."""
        old_prefix = f"{os.path.abspath(old)}{os.sep}"
        new_folder = os.path.abspath(new)
        for digests in (self._mine, self._new):
            below = [path for path in digests if path.startswith(old_prefix)]
            for path in below:
                renamed = os.path.join(new_folder, path.removeprefix(old_prefix))
                digests[renamed] = digests.pop(path)

    def save(self) -> None:
        """Add the new digests to the cache file, unless the disk cannot be written.

        What other processes have written in the meantime stays.
        """
        if not self._folder or not self._new:
            return
        from mlalign.core.store import write_json

        file = self._folder / FILE
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / f"{FILE}.lock"):
                write_json(file, {**_read(file), **self._new})
            self._new = {}

    def forget_missing(self) -> None:
        """Drop the entries of files that are gone."""
        if not self._folder:
            return
        from mlalign.core.store import write_json

        file = self._folder / FILE
        with contextlib.suppress(OSError), _locked(self._folder / f"{FILE}.lock"):
            entries = _read(file)
            present = {path: entry for path, entry in entries.items() if signature(path)}
            if len(present) < len(entries):
                write_json(file, present)

    def _known(self, path: str) -> str | None:
        current = signature(path)
        if current is None:
            return None
        for digests in (self._mine, self._remembered):
            entry = digests.get(path, "")
            if entry.startswith(f"{current} "):
                return entry.rpartition(" ")[2]
        return None

    def _hash(self, path: str) -> str:
        """Hash a file, up to three times if it is being written.

        The digest is remembered only if a later change is sure to change the signature.
        """
        self._mine.pop(path, None)
        for _ in range(3):
            before = os.stat(path)
            now = self._ahead + time.monotonic()
            digest = sha256(Path(path))
            after = signature(path)
            is_stable = after == _signature(before)
            if is_stable:
                break

        if is_stable and abs(now - before.st_ctime) >= SETTLED_S:
            self._mine[path] = f"{after} {digest}"
            if before.st_size >= REMEMBERED_BYTES:
                self._new[path] = self._mine[path]
        return digest


class Watch:
    """Hashed files and their folders: whether any of them was touched since."""

    def __init__(self, digests: Digests, files: Iterable[str]):
        files = list(files)
        self._signatures = {path: digests.settled(path) for path in files}
        for path in files:
            folder = os.path.dirname(path)
            self._signatures[folder] = signature(folder)

    def untouched(self) -> bool:
        """False also for a file that was written just before it was hashed. Stats each file."""
        for path, recorded in self._signatures.items():
            if recorded is None or signature(path) != recorded:
                return False
        return True


@functools.cache
def of_store(root: Path) -> Digests:
    """The digests of a store, shared by all of this process."""
    return Digests(root)


def _n_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())


def _read(file: Path) -> dict[str, str]:
    """The entries of a cache file, without malformed ones; empty if the file is malformed."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {path: entry for path, entry in content.items() if _is_entry(entry)}


def _is_entry(value: object) -> bool:
    return isinstance(value, str) and HEX.fullmatch(value.rpartition(" ")[2]) is not None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time.

    The kernel drops the lock when its owner dies. After LOCK_WAIT_S the block runs without it.
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
