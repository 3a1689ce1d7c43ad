"""The jobs of a run: `runs/NAME/slurm/jobs.jsonl`, one line for each that was submitted, and which
of them still wait or run.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core import claims, shapes
from mlalign.core.errors import UserError
from mlalign.running.slurm import commands, queue
from mlalign.running.slurm.batch import file_name

FILE = "jobs.jsonl"
NEVER = "DependencyNeverSatisfied"


@dataclasses.dataclass(frozen=True)
class Live:
    """A job that waits or runs: what its line says, and the state, reason and nodes of each of its
    tasks in Slurm's words.
    """

    entry: dict[str, Any]
    tasks: list[tuple[str, str, str]]

    @property
    def waits(self) -> bool:
        return all(state == "PENDING" for state, _, _ in self.tasks)


def read(folder: Path) -> list[dict[str, Any]]:
    """Every job that was submitted for a run, in that order; a line that is just being written is
    left out. `script` and `log` are relative to the folder.

    Raises: UserError naming an unreadable line.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    found = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: is no text; remove the lines that something else has written"
        ) from None
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{path}, line {number}: is no JSON; remove the line") from None
        if isinstance(entry, dict):
            entry = {"after": [], "continues": None, **entry}
        wrong = shapes.problem(entry, shapes.JOB)
        if wrong is None and not str(entry["job"]).isdecimal():
            wrong = f"{entry['job']!r} is no number of a job"
        if wrong:
            raise UserError(f"{path}, line {number}: {wrong}; remove the line")
        found.append(entry)
    return found


def current(recorded: Iterable[dict[str, Any]], step: str) -> list[dict[str, Any]]:
    """The jobs of a step's last submission: the job, and those that go on for it or for one of its
    tasks.
    """
    mine = {str(job["job"]): job for job in recorded if job["step"] == step}

    def root(job: dict[str, Any]) -> str:
        before = str(job["continues"] or "").partition("_")[0]
        return root(mine[before]) if before in mine else str(job["job"])

    last = root(list(mine.values())[-1]) if mine else ""
    return [job for job in mine.values() if root(job) == last]


def cancelled(folder: Path, step: str | None = None) -> bool:
    """Whether `mlalign cancel` wants the jobs of a run, or of this step of it, to end for good."""
    return (folder / "cancelled").exists() or (
        step is not None and (folder / f"{file_name(step)}.cancelled").exists()
    )


def go_on(folder: Path) -> None:
    """An earlier `mlalign cancel` of the whole run is over."""
    (folder / "cancelled").unlink(missing_ok=True)


def append(folder: Path, entry: dict[str, Any]) -> None:
    """Add a line in one write, so that lines of several processes do not mix."""
    line = json.dumps({**entry, "submitted": time.time()}, ensure_ascii=False) + "\n"
    handle = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def _queued(entries: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[str, str, str]]]:
    """Job id (of the whole array) -> (state, reason, nodes) of each task, for those of these jobs
    that wait or run.
    """
    found: dict[str, list[tuple[str, str, str]]] = {}
    ids = [entry["job"] for entry in entries]
    for task in queue.squeue(ids, commands.TIMEOUT_S) if ids else []:
        if task.active:
            found.setdefault(task.array, []).append((task.state, task.reason, task.nodes))
    return found


def live(folder: Path) -> tuple[list[Live], list[str]]:
    """The jobs of a run that wait or run for what is not there yet, in the order of submission; and
    the ids of those that wait for what can no longer come.

    Raises: UserError if Slurm does not answer.
    """
    entries = read(folder)
    queued = _queued(e for e in entries if not _there(folder, e["artifact"]))
    found = {e["job"]: Live(e, queued[e["job"]]) for e in entries if e["job"] in queued}
    found = {
        job: one
        for job, one in found.items()
        if not all(reason == NEVER for _, reason, _ in one.tasks)
    }
    for job, one in list(found.items()):  # what a job waits for was submitted before it
        if one.waits and any(
            _lost(folder, entries, found, before) for before in one.entry["after"]
        ):
            del found[job]
    return list(found.values()), [job for job in queued if job not in found]


def _lost(
    folder: Path, entries: Sequence[dict[str, Any]], found: Mapping[str, Live], job: str
) -> bool:
    """Whether a job neither waits nor runs nor is gone on with, and its artifact is not there."""
    artifact = next((e["artifact"] for e in entries if e["job"] == job), None)
    if artifact is None or any(job in chain(entries, other) for other in found):
        return False
    return not _there(folder, artifact)


def _there(folder: Path, artifact: str) -> bool:
    return (folder.parent.parent.parent / "store" / artifact / "manifest.json").is_file()


@contextlib.contextmanager
def alone(folder: Path, patience_s: float = 0) -> Iterator[None]:
    """Be the only one who submits for a run, after waiting for others up to `patience_s` seconds.

    Raises: UserError if another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(claims.claim_in_turn(folder, "submit", patience_s))
        except claims.Taken:
            raise UserError(
                f"name: another process is submitting run {folder.parent.name!r} at this moment;"
                " wait until it has ended, then see `mlalign status`"
            ) from None
        yield


def chain(entries: Sequence[dict[str, Any]], job: str) -> set[str]:
    """The jobs that a job goes on for: itself and those that it continues, back to the first."""
    by_id, found = {e["job"]: e for e in entries}, {job}
    while (before := by_id.get(job, {}).get("continues")) and (
        job := before.partition("_")[0]
    ) not in found:
        found.add(job)
    return found
