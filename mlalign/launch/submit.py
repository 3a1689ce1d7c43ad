"""Submit the steps of a run as Slurm jobs that wait for each other, and freeze what they need.

Writes `runs/NAME/slurm/`: `STEP.json` (the frozen step), `STEP.sbatch`, `jobs.jsonl`, `logs/`, `source-DIGEST/` (the packages),
`environment.json`. If Slurm refuses one job, those submitted with it are cancelled.
"""

import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign import store
from mlalign.errors import UserError
from mlalign.launch import commands, disks, ended, jobs, resources, slurm, snapshot
from mlalign.launch.config import Slurm

# What Slurm's words speak of -> the resources that may have caused them.
CAUSES = (
    (r"partition", ("partition", "account")), (r"account", ("account", "partition")), (r"QOS", ("qos",)),
    (r"reservation", ("reservation",)), (r"feature|constraint", ("constraint",)), (r"time limit", ("time",)),
    (r"node list|node name", ("exclude",)), (r"gres|tres|GPU", ("gpus",)),
    (r"unrecognized option|invalid option|Invalid .*specif", ("sbatch",)),
    (r"[Nn]ode count|configuration is not available|[Mm]ore processors|[Mm]emory|CPU count",
     ("nodes", "gpus", "devices", "cpus", "memory", "sbatch")),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a plan that may become a job. `sources`: step -> artifact of its inputs; `told`: its frozen configuration; `last`:
    no other step of the plan reads it."""

    name: str
    artifact: str
    stage: str
    distributed: bool
    resources: Mapping[str, Any]
    asked: Mapping[str, Any]
    sources: Mapping[str, str]
    told: Mapping[str, Any]
    done: bool
    last: bool


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run lives, and how its steps become jobs. `root`: the composed configuration, for naming keys in messages."""

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

    def job(self, step: Step, source: Path) -> slurm.Job:
        partial = self.store.root / f"{step.artifact}.partial"
        return slurm.Job(
            step.name, self.name, self.folder, partial, source, step.resources, step.distributed, self.sweep, step.last
        )  # fmt: skip


def texts(run: Run, steps: Sequence[Step]) -> dict[str, str]:
    """step -> its batch script, as it would be submitted now."""
    source = snapshot.place(run.folder)
    return {step.name: slurm.script(run.job(step, source), run.cfg) for step in steps}


def refuse_queued(run: Run, artifacts: Sequence[str], *, anew: bool) -> list[jobs.Live]:
    """The jobs of this run that wait or run; what waits for something that can no longer come is cancelled.

    Raises: UserError if there are jobs for steps as they no longer are, or any at all where steps are to be computed `anew`.
    """
    found, doomed = jobs.live(run.folder)
    commands.cancel(doomed)
    other = [one for one in found if anew or one.entry["artifact"] not in artifacts]
    if other:
        shown = ", ".join(f"{one.entry['step']} (job {one.entry['job']})" for one in other[:5]) + (", …" if len(other) > 5 else "")
        why = "force= and from= begin when the queue is empty" if anew else "they were submitted with other settings"
        raise UserError(f"name: run {run.name!r} has jobs in the queue: {shown}; {why}: {hint(run)}")
    return found


def hint(run: Run) -> str:
    """How a person looks at the jobs of a run, and ends them."""
    return f"see `mlalign status {run.words}`, end them with `mlalign cancel {run.words}`"


def submit(run: Run, steps: Sequence[Step], queued: Sequence[jobs.Live], say: Callable[[str], None]) -> list[Step]:
    """Submit what is neither done nor queued, in the order of the plan; returns what was submitted.

    Raises: UserError if an input will never be there, or if Slurm refuses a job.
    """
    waiting = {one.entry["artifact"] for one in queued}
    todo: list[Step] = []
    for step in steps:
        ready = step.done and not any(other.artifact in step.sources.values() for other in todo)
        if not ready and step.artifact not in waiting:
            todo.append(step)
    if not todo:
        return []
    _check_inputs(run, todo, waiting)
    disks.check(run.store.root.parent)
    before = jobs.read(run.folder)
    for told in filter(None, (ended.explain_lost(run.folder, e) for e in _last(before, todo))):
        say(f"of the attempt before: {told}")
    (run.folder / "logs").mkdir(parents=True, exist_ok=True)
    source = snapshot.take(run.folder, clean=run.cfg.source == "commit")
    snapshot.record(run.folder)
    _submit_all(run, [(step, run.job(step, source)) for step in todo], queued)
    return todo


def _last(entries: Sequence[dict], steps: Sequence[Step]) -> list[dict]:
    """The last job of each of these steps."""
    last = {e["artifact"]: e for e in entries}
    return [last[step.artifact] for step in steps if step.artifact in last]


def _check_inputs(run: Run, todo: Sequence[Step], waiting: set[str]) -> None:
    coming = {step.artifact for step in todo} | waiting
    wrong = [
        f"{step.name}: its input {name} is neither there nor in the queue; run without only=, or with from={name}"
        for step in todo
        for name, artifact in step.sources.items()
        if artifact not in coming and not (run.store.root / artifact / "manifest.json").is_file()
    ]
    if wrong:
        raise UserError(*wrong)


def _submit_all(run: Run, todo: Sequence[tuple[Step, slurm.Job]], queued: Sequence[jobs.Live]) -> None:
    """Write and submit one job after the other; a refusal undoes the whole submission."""
    ids: dict[str, list[str]] = {}
    for one in queued:
        ids.setdefault(one.entry["artifact"], []).append(one.entry["job"])
    submitted: list[str] = []
    try:
        for step, job in todo:
            after = sorted({i for artifact in step.sources.values() for i in ids.get(artifact, [])}, key=int)
            _write(run, step, job)
            new = _sbatch(run, step, job, after)
            submitted.append(new)
            ids[step.artifact] = [new]
            jobs.append(run.folder, {
                "job": new, "step": step.name, "artifact": step.artifact, "tasks": job.tasks, "script": job.script.name, "log": job.log,
                "after": after, "continues": None,
            })  # fmt: skip
    except BaseException as error:
        _undo(submitted, error)
        raise


def _undo(submitted: Sequence[str], error: BaseException) -> None:
    """Cancel the jobs of a submission that did not come to its end, and say so in its error."""
    if not submitted:
        return
    try:
        commands.cancel(submitted)
        told = f"the {len(submitted)} jobs submitted before it were cancelled ({submitted[0]} to {submitted[-1]})"
    except UserError as second:
        told = f"jobs {', '.join(submitted)} were submitted before it and could not be cancelled ({second}): scancel {' '.join(submitted)}"
    if isinstance(error, UserError):
        error.messages.append(told)
    else:
        error.add_note(told)


def _write(run: Run, step: Step, job: slurm.Job) -> None:
    """Freeze a step: its configuration and its script."""
    of_run, of_step = (run.folder / f"{job.file}.cancelled", job.failed), (job.partial / "STOP", job.partial / "outcome.json")
    of_tasks = (path for pattern in ("*.turns.json", "*.outcome.json") for path in (job.partial / "parts").glob(pattern))
    for left in (*of_run, *of_step, *of_tasks):  # of an earlier attempt
        left.unlink(missing_ok=True)
    how = {"requeue": run.cfg.requeue, "options": slurm.options(job, run.cfg)}
    store.write_json(job.frozen, {**step.told, "store": str(run.store.root), "slurm": how})
    job.script.write_text(slurm.script(job, run.cfg), encoding="utf-8")


def _sbatch(run: Run, step: Step, job: slurm.Job, after: Sequence[str]) -> str:
    extra = [f"--dependency=afterok:{':'.join(after)}"] if after else []
    try:
        return commands.sbatch(str(job.script), slurm.options(job, run.cfg), extra)
    except commands.Refused as refused:
        causes = [name for pattern, names in CAUSES if re.search(pattern, refused.words) for name in names]
        told = {name: resources.set_by(name, run.root, step.stage, step.name, step.asked) for name in dict.fromkeys(causes)}
        keys = [f"{key} ({step.resources[name]})" for name, key in told.items() if key and step.resources.get(name)]
        mend = f"; see {', '.join(keys)}" if keys else ""
        raise UserError(f"{step.name}: Slurm refused the job: {refused.words}{mend}") from None
