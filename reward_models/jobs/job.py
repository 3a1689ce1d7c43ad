"""A run of scoring that survives everything: its finished work lies in `OUTPUT.parts/` until the
output is whole.

    OUTPUT.parts/run.json       what the run is (`identity`), and the survey of its input
    OUTPUT.parts/part-X.jsonl   the new columns of the rows of some windows: a JSON object per row, null for one that was put aside
    OUTPUT.parts/part-X.json    its marker, written when the lines are on the disk: key of a window -> where its lines are, its counts,
                                and a digest of all that
    OUTPUT.json                 provenance of the finished output, written before the output gets its name
    NAME.rejected.jsonl         bad rows that were put aside

Several processes, on several machines, may work on one run at once: names are a process's own,
nothing is ever changed after it was written, and work is found by the key of its window. So nothing
needs a lock: what two of them did twice is taken once. Whoever finds all windows done puts the
output together; if two do, they write the same bytes. Work that is not as it was written, or is
another run's, is said to be so and done again.
"""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from reward_models import files
from reward_models.jobs.identity import KNOWN, differences, digest
from reward_models.jobs.survey import Survey

PART_S = 10.0  # how often finished windows reach the disk, at least
PART_FRAC = 0.1  # and before that: a kill costs a tenth of a process's time, or one window


@dataclasses.dataclass(frozen=True)
class Lines:
    """The finished lines of one window."""

    key: str
    path: Path
    start: int
    size: int
    counts: dict[str, Any]
    sha256: str  # of key, counts and lines

    def read(self) -> bytes:
        """Raises: UserError if they are not what was written."""
        with open(self.path, "rb") as f:
            f.seek(self.start)
            lines = f.read(self.size)
        if digest_of_lines(self.key, self.counts, lines) != self.sha256:
            raise UserError(
                f"{self.path}: is not what was written there; run the same command again, which"
                " scores these rows anew"
            )
        return lines

    @staticmethod
    def of_marker(key: str, path: Path, where: Any) -> "Lines | None":
        """What a marker tells of a window; None if it is malformed, or the lines are not what was
        written.
        """
        kinds = (int, int, dict, str)
        if (
            not isinstance(where, list)
            or len(where) != len(kinds)
            or not all(map(isinstance, where, kinds))
            or min(where[:2]) < 0
        ):
            return None
        found = Lines(key, path, *where)
        try:
            found.read()
        except (UserError, FileNotFoundError):
            return None
        return found


