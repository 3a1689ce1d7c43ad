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
        return batch.Job(
            step=step.name,
            run=self.name,
            folder=self.folder,
            partial=self.store.root / f"{step.artifact}.partial",
            source=source,
            resources=step.resources,
            distributed=step.distributed,
            sweep=self.sweep,
            last=step.last,
        )


def texts(run: Run, steps: Sequence[Step]) -> dict[str, str]:
    """step -> its batch script, as it would be submitted now."""
    source = snapshot.place(run.folder)
    return {step.name: batch.script(run.job(step, source), run.cfg) for step in steps}


def refuse_queued(run: Run, artifacts: Sequence[str], *, anew: bool) -> list[jobs.Live]:
    """The jobs of this run that wait or run.

    Those that wait for something that can no longer come are cancelled.

    Raises: UserError if there are jobs for steps as they no longer are, or any at all where steps
        are to be computed `anew`.
    """
    live, doomed = jobs.live(run.folder)
    commands.cancel(doomed)
    in_the_way = [job for job in live if anew or job.entry["artifact"] not in artifacts]
    if in_the_way:
        names = [f"{job.entry['step']} (job {job.entry['job']})" for job in in_the_way[:5]]
        more = ", …" if len(in_the_way) > 5 else ""
        why = "they were submitted with other settings"
        if anew:
            why = "force= and from= begin when the queue is empty"
        problem = f"run {run.name!r} has jobs in the queue: {', '.join(names)}{more}"
        raise UserError(f"name: {problem}; {why}: {hint(run)}")
    return live


def hint(run: Run) -> str:
    """How a person looks at the jobs of a run, and ends them."""
    return f"see `mlalign status {run.words}`, end them with `mlalign cancel {run.words}`"


@dataclasses.dataclass(frozen=True)
class Submitted:
    """The steps that became jobs, and those `left` until there is room in the queue.

    `why`: Slurm's words for that.
    """

    new: list[Step]
    left: list[Step] = dataclasses.field(default_factory=list)
    why: str = ""


def submit(
    run: Run, steps: Sequence[Step], queued: Sequence[jobs.Live], say: Callable[[str], None]
) -> Submitted:
    """Submit what is neither done nor queued, in the order of the plan, until the queue is full.

    An array that is too large for the cluster or the queue gets fewer tasks, each with more of the
    shards.

    Raises: UserError if an input will never be there, or if Slurm refuses a job.
    """
    waiting = {job.entry["artifact"] for job in queued}
    todo: list[Step] = []
    for step in steps:
        ready = step.done and not any(other.artifact in step.sources.values() for other in todo)
        if not ready and step.artifact not in waiting:
            todo.append(step)
    if not todo:
        return Submitted([])
    _check_inputs(run, todo, waiting)
    disks.check(run.store.root.parent)
    for entry in _last(jobs.read(run.folder), todo):
        explanation = ended.explain_lost(run.folder, entry)
        if explanation:
            say(f"of the attempt before: {explanation}")

    (run.folder / "logs").mkdir(parents=True, exist_ok=True)
    source = snapshot.take(run.folder, clean=run.cfg.source == "commit")
    snapshot.record(run.folder)
    return _submit_all(run, _within_arrays(todo, say), source, queued, say)


def _within_arrays(steps: Sequence[Step], say: Callable[[str], None]) -> list[Step]:
    """The steps with no more array tasks than the cluster allows."""
    if all((step.resources.get("tasks") or 1) == 1 for step in steps):
        return list(steps)
    most = limits.array_size()
    within = []
    for step in steps:
        asked = step.resources.get("tasks") or 1
        if asked > most:
            problem = f"{asked} tasks are more than an array may have here (MaxArraySize)"
            say(f"{step.name}: {problem}: {most} take more of the shards each")
        within.append(_with_tasks(step, min(asked, most)))
    return within


def _with_tasks(step: Step, n_tasks: int) -> Step:
    if n_tasks == (step.resources.get("tasks") or 1):
        return step
    changed = {**step.resources, "tasks": n_tasks}
    frozen_step = {**step.frozen_step, "resources": changed}
    return dataclasses.replace(step, resources=changed, frozen_step=frozen_step)


