"""Submit the steps of a run as Slurm jobs that wait for each other, and freeze what they need.

Writes `runs/NAME/slurm/`: `STEP.json` (the frozen step), `STEP.sbatch`, `jobs.jsonl`, `logs/`,
`source-DIGEST/` (the packages), `environment.json`. If Slurm refuses one job, those submitted with
it are cancelled.
"""

import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core import store
from mlalign.core.errors import UserError
from mlalign.recipes import resources
from mlalign.recipes.launchers import Slurm
from mlalign.running.slurm import batch, commands, disks, ended, jobs, limits, snapshot

# What Slurm's words speak of -> the resources that may have caused them.
CAUSES = (
    (r"partition", ("partition", "account")),
    (r"account|Assoc", ("account", "partition")),
    (r"QOS", ("qos",)),
    (r"array", ("tasks",)),
    (r"SubmitJob", ("qos", "account", "tasks")),
    (r"reservation", ("reservation",)),
    (r"feature|constraint", ("constraint",)),
    (r"time limit", ("time",)),
    (r"node list|node name", ("exclude",)),
    (r"gres|tres|GPU", ("gpus",)),
    (r"unrecognized option|invalid option|Invalid .*specif", ("sbatch",)),
    (
        r"[Nn]ode count|configuration is not available|[Mm]ore processors|[Mm]emory|CPU count",
        ("nodes", "gpus", "devices", "cpus", "memory", "sbatch"),
    ),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a plan that may become a job.

    `sources`: step -> artifact of its inputs; `frozen_step`: its frozen
    configuration; `last`: no other step of the plan reads it.
    """

    name: str
    artifact: str
    stage: str
    distributed: bool
    resources: Mapping[str, Any]
    asked: Mapping[str, Any]
    sources: Mapping[str, str]
    frozen_step: Mapping[str, Any]
    done: bool
    last: bool


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run lives, and how its steps become jobs.

    `root`: the composed configuration, for naming keys in messages.
    """

    name: str
    directory: Path
    store: store.Store
    cfg: Slurm
    root: Mapping[str, Any]
    sweep: bool

    @property
    def folder(self) -> Path:
        return self.directory / "slurm"

    @property
    def words(self) -> str:
        """The run as words of a command."""
        return shlex.join([f"name={self.name}", f"root={self.store.root.parent}"])

    def job(self, step: Step, source: Path) -> batch.Job:
        partial = self.store.root / f"{step.artifact}.partial"
        return batch.Job(
            step.name,
            self.name,
            self.folder,
            partial,
            source,
            step.resources,
            step.distributed,
            self.sweep,
            step.last,
        )


def texts(run: Run, steps: Sequence[Step]) -> dict[str, str]:
    """step -> its batch script, as it would be submitted now."""
    source = snapshot.place(run.folder)
    return {step.name: batch.script(run.job(step, source), run.cfg) for step in steps}


def refuse_queued(run: Run, artifacts: Sequence[str], *, anew: bool) -> list[jobs.Live]:
    """The jobs of this run that wait or run; what waits for something that can no longer come is
    cancelled.

    Raises: UserError if there are jobs for steps as they no longer are, or any at all where steps
        are to be computed `anew`.
    """
    found, doomed = jobs.live(run.folder)
    commands.cancel(doomed)
    other = [one for one in found if anew or one.entry["artifact"] not in artifacts]
    if other:
        shown = ", ".join(f"{one.entry['step']} (job {one.entry['job']})" for one in other[:5]) + (
            ", …" if len(other) > 5 else ""
        )
        why = (
            "force= and from= begin when the queue is empty"
            if anew
            else "they were submitted with other settings"
        )
        raise UserError(
            f"name: run {run.name!r} has jobs in the queue: {shown}; {why}: {hint(run)}"
        )
    return found


def hint(run: Run) -> str:
    """How a person looks at the jobs of a run, and ends them."""
    return f"see `mlalign status {run.words}`, end them with `mlalign cancel {run.words}`"


@dataclasses.dataclass(frozen=True)
class Submitted:
    """The steps that became jobs, and those that must wait until there is room in the queue, with
    Slurm's words for why.
    """

    new: list[Step]
    left: list[Step] = dataclasses.field(default_factory=list)
    why: str = ""


def submit(
    run: Run, steps: Sequence[Step], queued: Sequence[jobs.Live], say: Callable[[str], None]
) -> Submitted:
    """Submit what is neither done nor queued, in the order of the plan, as far as the queue takes
    it.

    An array that is larger than the cluster, or the queue, takes gets fewer tasks, each with more
    of the shards.
    Raises: UserError if an input will never be there, or if Slurm refuses a job.
    """
    waiting = {one.entry["artifact"] for one in queued}
    todo: list[Step] = []
    for step in steps:
        ready = step.done and not any(other.artifact in step.sources.values() for other in todo)
        if not ready and step.artifact not in waiting:
            todo.append(step)
    if not todo:
        return Submitted([])
    _check_inputs(run, todo, waiting)
    disks.check(run.store.root.parent)
    before = jobs.read(run.folder)
    for told in filter(None, (ended.explain_lost(run.folder, e) for e in _last(before, todo))):
        say(f"of the attempt before: {told}")
    (run.folder / "logs").mkdir(parents=True, exist_ok=True)
    source = snapshot.take(run.folder, clean=run.cfg.source == "commit")
    snapshot.record(run.folder)
    return _submit_all(run, _within_arrays(todo, say), source, queued, say)


def _within_arrays(steps: Sequence[Step], say: Callable[[str], None]) -> list[Step]:
    """The steps with no more array tasks than the cluster allows."""
    if all((step.resources.get("tasks") or 1) == 1 for step in steps):
        return list(steps)
    most = limits.array_size()
    found = []
    for step in steps:
        asked = step.resources.get("tasks") or 1
        if asked > most:
            say(
                f"{step.name}: {asked} tasks are more than an array may have here (MaxArraySize):"
                f" {most} take more of the shards each"
            )
        found.append(_with_tasks(step, min(asked, most)))
    return found


def _with_tasks(step: Step, n: int) -> Step:
    if n == (step.resources.get("tasks") or 1):
        return step
    resources_ = {**step.resources, "tasks": n}
    return dataclasses.replace(
        step, resources=resources_, frozen_step={**step.frozen_step, "resources": resources_}
    )


def _last(entries: Sequence[dict], steps: Sequence[Step]) -> list[dict]:
    """The last job of each of these steps."""
    last = {e["artifact"]: e for e in entries}
    return [last[step.artifact] for step in steps if step.artifact in last]


def _check_inputs(run: Run, todo: Sequence[Step], waiting: set[str]) -> None:
    coming = {step.artifact for step in todo} | waiting
    wrong = [
        f"{step.name}: its input {name} is neither there nor in the queue; run without only=, or"
        f" with from={name}"
        for step in todo
        for name, artifact in step.sources.items()
        if artifact not in coming and not (run.store.root / artifact / "manifest.json").is_file()
    ]
    if wrong:
        raise UserError(*wrong)


def _submit_all(
    run: Run,
    todo: Sequence[Step],
    source: Path,
    queued: Sequence[jobs.Live],
    say: Callable[[str], None],
) -> Submitted:
    """Write and submit one job after the other; a refusal undoes the whole submission.

    A full queue only ends it.
    """
    ids: dict[str, list[str]] = {}
    for one in queued:
        ids.setdefault(one.entry["artifact"], []).append(one.entry["job"])
    submitted: list[str] = []
    try:
        for number, step in enumerate(todo):
            after = sorted(
                {i for artifact in step.sources.values() for i in ids.get(artifact, [])}, key=int
            )
            try:
                new, job = _sbatch(run, step, source, after, say, shrink=not ids)
            except _Full as full:
                if not ids:
                    raise _refused(run, step, full.words) from None
                return Submitted(list(todo[:number]), list(todo[number:]), full.words)
            submitted.append(new)
            ids[step.artifact] = [new]
            jobs.append(
                run.folder,
                {
                    "job": new,
                    "step": step.name,
                    "artifact": step.artifact,
                    "tasks": job.tasks,
                    "script": job.script.name,
                    "log": job.log,
                    "after": after,
                    "continues": None,
                },
            )
    except BaseException as error:
        _undo(submitted, error)
        raise
    return Submitted(list(todo))


def _undo(submitted: Sequence[str], error: BaseException) -> None:
    """Cancel the jobs of a submission that did not come to its end, and say so in its error."""
    if not submitted:
        return
    try:
        commands.cancel(submitted)
        told = (
            f"the {len(submitted)} jobs submitted before it were cancelled ({submitted[0]} to"
            f" {submitted[-1]})"
        )
    except UserError as second:
        told = (
            f"jobs {', '.join(submitted)} were submitted before it and could not be cancelled"
            f" ({second}): scancel {' '.join(submitted)}"
        )
    if isinstance(error, UserError):
        error.messages.append(told)
    else:
        error.add_note(told)


def _write(run: Run, step: Step, job: batch.Job) -> None:
    """Freeze a step: its configuration and its script."""
    of_run, of_step = (
        (run.folder / f"{job.file}.cancelled", job.failed),
        (job.partial / "STOP", job.partial / "outcome.json"),
    )
    of_tasks = (
        path
        for pattern in ("*.turns.json", "*.outcome.json")
        for path in (job.partial / "parts").glob(pattern)
    )
    for left in (*of_run, *of_step, *of_tasks):  # of an earlier attempt
        left.unlink(missing_ok=True)
    how = {"requeue": run.cfg.requeue, "options": batch.options(job, run.cfg)}
    store.write_json(job.frozen, {**step.frozen_step, "store": str(run.store.root), "slurm": how})
    job.script.write_text(batch.script(job, run.cfg), encoding="utf-8")


class _Full(Exception):
    """The queue takes no further job; `words` are Slurm's."""

    def __init__(self, words: str):
        self.words = words
        super().__init__(words)


def _sbatch(
    run: Run,
    step: Step,
    source: Path,
    after: Sequence[str],
    say: Callable[[str], None],
    *,
    shrink: bool,
) -> tuple[str, batch.Job]:
    """Submit a step; returns the job's id, and the job.

    With `shrink` an array that the queue does not take gets fewer tasks.

    Raises: _Full if the queue takes no further job; UserError if Slurm refuses the job itself.
    """
    asked = step.resources.get("tasks") or 1
    tasks = asked
    while True:
        job = run.job(_with_tasks(step, tasks), source)
        _write(run, step, job)
        extra = [f"--dependency=afterok:{':'.join(after)}"] if after else []
        try:
            new = commands.sbatch(str(job.script), batch.options(job, run.cfg), extra)
        except commands.Refused as refused:
            if not limits.is_full(refused.words):
                raise _refused(run, step, refused.words) from None
            if tasks == 1 or not shrink:
                raise _Full(refused.words) from None
            tasks = max(1, tasks // 2)
            continue
        if tasks < asked:
            say(
                f"{step.name}: the queue does not take {asked} tasks at a time: {tasks} take more"
                " of the shards each"
            )
        return new, job


def _refused(run: Run, step: Step, words: str) -> UserError:
    """Slurm's words, with the keys that most likely have to do with them."""
    causes = [name for pattern, names in CAUSES if re.search(pattern, words) for name in names]
    told = {
        name: resources.set_by(name, run.root, step.stage, step.name, step.asked)
        for name in dict.fromkeys(causes)
    }
    keys = [
        f"{key} ({step.resources[name]})"
        for name, key in told.items()
        if key and step.resources.get(name)
    ]
    mend = f"; see {', '.join(keys)}" if keys else ""
    if limits.is_full(words):
        mend = (
            "; wait until other jobs have ended, or choose another launcher.qos or"
            f" launcher.account{mend}"
        )
    return UserError(f"{step.name}: Slurm refused the job: {words}{mend}")
