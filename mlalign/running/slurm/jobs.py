"""The jobs of a run: one line of `runs/NAME/slurm/jobs.jsonl` for each, and which still live."""

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
    """A job that waits or runs.

    `entry` is its line in the file; `tasks` has the state, reason and nodes of each task, in
    Slurm's words.
    """

    entry: dict[str, Any]
    tasks: list[tuple[str, str, str]]

    @property
    def waits(self) -> bool:
        return all(state == "PENDING" for state, _, _ in self.tasks)


def read(folder: Path) -> list[dict[str, Any]]:
    """Every job that was submitted for a run, in that order.

    A line that is just being written is left out. `script` and `log` are relative to the folder.

    Raises: UserError naming an unreadable line.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    entries = []
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
        entries.append(entry)
    return entries


def current(recorded: Iterable[dict[str, Any]], step: str) -> list[dict[str, Any]]:
    """The jobs of a step's last submission: the job, and those that continue it or its tasks."""
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
    """Job id (of the whole array) -> (state, reason, nodes) of its tasks, if it waits or runs."""
    ids = [entry["job"] for entry in entries]
    if not ids:
        return {}
    tasks_of: dict[str, list[tuple[str, str, str]]] = {}
    for task in queue.squeue(ids, commands.TIMEOUT_S):
        if task.active:
            tasks_of.setdefault(task.array, []).append((task.state, task.reason, task.nodes))
    return tasks_of


def live(folder: Path) -> tuple[list[Live], list[str]]:
    """The jobs of a run that wait or run for what is not there yet, in the order of submission.

    Beside them come the ids of those that wait for what can no longer come.

    Raises: UserError if Slurm does not answer.
    """
    entries = read(folder)
    queued = _queued(entry for entry in entries if not _there(folder, entry["artifact"]))
    alive: dict[str, Live] = {}
    for entry in entries:
        tasks = queued.get(entry["job"])
        if tasks and not all(reason == NEVER for _, reason, _ in tasks):
            alive[entry["job"]] = Live(entry, tasks)

    # What a job waits for was submitted before it, so one pass finds all that cannot start.
    for job, waiting in list(alive.items()):
        after = waiting.entry["after"]
        if waiting.waits and any(_lost(folder, entries, alive, before) for before in after):
            del alive[job]
    return list(alive.values()), [job for job in queued if job not in alive]


def _lost(
    folder: Path, entries: Sequence[dict[str, Any]], alive: Mapping[str, Live], job: str
) -> bool:
    """Whether a job is gone, no other continues it, and its artifact is not there."""
    artifact = next((entry["artifact"] for entry in entries if entry["job"] == job), None)
    if artifact is None or any(job in chain(entries, other) for other in alive):
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
    continued_by = {entry["job"]: entry["continues"] for entry in entries}
    links: set[str] = set()
    while job and job not in links:
        links.add(job)
        job = (continued_by.get(job) or "").partition("_")[0]
    return links