def _last(entries: Sequence[dict], steps: Sequence[Step]) -> list[dict]:
    """The last job of each of these steps."""
    last = {entry["artifact"]: entry for entry in entries}
    return [last[step.artifact] for step in steps if step.artifact in last]


def _check_inputs(run: Run, todo: Sequence[Step], waiting: set[str]) -> None:
    coming = {step.artifact for step in todo} | waiting
    errors = []
    for step in todo:
        for name, artifact in step.sources.items():
            is_there = (run.store.root / artifact / store.MANIFEST).is_file()
            if not is_there and artifact not in coming:
                problem = f"{step.name}: its input {name} is neither there nor in the queue"
                errors.append(f"{problem}; run without only=, or with from={name}")
    if errors:
        raise UserError(*errors)


def _submit_all(
    run: Run,
    todo: Sequence[Step],
    source: Path,
    queued: Sequence[jobs.Live],
    say: Callable[[str], None],
) -> Submitted:
    """Write and submit one job after the other.

    A refusal undoes the whole submission; a full queue only ends it.
    """
    ids: dict[str, list[str]] = {}  # artifact -> the jobs that make it
    for live in queued:
        ids.setdefault(live.entry["artifact"], []).append(live.entry["job"])
    submitted: list[str] = []
    try:
        for number, step in enumerate(todo):
            awaited: set[str] = set()
            for artifact in step.sources.values():
                awaited.update(ids.get(artifact, []))
            after = sorted(awaited, key=int)
            try:
                new, job = _sbatch(run, step, source, after, say, shrink=not ids)
            except _Full as full:
                if not ids:
                    raise _refused(run, step, full.words) from None
                return Submitted(list(todo[:number]), list(todo[number:]), full.words)
            submitted.append(new)
            ids[step.artifact] = [new]
            entry = {
                "job": new,
                "step": step.name,
                "artifact": step.artifact,
                "tasks": job.tasks,
                "script": job.script.name,
                "log": job.log,
                "after": after,
                "continues": None,
            }
            jobs.append(run.folder, entry)
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
        span = f"{submitted[0]} to {submitted[-1]}"
        message = f"the {len(submitted)} jobs submitted before it were cancelled ({span})"
    except UserError as second:
        problem = f"were submitted before it and could not be cancelled ({second})"
        message = f"jobs {', '.join(submitted)} {problem}: scancel {' '.join(submitted)}"
    if isinstance(error, UserError):
        error.messages.append(message)
    else:
        error.add_note(message)


def _write(run: Run, step: Step, job: batch.Job) -> None:
    """Freeze a step: its configuration and its script."""
    leftovers = [
        run.folder / f"{job.file}.cancelled",
        job.failed,
        job.partial / "STOP",
        job.partial / "outcome.json",
        *(job.partial / "parts").glob("*.turns.json"),
        *(job.partial / "parts").glob("*.outcome.json"),
    ]
    for leftover in leftovers:  # of an earlier attempt
        leftover.unlink(missing_ok=True)
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
            problem = f"the queue does not take {asked} tasks at a time"
            say(f"{step.name}: {problem}: {tasks} take more of the shards each")
        return new, job


def _refused(run: Run, step: Step, words: str) -> UserError:
    """Slurm's words, with the keys that most likely have to do with them."""
    causes: list[str] = []
    for pattern, names in CAUSES:
        if re.search(pattern, words):
            causes += names
    keys = []
    for name in dict.fromkeys(causes):
        key = resources.set_by(name, run.root, step.stage, step.name, step.asked)
        if key and step.resources.get(name):
            keys.append(f"{key} ({step.resources[name]})")

    mend = f"; see {', '.join(keys)}" if keys else ""
    if limits.is_full(words):
        wait = "wait until other jobs have ended, or choose another launcher.qos or"
        mend = f"; {wait} launcher.account{mend}"
    return UserError(f"{step.name}: Slurm refused the job: {words}{mend}")
