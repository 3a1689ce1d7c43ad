"""Where a step stands, according to its manifest, its claim, its outcome, and Slurm.

Nothing is guessed. Of a step's jobs (`jobs.read`), those of its last submission count
(`jobs.current`).
"""

import dataclasses
import re
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign import stages
from mlalign.core import claims, progress, rows, shapes, shards, stage, store
from mlalign.core.errors import UserError, system_problem
from mlalign.running import step
from mlalign.running.slurm import jobs
from mlalign.running.slurm.queue import RUNNING, WAITING, Job, Slurm

OVER = ("done", "skipped")
MOVING = ("running", "pending", "submitted")
TASK_ORDER = ("done", "running", "pending")  # how the states of an array's tasks are listed


@dataclasses.dataclass
class Standing:
    """One step.

    `state`: done, skipped, waiting (not begun), pending, running, submitted (to a Slurm that does
    not answer), interrupted (the same command resumes it), failed, unreadable, or Slurm's own word
    for how its job ended.
    """

    step: str
    stage: str
    artifact: str
    round: int | None
    language: str = ""
    state: str = "waiting"
    job: str = ""
    tasks: dict[str, int] = dataclasses.field(default_factory=dict)
    nodes: str = ""
    elapsed_s: float | None = None
    restarts: int = 0
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)
    why: str = ""


def of_step(
    root: Path, run: str, planned: Mapping, recorded: Sequence[dict], slurm: Slurm
) -> Standing:
    """Where a step stands; `planned` is its entry in plan.json, `recorded` all jobs of the run.

    A step whose files cannot be read is `unreadable`, and says why.
    """
    keys = ("step", "stage", "artifact")
    names = {key: planned[key] for key in keys}
    standing = Standing(**names, round=planned.get("round"))
    try:
        _fill(standing, root, run, jobs.current(recorded, standing.step), slurm)
        return standing
    except UserError as error:
        why = str(error)
    except OSError as error:
        why = system_problem(error) or ""
    return Standing(**names, round=planned.get("round"), state="unreadable", why=why)


def _fill(
    standing: Standing, root: Path, run: str, submitted: Sequence[dict], slurm: Slurm
) -> None:
    """Set the state of a step and what belongs to it; `submitted` are its current jobs."""
    # In a sweep the brackets hold values of keys.
    language = re.search(r"\[([^=]+)\]$", standing.step)
    if language:
        standing.language = language[1]
    tasks = slurm.of(submitted)
    if submitted:
        standing.job = ",".join(str(job["job"]) for job in submitted)
        standing.restarts = len(submitted) - 1 + sum(task.restarts for task in tasks)

    path = root / "store" / standing.artifact
    if (path / "manifest.json").is_file():
        _finished(standing, store.read_manifest(path))
        standing.nodes = _nodes(tasks) or standing.nodes
        return

    partial = path.with_name(f"{path.name}.partial")
    if partial.is_dir():
        is_array = bool(submitted) and submitted[0]["tasks"] > 1
        standing.progress = progress_of(partial, standing.stage, is_array)
    if not submitted:
        _local(standing, partial)
    elif tasks and not slurm.problem:
        _queued(standing, submitted[0]["tasks"], tasks, partial)
    else:
        _unknown_to_slurm(standing, slurm, partial)
    if standing.state == "interrupted":
        standing.why = "its state is saved; the same command goes on"
    elif standing.state not in (*OVER, *MOVING):
        explanation = _explanation(root / "runs" / run, standing.step, submitted)
        standing.why = explanation or standing.why


def _finished(standing: Standing, manifest: Mapping) -> None:
    standing.state = manifest["status"]
    standing.elapsed_s = manifest["finished"] - manifest["started"]
    standing.nodes = str(manifest.get("host") or "")
    warnings = [f"warning: {text}" for text in manifest.get("warnings", [])]
    standing.why = str(manifest.get("skipped_because") or "; ".join(warnings))

    by_language = manifest.get("rows_by_language") or {}
    standing.progress = {}
    if by_language:
        standing.progress = {
            "done": sum(by_language.values()),
            "total": None,
            "unit": "rows",
            "by_language": by_language,
        }


def _unknown_to_slurm(standing: Standing, slurm: Slurm, partial: Path) -> None:
    """The state of a submitted step whose job Slurm does not answer for."""
    owners = claims.owners(partial)
    if owners:
        standing.state = "running"
        standing.nodes = owners[0]["host"]
    elif slurm.problem:
        standing.state = "submitted"
    else:
        standing.state = _outcome_state(partial) or "gone"
        forgotten = f"Slurm has forgotten job {standing.job}, which left no artifact"
        standing.why = _outcome_message(partial) or forgotten