def digest_of_lines(key: str, counts: dict, lines: bytes) -> str:
    told = json.dumps([key, counts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(told.encode() + b"\n" + lines).hexdigest()


class Job:
    """One run: an output, and what it is made from.

    `still` is called before work is kept; it raises if a model was changed.
    """

    def __init__(self, output: Path, identity: dict, still: Callable[[], None] = lambda: None):
        self.output, self.identity, self.still = output, identity, still
        self.folder = output.with_name(output.name + ".parts")
        self.provenance = output.with_name(output.name + ".json")
        self.rejected = output.with_name(
            output.name.removesuffix(output.suffix) + ".rejected.jsonl"
        )
        self.run = digest(identity)
        self._done: dict[str, Lines] = {}
        self._seen: set[str] = set()

    # -------------------------------------------------------------------------------- what is there

    def finished(self) -> dict | None:
        """The provenance of the output if this run has made it already, None if there is no output.

        Raises: UserError if the output is another run's.
        """
        if not self.output.exists():
            if self.provenance.is_file() and "identity" not in _read(self.provenance):
                raise UserError(
                    f"{self.provenance}: exists already, and this run would write there; remove it"
                    " or choose another --output"
                )
            return None
        mend = "remove it or choose another --output"
        if not self.provenance.is_file():
            raise UserError(f"{self.output}: exists already; {mend}")
        told = _read(self.provenance)
        different = differences(told.get("identity"), self.identity)
        if told.get("size") != self.output.stat().st_size or told.get("sha256") != KNOWN.file(
            self.output
        ):
            different.append("the file was changed since")
        if different:
            raise UserError(
                f"{self.output}: exists already, from another run ({'; '.join(different)}); {mend}"
            )
        return told

    def saved(self) -> dict | None:
        """`{identity, survey}` of the run whose work is in the folder; None, after saying so, if
        that is not as it was written.
        """
        path = self.folder / "run.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            told = None
        if isinstance(told, dict) and told.pop("sha256", None) == digest(told):
            return told
        _say(f"{path}: is not what was written there; the rows are looked at again")
        return None

    def check_folder(self, *, restart: bool) -> None:
        """Raises: UserError if the folder holds work of another run; with `restart`, or where none
        is finished, that is thrown away.
        """
        told = self.saved()
        strange = self.folder.exists() and not (self.folder / "run.json").exists()
        if strange and any(not p.name.startswith(".") for p in self.folder.iterdir()):
            raise UserError(
                f"{self.folder}: holds other things, and this run would work there; move them or"
                " choose another --output"
            )
        different = differences(told["identity"], self.identity) if told else []
        if not different:
            return
        if not restart and any(self.folder.glob("part-*.json")):
            raise UserError(
                f"{self.folder}: is unfinished work of another run ({'; '.join(different)}); "
                "choose another --output, or throw it away with --restart"
            )
        self.throw_away()

    def begin(self, survey: Survey, *, restart: bool) -> str | None:
        """Note what the run is; returns what to tell a person about work that was kept though the
        input changed.

        Raises: UserError if the folder holds work, but none of it for these rows: it is another
            input's.
        """
        told = self.saved()
        self.folder.mkdir(parents=True, exist_ok=True)
        if told and told["survey"] == survey.to_dict():
            return None
        message = None
        if told and self.done() and _contents(told["survey"]) != _contents(survey.to_dict()):
            kept = sum(w.key in self.done() for w in survey.windows)
            if not kept and not restart:
                raise UserError(
                    f"{self.folder}: is unfinished work on other rows ({_files(told['survey'])}); "
                    "choose another --output, or throw it away with --restart"
                )
            if not kept:
                self.throw_away()
                self.folder.mkdir(parents=True, exist_ok=True)
            message = (
                f"the input was changed since: {kept:,} of {len(self.done()):,} finished windows"
                " still stand in it and are kept"
            )
        run = {"identity": self.identity, "survey": survey.to_dict()}
        files.write_json(self.folder / "run.json", {**run, "sha256": digest(run)})
        return message

    def done(self) -> dict[str, Lines]:
        """Key of a window -> its finished lines, by whichever process; looks for new ones at each
        call.
        """
        with contextlib.suppress(FileNotFoundError):
            for marker in sorted(
                p for p in self.folder.glob("part-*.json") if p.name not in self._seen
            ):
                self._seen.add(marker.name)
                self._done = self._of_marker(marker) | self._done
        return self._done

    def _of_marker(self, marker: Path) -> dict[str, Lines]:
        """The finished windows of a part; those that are not as they were written are left out, and
        said.
        """
        try:
            told = json.loads(marker.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or not isinstance(told.get("windows"), dict):
            _say(f"{marker}: is malformed; its rows are scored again")
            return {}
        if told.get("run") != self.run:
            _say(f"{marker}: is of another run, and not used")
            return {}
        found = {
            key: Lines.of_marker(key, marker.with_suffix(".jsonl"), where)
            for key, where in told["windows"].items()
        }
        if wrong := sum(lines is None for lines in found.values()):
            _say(
                f"{marker.with_suffix('.jsonl')}: {wrong} of {len(found)} windows are not what was"
                " written there; scored again"
            )
        return {key: lines for key, lines in found.items() if lines}

    @contextlib.contextmanager
    def unless_finished(self) -> Iterator[None]:
        """Work in the folder; the block ends early where another process has finished the output
        and removed the folder.
        """
        try:
            yield
        except FileNotFoundError:
            if not self.output.exists():
                raise

    def throw_away(self) -> None:
        """Remove the folder; of several processes that want to, one does."""
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(self.folder.with_name(f".{self.folder.name}.{uuid.uuid4().hex[:8]}"))
        for aside in self.folder.parent.glob(
            f".{glob.escape(self.folder.name)}.*"
        ):  # also what a killed process left
            shutil.rmtree(aside, ignore_errors=True)
        self._done, self._seen = {}, set()


class Part:
    """Finished windows on their way to the disk.

    A context manager: what is finished is kept however the block ends.
    """

    def __init__(self, job: Job):
        self._job = job
        self._file: Any = None
        self._began = self._closed = time.monotonic()

    def add(self, key: str, columns: Sequence[dict | None], counts: dict) -> None:
        """One finished window."""
        if self._file is None:
            self._path = self._job.folder / f"part-{uuid.uuid4().hex[:16]}.jsonl"
            self._file = open(self._path, "xb")  # noqa: SIM115  # closed by `close`
            self._windows: dict[str, tuple] = {}
        start = self._file.tell()
        lines = "".join(files.STRICT.encode(c) + "\n" for c in columns).encode()
        self._file.write(lines)
        self._windows[key] = (start, len(lines), counts, digest_of_lines(key, counts, lines))
        now = time.monotonic()
        if now - self._closed >= min(PART_S, PART_FRAC * (now - self._began)):
            self.close()
            self._closed = now

    def close(self) -> None:
        """Bring what was added to the disk, then say so in a marker."""
        if self._file is None:
            return
        with self._file as file:
            self._file = None
            file.flush()
            os.fsync(file.fileno())
        self._job.still()
        files.write_json(
            self._path.with_suffix(".json"), {"run": self._job.run, "windows": self._windows}
        )

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def total(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sum of counts of windows; of examples the first few."""
    out: dict[str, Any] = {}
    for counts in parts:
        for name, value in counts.items():
            if name == "languages":
                merged = out.setdefault(name, {})
                for code, by in value.items():
                    merged[code] = total([merged.get(code, {}), by])
            elif name == "examples":
                out[name] = (out.get(name, []) + value)[:5]
            else:
                out[name] = out.get(name, 0) + value
    return out


def _say(text: str) -> None:
    say(text, file=sys.stderr, flush=True)


def _contents(survey: dict) -> list[tuple]:
    return [(f["name"], f["sha256"]) for f in survey["files"]]


def _files(survey: dict) -> str:
    return ", ".join(f"{f['name']} of {f['rows']:,} rows" for f in survey["files"][:3])


def _read(path: Path) -> dict:
    try:
        told: dict = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({error}); remove it and run the same command again"
        ) from None
    return told
