"""A run of scoring: its finished work lies in `OUTPUT.parts/` until the output is whole.

    OUTPUT.parts/run.json       what the run is (`identity`), and the survey of its input
    OUTPUT.parts/part-X.*       the new columns of the rows of finished windows, a JSON object a
                                row, null for one that was put aside (`mlalign.core.resume`)
    OUTPUT.json                 provenance of the output, written before the output gets its name
    NAME.rejected.jsonl         bad rows that were put aside

Several processes, on several machines, may work on one run at once. Whoever finds all windows done
puts the output together; if two do, they write the same bytes.
"""

import contextlib
import glob
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlalign.core import resume
from mlalign.core.errors import UserError
from reward_models.jobs.identity import KNOWN, differences, digest
from reward_models.jobs.survey import Survey, Window

RUN = "run.json"
MEND = "remove it or choose another --output"
OR_RESTART = "choose another --output, or throw it away with --restart"


class Job:
    """One run: an output, and what it is made from.

    `still` is called before work is kept; it raises if a model was changed.
    """

    def __init__(self, output: Path, identity: dict, still: Callable[[], None] = lambda: None):
        stem = output.name.removesuffix(output.suffix)
        self.output, self.identity, self.still = output, identity, still
        self.folder = output.with_name(f"{output.name}.parts")
        self.provenance = output.with_name(f"{output.name}.json")
        self.rejected = output.with_name(f"{stem}.rejected.jsonl")
        self._look_anew()

    def _look_anew(self) -> None:
        self.units = resume.Units(self.folder, digest(self.identity), self.still)

    # ------------------------------------------------------------------------------ what is there

    def finished(self) -> dict | None:
        """The provenance of the output if this run has made it; None if there is no output.

        Raises: UserError if the output is another run's.
        """
        if not self.output.exists():
            if self.provenance.is_file() and "identity" not in _read(self.provenance):
                problem = "exists already, and this run would write there"
                raise UserError(f"{self.provenance}: {problem}; {MEND}")
            return None
        if not self.provenance.is_file():
            raise UserError(f"{self.output}: exists already; {MEND}")

        provenance = _read(self.provenance)
        problems = differences(provenance.get("identity"), self.identity)
        has_size = provenance.get("size") == self.output.stat().st_size
        if not has_size or provenance.get("sha256") != KNOWN.file(self.output):
            problems.append("the file was changed since")
        if problems:
            which = f"from another run ({'; '.join(problems)})"
            raise UserError(f"{self.output}: exists already, {which}; {MEND}")
        return provenance

    def saved(self) -> dict | None:
        """`{identity, survey}` of the run whose work is in the folder, as it was written."""
        return resume.read_value(self.folder / RUN, RUN)

    def left(self, windows: Sequence[Window]) -> list[Window]:
        """The windows that no process has finished."""
        done = self.units.done()
        return [window for window in windows if window.key not in done]

    def check_folder(self, *, restart: bool) -> None:
        """Throw away what another run has left, if that is nothing or `restart` is set.

        Raises: UserError if the folder holds work of another run, or other things.
        """
        saved = self.saved()
        if self._holds_other_things():
            problem = "holds other things, and this run would work there"
            raise UserError(f"{self.folder}: {problem}; move them or choose another --output")

        changes = differences(saved["identity"], self.identity) if saved else []
        if not changes:
            return
        if not restart and any(self.folder.glob("part-*.json")):
            problem = f"is unfinished work of another run ({'; '.join(changes)})"
            raise UserError(f"{self.folder}: {problem}; {OR_RESTART}")
        self.throw_away()

    def _holds_other_things(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            visible = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
            # In this order: a run writes RUN first, and whoever finishes it takes the folder away.
            return bool(visible) and not (self.folder / RUN).exists() and visible[0].exists()
        return False

    # ---------------------------------------------------------------------------------- the work

    def begin(self, survey: Survey, *, restart: bool) -> str | None:
        """Note what the run is.

        Returns a message if the input was changed and some work for it is kept.
        Raises: UserError if the folder holds work, but none of it for these rows.
        """
        saved = self.saved()
        self.folder.mkdir(parents=True, exist_ok=True)
        value = {"identity": self.identity, "survey": survey.to_dict()}
        if saved and saved["survey"] == value["survey"]:
            return None

        message = None
        n_done = len(self.units.done())
        if saved and n_done and _contents(saved["survey"]) != _contents(value["survey"]):
            n_kept = len(survey.windows) - len(self.left(survey.windows))
            if not n_kept and not restart:
                problem = f"is unfinished work on other rows ({_files(saved['survey'])})"
                raise UserError(f"{self.folder}: {problem}; {OR_RESTART}")
            if not n_kept:
                self.throw_away()
                self.folder.mkdir(parents=True, exist_ok=True)
                n_done = 0
            kept = f"{n_kept:,} of {n_done:,} finished windows still stand in it and are kept"
            message = f"the input was changed since: {kept}"
        resume.write_value(self.folder / RUN, RUN, value)
        return message

    @contextlib.contextmanager
    def unless_finished(self) -> Iterator[None]:
        """Work in the folder.

        The block ends early if another process has finished the output and removed the folder.
        """
        try:
            yield
        except FileNotFoundError:
            if not self.output.exists():
                raise

    def throw_away(self) -> None:
        """Remove the folder; of several processes that want to, one does."""
        aside = f".{self.folder.name}.{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(self.folder.with_name(aside))
        # What a process that was killed has put aside goes too.
        for path in self.folder.parent.glob(f".{glob.escape(self.folder.name)}.*"):
            shutil.rmtree(path, ignore_errors=True)
        self._look_anew()


def total(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sum of counts of windows; of examples the first few."""
    sums: dict[str, Any] = {}
    for counts in parts:
        for name, value in counts.items():
            if name == "languages":
                by_language = sums.setdefault(name, {})
                for code, own in value.items():
                    by_language[code] = total([by_language.get(code, {}), own])
            elif name == "examples":
                sums[name] = (sums.get(name, []) + value)[:5]
            else:
                sums[name] = sums.get(name, 0) + value
    return sums


def _contents(survey: dict) -> list[tuple]:
    return [(file["name"], file["sha256"]) for file in survey["files"]]


def _files(survey: dict) -> str:
    return ", ".join(f"{file['name']} of {file['rows']:,} rows" for file in survey["files"][:3])


def _read(path: Path) -> dict:
    try:
        provenance: dict = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        mend = "remove it and run the same command again"
        raise UserError(f"{path}: cannot be read as JSON ({error}); {mend}") from None
    return provenance
