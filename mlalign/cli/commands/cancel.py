"""`mlalign cancel name=RUN [step=STEP] [now=true]`: stop a run, or one of its steps.

The process of the run is asked to stop (`run_process`). A STOP file in a step's partial artifact
asks the step to save its state and end; the run kills a step that has not ended within a minute.
Slurm jobs that wait are cancelled. Running jobs are asked by a signal, and the file
`runs/NAME/slurm/cancelled` (`STEP.cancelled` for one step) keeps them from requeueing themselves.
With `now=true` everything is killed at once, and resumes later from its last checkpoint or shard.
The same `mlalign run` resumes the run.
"""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mlalign.cli.commands import flag, known, name_of, read_plan, root_of, steps_named
from mlalign.core import claims
from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from mlalign.running import run_process
from mlalign.running.slurm import commands, jobs, queue
from mlalign.running.slurm.queue import Job

MARKER = "cancelled"
ANSWER_S = 3 * run_process.POLL_S  # by then a run's process has seen a request
KILL_S = 10.0  # a process that has not ended by itself by then is killed


def run(arguments: Mapping[str, str]) -> int:
    known(arguments, ("name", "root", "step", "now"))
    root = root_of(arguments)
    name = name_of(arguments)
    now = flag(arguments, "now")
    one_step = "step" in arguments
    run_dir = root / "runs" / name
    runs = run_process.processes(run_dir)
    # A run that is still being planned has no plan yet, so its steps are not known.
    has_plan = (run_dir / "plan.json").is_file() or not runs
    steps = steps_named(read_plan(root, name), arguments.get("step")) if has_plan else []
    partials = {s["step"]: root / "store" / f"{s['artifact']}.partial" for s in steps}
    recorded = jobs.read(run_dir / "slurm")
    chosen = _with_dependents(recorded, partials) if one_step else recorded
    if chosen:
        _mark(run_dir, chosen if one_step else None)

    artifacts = None
    if one_step:
        artifacts = [step["artifact"] for step in steps]
    lines = _runs(run_dir, runs, now, artifacts)
    lines += _local(partials, now, {str(job["job"]) for job in recorded})
    if chosen:
        slurm = queue.ask(str(job["job"]) for job in chosen)
        if slurm.problem:
            say(*lines, sep="\n", end="\n" if lines else "")
            marked = "the jobs of this run are marked as cancelled and will not requeue"
            raise UserError(f"{slurm.problem}; {marked}, but those that wait may start")
        lines += _slurm(chosen, slurm.jobs, now)
    say("\n".join(lines) or "no step of this run is running or waiting in the queue")
    return 0


def _runs(
    run_dir: Path,
    runs: Sequence[claims.Owner],
    now: bool,
    artifacts: Sequence[str] | None,
) -> list[str]:
    """Ask the run's processes to stop, or those that work on some artifacts.

    With `now`, those that do not end are killed.
    """
    for owner in runs:
        run_process.ask(run_dir, owner, now=now, artifacts=artifacts)
    stopping = list(runs)
    if artifacts is not None and runs:
        time.sleep(ANSWER_S)
        stopping = [owner for owner in runs if not run_process.has_refused(run_dir, owner)]
    if now:
        _wait_for(run_dir, stopping)
    return [f"{run_dir.name}: {_stopped(run_dir, owner, now)}" for owner in stopping]


def _wait_for(run_dir: Path, owners: Sequence[claims.Owner]) -> None:
    end = time.monotonic() + KILL_S
    names = {owner["claim"] for owner in owners}
    while time.monotonic() < end and names & _claims(run_dir):
        time.sleep(0.1)


def _claims(run_dir: Path) -> set[str]:
    """The claims of the run's processes that still exist."""
    return {owner["claim"] for owner in run_process.processes(run_dir)}


def _stopped(run_dir: Path, owner: claims.Owner, now: bool) -> str:
    if not now:
        outcome = "asked to stop"
    elif owner["claim"] not in _claims(run_dir):
        outcome = "stopped"
    elif run_process.has_refused(run_dir, owner):
        # It only watches Slurm jobs.
        outcome = "ends with its jobs"
    else:
        outcome = _kill(owner)
    return f"{claims.named(owner)}: {outcome}"


