"""`mlalign cancel name=RUN [step=STEP] [now=true]`: stop a run, or one of its steps.

A running step is asked to save its state and end (a STOP file in its partial artifact). Slurm jobs that wait are cancelled; those that
run are asked in the same way, and do not requeue themselves: `runs/NAME/slurm/cancelled` (of one step `STEP.cancelled`) tells them.
With `now=true` everything is killed at once and goes on later from its last checkpoint or shard. The same `mlalign run` continues.
"""

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mlalign import claims
from mlalign.commands import flag, known, name_of, root_of, steps_named, told
from mlalign.errors import UserError
from mlalign.launch import commands, jobs, queue
from mlalign.launch.queue import Job
from mlalign.terminal import say

MARKER = "cancelled"


def run(arguments: Mapping[str, str]) -> int:
    known(arguments, ("name", "root", "step", "now"))
    root, name, now = root_of(arguments), name_of(arguments), flag(arguments, "now")
    run_dir = root / "runs" / name
    steps = steps_named(told(root, name), arguments.get("step"))
    partials = {s["step"]: root / "store" / f"{s['artifact']}.partial" for s in steps}
    recorded = jobs.read(run_dir / "slurm")
    chosen = _with_dependents(recorded, partials) if "step" in arguments else recorded
    if chosen:
        _mark(run_dir, chosen if "step" in arguments else None)
    said = _local(partials, now)
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


def _local(partials: Mapping[str, Path], now: bool) -> list[str]:
    """Ask, or kill, the steps that run outside Slurm."""
    said = []
    for step, partial in partials.items():
        owners = [o for o in claims.owners(partial) if not o.get("job")]
        if not owners:
            continue
        (partial / "STOP").touch()
        said.append(f"{step}: " + (_kill(owners[0]) if now else "asked to save its state and stop"))
    return said


def _kill(owner: Mapping) -> str:
    """End the processes of a local step: they have a session of their own."""
    if owner["host"] != socket.gethostname():
        return f"runs on {owner['host']}, where only you can kill it (process {owner['pid']}); asked to save its state and stop"
    group = os.getpgid(owner["pid"])
    if group == os.getpgrp():
        os.kill(owner["pid"], signal.SIGKILL)
    else:
        os.killpg(group, signal.SIGKILL)
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
