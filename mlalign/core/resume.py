"""What unfinished work leaves behind, and how it is checked before it is trusted.

A kept value is a JSON file with a digest of its own. Finished units of work (such as a window of
rows that are scored together) lie in a folder, each under a key that says what it was made from:

    FOLDER/part-X.jsonl   the results of some units
    FOLDER/part-X.json    their marker, a kept value written once the results are on the disk:
                          key of a unit -> where its result is, its digest, facts about it

Several processes on several machines may add to a folder at once. Each writes files under names of
its own and never changes them afterwards, so nothing needs a lock, and a unit that two processes
computed counts once. Whatever is not as it was written is reported, and computed again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mlalign.core import durable
from mlalign.core.errors import UserError
from mlalign.core.store import fingerprint
from mlalign.core.terminal import say

PART_S = 10.0  # results reach the disk at least this often
PART_FRAC = 0.1  # and sooner at first: a kill costs a tenth of a process's time, or one unit
PART_PAUSES = 20  # but not so often that writing takes more than a twentieth of the time
DAMAGED = "is not what was written there"


def write_value(path: Path, key: str, value: dict[str, Any]) -> None:
    """Keep a JSON-able value that was computed for `key`."""
    digest = fingerprint({"key": key, "value": value})
    durable.write_json(path, {"key": key, "sha256": digest, "value": value})


def read_value(path: Path, key: str) -> dict[str, Any] | None:
    """The value that was kept for `key`; None if there is none, or it is another key's.

    A file that is not as it was written is reported and counts as missing.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        kept = None
    if not isinstance(kept, dict) or not isinstance(kept.get("value"), dict):
        say_damaged(path)
        return None
    if fingerprint({"key": kept.get("key"), "value": kept["value"]}) != kept.get("sha256"):
        say_damaged(path)
        return None
    return kept["value"] if kept["key"] == key else None


def say_damaged(path: Path, problem: str = DAMAGED) -> None:
    say(f"{path}: {problem}; computed again", file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A finished unit: `size` bytes of a part from byte `start`, and facts about them."""

    part: Path
    start: int
    size: int
    sha256: str
    facts: dict[str, Any]

    def read(self) -> bytes:
        """The result. Raises: UserError if it is not what was written."""
        with open(self.part, "rb") as f:
            f.seek(self.start)
            result = f.read(self.size)
        if hashlib.sha256(result).hexdigest() != self.sha256:
            raise UserError(
                f"{self.part}: {DAMAGED}; run the same command again, which computes it anew"
            )
        return result

    def is_sound(self) -> bool:
        try:
            self.read()
        except (UserError, FileNotFoundError):
            return False
        return True


class Units:
    """The finished units in a folder.

    `key` stands for everything that all results depend on; units of another key are not used.
    `check` is called before results are kept. It raises if something that they depend on was
    changed meanwhile.
    """

    def __init__(self, folder: Path, key: str, check: Callable[[], None] = lambda: None):
        self.folder, self.key, self.check = folder, key, check
        self._done: dict[str, Unit] = {}
        self._seen: set[Path] = set()

    def done(self) -> dict[str, Unit]:
        """Key -> unit, whichever process finished it. Every call looks for new parts."""
        with contextlib.suppress(FileNotFoundError):
            for marker in sorted(self.folder.glob("part-*.json")):
                if marker not in self._seen:
                    self._seen.add(marker)
                    self._done = self._of_part(marker) | self._done
        return self._done

    def _of_part(self, marker: Path) -> dict[str, Unit]:
        """The units of a part that are as they were written."""
        part = marker.with_suffix(".jsonl")
        places = read_value(marker, self.key) or {}
        units = {key: Unit(part, *place) for key, place in places.items()}
        sound = {key: unit for key, unit in units.items() if unit.is_sound()}
        n_damaged = len(units) - len(sound)
        if n_damaged:
            say_damaged(part, f"{n_damaged} of {len(units)} results are not what was written there")
        return sound


class Writer:
    """Adds finished units to a folder, which must exist.

    A context manager: what is finished is kept however the block ends.
    """

    def __init__(self, units: Units):
        self._units = units
        self._file: IO[bytes] | None = None
        self._path = units.folder
        self._places: dict[str, tuple] = {}
        self._began = self._closed = time.monotonic()
        self._took = 0.0

    def add(self, key: str, result: bytes, facts: dict[str, Any]) -> None:
        if self._file is None:
            self._path = self._units.folder / f"part-{uuid.uuid4().hex[:16]}.jsonl"
            self._file = open(self._path, "xb")  # noqa: SIM115  # `close` closes it
        digest = hashlib.sha256(result).hexdigest()
        self._places[key] = (self._file.tell(), len(result), digest, facts)
        self._file.write(result)

        now = time.monotonic()
        pause = max(PART_FRAC * (now - self._began), PART_PAUSES * self._took)
        if now - self._closed >= min(PART_S, pause):
            self.close()
            self._closed = time.monotonic()
            self._took = self._closed - now

    def close(self) -> None:
        """Bring the open part to the disk, then write its marker."""
        if self._file is None:
            return
        with self._file as file:
            self._file = None
            file.flush()
            os.fsync(file.fileno())
        self._units.check()
        write_value(self._path.with_suffix(".json"), self._units.key, self._places)
        self._places = {}

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