def _with_dependents(recorded: Sequence[Mapping], steps: Iterable[str]) -> list[Mapping]:
    """The jobs of these steps, and all that wait for them, which could never start."""
    names = set(steps)
    dependents: list[Mapping] = []
    ids = set[str]()
    # Jobs are recorded after those that they wait for.
    for job in recorded:
        if job["step"] in names or ids & {str(after) for after in job["after"]}:
            ids.add(str(job["job"]))
            dependents.append(job)
    return dependents


def _mark(run_dir: Path, chosen: Iterable[Mapping] | None) -> None:
    """Keep running jobs (these, or all) from requeueing themselves and from submitting more."""
    folder = run_dir / "slurm"
    if chosen is None:
        (folder / MARKER).touch()
        return
    for job in chosen:
        (folder / job["script"]).with_suffix(f".{MARKER}").touch()


def _local(partials: Mapping[str, Path], now: bool, submitted: Collection[str]) -> list[str]:
    """Ask, or kill, the steps that are not jobs of the run."""
    lines = []
    for step, partial in partials.items():
        owners = [owner for owner in claims.owners(partial) if owner["job"] not in submitted]
        if not owners:
            continue
        # The step may finish at this moment, and its directory be renamed.
        with contextlib.suppress(FileNotFoundError):
            (partial / "STOP").touch()
        outcome = _kill(owners[0]) if now else "asked to save its state and stop"
        lines.append(f"{step}: {outcome}")
    return lines


def _kill(owner: claims.Owner, *, alone: bool = False) -> str:
    """Kill a local step with its process group; only its process if `alone` or in our group."""
    if owner["broken"]:
        return f"{owner['broken']}; asked to save its state and stop"
    if not claims.is_here(owner):
        return f"{claims.named(owner)} can only be killed there; asked to save its state and stop"
    try:
        group = os.getpgid(owner["pid"])
        if alone or group == os.getpgrp():
            os.kill(owner["pid"], signal.SIGKILL)
        else:
            os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return "has ended by itself"
    return "killed"


def _slurm(chosen: Sequence[Mapping], tasks: Sequence[Job], now: bool) -> list[str]:
    """Cancel what waits, and ask what runs by a signal to its batch shell; `now` cancels all."""
    by_id: dict[str, list[Job]] = {}
    for task in tasks:
        if task.active:
            by_id.setdefault(task.array, []).append(task)
    waiting, mixed = _waiting(by_id)
    if now:
        _scancel(sorted(by_id, key=int))
    else:
        _scancel(sorted(waiting, key=int))
        _scancel(sorted(mixed, key=int), "--state=PENDING")
        active = itertools.chain.from_iterable(by_id.values())
        running = [task.id for task in active if task.state in queue.RUNNING]
        _scancel(running, "--batch", "--signal=USR1")

    lines = []
    for job in chosen:
        number = str(job["job"])
        if number in by_id:
            lines.append(f"{job['step']}: job {number}: {_outcome(by_id[number], now)}")
    return lines


def _waiting(by_id: Mapping[str, Sequence[Job]]) -> tuple[list[str], list[str]]:
    """The jobs of which all tasks wait, and those of which only some do."""
    waiting = []
    mixed = []
    for number, tasks in by_id.items():
        n_waiting = sum(task.state in queue.WAITING for task in tasks)
        if n_waiting == len(tasks):
            waiting.append(number)
        elif n_waiting:
            mixed.append(number)
    return waiting, mixed


def _outcome(tasks: Sequence[Job], now: bool) -> str:
    n_running = sum(task.state in queue.RUNNING for task in tasks)
    n_waiting = len(tasks) - n_running
    if len(tasks) == 1:
        return "cancelled" if now or n_waiting else "asked to save its state and end"
    parts = []
    if n_waiting:
        parts.append(f"{n_waiting} waiting tasks cancelled")
    if n_running:
        outcome = "cancelled" if now else "asked to save their state and end"
        parts.append(f"{n_running} running tasks {outcome}")
    return ", ".join(parts)


def _scancel(ids: Sequence[str], *options: str) -> None:
    """Raises: UserError with Slurm's own words if it refuses."""
    if ids:
        commands.call("scancel", *options, *ids, timeout_s=queue.TIMEOUT_S)
