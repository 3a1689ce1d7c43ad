"""`mlalign cancel name=RUN [step=STEP] [now=true]`: stop a run, or one of its steps.

The process of the run is asked to stop (`running`), and a running step to save its state and end (a STOP file in its partial artifact):
one that has not done so within a minute is killed by its run. Slurm jobs that wait are cancelled; those that
run are asked in the same way, and do not requeue themselves: `runs/NAME/slurm/cancelled` (of one step `STEP.cancelled`) tells them.
With `now=true` everything is killed at once and goes on later from its last checkpoint or shard. The same `mlalign run` continues.
"""

import contextlib
import os
import signal
import time
from collections import Counter
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
ANSWER_S = 3 * run_process.POLL_S  # so soon a run's process has looked whether it is meant
KILL_S = 10.0  # what has not ended by itself then is killed


def run(arguments: Mapping[str, str]) -> int:
    known(arguments, ("name", "root", "step", "now"))
    root, name, now = root_of(arguments), name_of(arguments), flag(arguments, "now")
    run_dir = root / "runs" / name
    runs = run_process.processes(run_dir)
    begun = (run_dir / "plan.json").is_file() or not runs  # a run that is still being planned has steps that nobody knows yet
    steps = steps_named(read_plan(root, name), arguments.get("step")) if begun else []
    partials = {s["step"]: root / "store" / f"{s['artifact']}.partial" for s in steps}
    recorded = jobs.read(run_dir / "slurm")
    chosen = _with_dependents(recorded, partials) if "step" in arguments else recorded
    if chosen:
        _mark(run_dir, chosen if "step" in arguments else None)
    meant = [s["artifact"] for s in steps] if "step" in arguments else None
    said = _runs(run_dir, runs, now, meant)
    said += _local(partials, now, {str(job["job"]) for job in recorded})
    if chosen:
        slurm = queue.ask(str(job["job"]) for job in chosen)
        if slurm.problem:
            say(*said, sep="\n", end="\n" if said else "")
            raise UserError(
                f"{slurm.problem}; the jobs of this run are marked as cancelled and will not requeue, but those that wait may start"
            )
        said += _slurm(chosen, slurm.jobs, now)
    say("\n".join(said) or "no step of this run is running or waiting in the queue")
    return 0


def _runs(run_dir: Path, runs: Sequence[claims.Owner], now: bool, artifacts: Sequence[str] | None) -> list[str]:
    """Ask the processes of the run itself to stop, or those that are at some artifact; with `now` kill what does not end by itself."""
    for owner in runs:
        run_process.ask(run_dir, owner, now=now, artifacts=artifacts)
    if artifacts is not None and runs:
        time.sleep(ANSWER_S)
    asked = [owner for owner in runs if artifacts is None or not run_process.has_refused(run_dir, owner)]
    if now:
        _wait_for(run_dir, asked)
    return [f"{run_dir.name}: {_stopped(run_dir, owner, now)}" for owner in asked]


def _wait_for(run_dir: Path, asked: Sequence[claims.Owner]) -> None:
    end, names = time.monotonic() + KILL_S, {owner["claim"] for owner in asked}
    while time.monotonic() < end and any(owner["claim"] in names for owner in run_process.processes(run_dir)):
        time.sleep(0.1)


def _stopped(run_dir: Path, owner: claims.Owner, now: bool) -> str:
    if not now:
        return f"{claims.named(owner)}: asked to stop"
    if owner["claim"] not in {other["claim"] for other in run_process.processes(run_dir)}:
        return f"{claims.named(owner)}: stopped"
    if run_process.has_refused(run_dir, owner):  # it only watches jobs of Slurm, and ends with them
        return f"{claims.named(owner)}: ends with its jobs"
    return f"{claims.named(owner)}: {_kill(owner)}"


def _with_dependents(recorded: Sequence[Mapping], steps: Iterable[str]) -> list[Mapping]:
    """The jobs of these steps, and all that wait for them: they could never start."""
    names, found, ids = set(steps), [], set[str]()
    for job in recorded:  # a job is submitted after those that it waits for
        if job["step"] in names or ids & {str(a) for a in job["after"]}:
            ids.add(str(job["job"]))
            found.append(job)
    return found


def _mark(run_dir: Path, chosen: Iterable[Mapping] | None) -> None:
    """Tell running jobs (of these steps, or all) not to requeue themselves, nor to submit a continuation."""
    folder = run_dir / "slurm"
    for path in [folder / MARKER] if chosen is None else [(folder / job["script"]).with_suffix(f".{MARKER}") for job in chosen]:
        path.touch()


def _local(partials: Mapping[str, Path], now: bool, submitted: Collection[str]) -> list[str]:
    """Ask, or kill, the steps that are no job of the run."""
    said = []
    for step, partial in partials.items():
        owners = [o for o in claims.owners(partial) if o["job"] not in submitted]
        if not owners:
            continue
        with contextlib.suppress(FileNotFoundError):  # it was finished in this moment
            (partial / "STOP").touch()
        said.append(f"{step}: " + (_kill(owners[0]) if now else "asked to save its state and stop"))
    return said


def _kill(owner: claims.Owner, *, alone: bool = False) -> str:
    """End the processes of a local step, which have a session of their own; or a process `alone`, in a group with its shell, say."""
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
    """Cancel what waits and ask what runs, by a signal to its batch shell (or cancel all); says so by step."""
    by_id: dict[str, list[Job]] = {}
    for task in (t for t in tasks if t.active):
        by_id.setdefault(task.array, []).append(task)
    waiting = {id_ for id_, tasks in by_id.items() if all(t.state in queue.WAITING for t in tasks)}
    mixed = {id_ for id_, tasks in by_id.items() if any(t.state in queue.WAITING for t in tasks)} - waiting
    _scancel(sorted(by_id if now else waiting, key=int))
    if not now:
        _scancel(sorted(mixed, key=int), "--state=PENDING")
        _scancel([t.id for tasks in by_id.values() for t in tasks if t.state in queue.RUNNING], "--batch", "--signal=USR1")
    lines = [line for line in chosen if str(line["job"]) in by_id]
    return [f"{line['step']}: job {line['job']}: {_did(by_id[str(line['job'])], now)}" for line in lines]


def _did(tasks: Sequence[Job], now: bool) -> str:
    n = Counter("running" if t.state in queue.RUNNING else "waiting" for t in tasks)
    if len(tasks) == 1:
        return "cancelled" if now or n["waiting"] else "asked to save its state and end"
    parts = [f"{n['waiting']} waiting tasks cancelled"] if n["waiting"] else []
    parts += [f"{n['running']} running tasks {'cancelled' if now else 'asked to save their state and end'}"] if n["running"] else []
    return ", ".join(parts)


def _scancel(ids: Sequence[str], *options: str) -> None:
    """Raises: UserError with Slurm's own words if it refuses."""
    if ids:
        commands.call("scancel", *options, *ids, timeout_s=queue.TIMEOUT_S)