def _queued(standing: Standing, n_tasks: int, tasks: Sequence[Job], partial: Path) -> None:
    """The state of a step from the tasks of its job that Slurm knows, out of `n_tasks`."""
    if n_tasks > 1:
        standing.tasks = _count_states(n_tasks, tasks)
    running = [task for task in tasks if task.state in RUNNING]
    waiting = [task for task in tasks if task.state in WAITING]
    shown = running or waiting or tasks
    if running:
        standing.state = "running"
    elif waiting:
        standing.state = "pending"
    else:
        standing.state = _outcome_state(partial) or _ending(tasks)

    standing.nodes = _nodes(shown)
    elapsed_s = max(task.elapsed_s for task in shown)
    if elapsed_s or running:
        standing.elapsed_s = elapsed_s
    standing.why = "; ".join(dict.fromkeys(task.why for task in shown if task.why))
    if not any(task.active for task in shown):
        message = _outcome_message(partial)
        standing.why = message or standing.why or "ended without an artifact"


def _count_states(n_tasks: int, tasks: Sequence[Job]) -> dict[str, int]:
    """How many tasks of an array are in each state; what Slurm no longer lists has ended."""
    counts = Counter(_task_state(task) for task in tasks)
    counts["ended"] += max(0, n_tasks - len(tasks))
    order = dict.fromkeys([*TASK_ORDER, *sorted(counts)])
    return {state: counts[state] for state in order if counts[state]}


def _task_state(task: Job) -> str:
    return "done" if task.state == "COMPLETED" else task.state.lower()


def _ending(tasks: Sequence[Job]) -> str:
    """Slurm's word for how a job ended that has left no artifact."""
    for task in tasks:
        if task.state != "COMPLETED":
            return task.state.lower()
    return "failed"


def _nodes(tasks: Sequence[Job]) -> str:
    return ",".join(dict.fromkeys(task.nodes for task in tasks if task.nodes))


def _local(standing: Standing, partial: Path) -> None:
    """The state of a step that was never submitted to Slurm."""
    if not partial.is_dir():
        return
    owners = claims.owners(partial)
    if owners:
        standing.state = "running"
        standing.nodes = owners[0]["host"]
        standing.elapsed_s = time.time() - (partial / "config.yaml").stat().st_mtime
    else:
        standing.state = _outcome_state(partial) or "interrupted"
        standing.why = _outcome_message(partial)


def _outcome(partial: Path) -> dict:
    """What the step itself wrote when it ended; empty if it wrote nothing."""
    path = partial / "outcome.json"
    if not path.is_file():
        return {}
    return store.read_json(path, shapes.OUTCOME)


def _outcome_state(partial: Path) -> str:
    """`interrupted` or `failed`; empty if the step wrote no outcome."""
    outcome = _outcome(partial)
    if not outcome:
        return ""
    return "interrupted" if outcome["status"] == stage.STOPPED else "failed"


def _outcome_message(partial: Path) -> str:
    """The first line of the step's own error; empty if it has none."""
    outcome = _outcome(partial)
    if not outcome or outcome["status"] == stage.STOPPED:
        return ""
    return outcome["message"].partition("\n")[0]


def failure(run_dir: Path, submitted: Sequence[Mapping]) -> Path | None:
    """The page on why the last of a step's jobs failed; None without one younger than the job."""
    if not submitted:
        return None
    last = submitted[-1]
    path = (run_dir / "slurm" / last["script"]).with_suffix(".failed.txt")
    if path.is_file() and path.stat().st_mtime >= last["submitted"]:
        return path
    return None


def _explanation(run_dir: Path, step: str, submitted: Sequence[Mapping]) -> str:
    """The first line of the page on a failure, and the command that shows the log."""
    page = failure(run_dir, submitted)
    if page is None:
        return ""
    text = page.read_text(encoding="utf-8", errors="replace")
    first_line = text.strip().partition("\n")[0]
    if not first_line:
        return ""
    command = shlex.join(["mlalign", "logs", f"name={run_dir.name}", f"step={step}"])
    return f"{first_line} ({command} tells more)"


# ----------------------------------------------------------------------------------------- progress


def progress_of(partial: Path, stage_name: str, is_array: bool) -> dict[str, Any]:
    """`{done, total, unit, by_language}` from progress.json, or of an array from its shards.

    The tasks of an array share progress.json, so it does not add up.
    """
    if is_array:
        return _shard_progress(partial, stage_name)
    return progress.read(partial)


def _shard_progress(partial: Path, stage_name: str) -> dict[str, Any]:
    """The shards with a done marker, out of those of the step's input."""
    markers = sorted((partial / "shards").glob("*.json"))
    tally = store.Tally()
    for marker in markers:
        tally.merge(store.Tally(shards.read_marker(marker)))
    return {
        "done": len(markers),
        "total": _n_shards(partial, stage_name),
        "unit": "shards",
        "by_language": dict(tally.rows),
    }


def _n_shards(partial: Path, stage_name: str) -> int | None:
    """How many shards the step's input has; None if that is not known."""
    config = partial / "config.yaml"
    slot = stages.load(stage_name).SHARDED
    if slot is None or not config.is_file():
        return None
    frozen_step = step.read_config(config)
    source = stage.Inputs(store.Store(partial.parent), frozen_step["inputs"]).rows(slot)
    if not (source / "rows").is_dir():
        return None
    return len(rows.shards(source, frozen_step["config"].get("split")))
