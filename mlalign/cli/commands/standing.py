"""Where a step stands: what its manifest, its claim and its last words say, and what Slurm says of
its jobs. Nothing is guessed.

Of a step's jobs (`jobs.read`) those of the last submission count (`jobs.current`).
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
# Slurm's words for a task of an array -> ours
TASK_WORDS = {"COMPLETED": "done"}


@dataclasses.dataclass
class Standing:
    """One step. `state`: done, skipped, waiting (not begun), pending, running, submitted (a job
    that nobody can be asked about), interrupted (goes on with the same command), failed, or Slurm's
    own word for how its job ended."""

    step: str
    stage: str
    artifact: str
    round: int | None
    language: str
    state: str = "waiting"
    job: str = ""
    tasks: dict[str, int] = dataclasses.field(default_factory=dict)
    nodes: str = ""
    elapsed_s: float | None = None
    restarts: int = 0
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)
    why: str = ""


def of_step(
    root: Path, run: str, told: Mapping, recorded: Sequence[dict], slurm: Slurm
) -> Standing:
    """As `_of_step`; a step whose files cannot be read is `unreadable`, and says why."""
    try:
        return _of_step(root, run, told, recorded, slurm)
    except UserError as error:
        why = str(error)
    except OSError as error:
        why = system_problem(error) or ""
    return Standing(
        told["step"], told["stage"], told["artifact"], told.get("round"), "", "unreadable", why=why
    )


def _of_step(
    root: Path, run: str, told: Mapping, recorded: Sequence[dict], slurm: Slurm
) -> Standing:
    """`told` is the step in plan.json, `recorded` all jobs of the run."""
    path = root / "store" / told["artifact"]
    partial = path.with_name(path.name + ".partial")
    mine = jobs.current(recorded, told["step"])
    language = re.search(
        r"\[([^=]+)\]$", told["step"]
    )  # in a sweep the brackets hold values of keys
    out = Standing(
        told["step"],
        told["stage"],
        told["artifact"],
        told.get("round"),
        language[1] if language else "",
    )
    if mine:
        out.job = ",".join(str(job["job"]) for job in mine)
        out.restarts = len(mine) - 1 + sum(job.restarts for job in slurm.of(mine))
    if (path / "manifest.json").is_file():
        _finished(out, store.read_manifest(path))
        out.nodes = ",".join(dict.fromkeys(j.nodes for j in slurm.of(mine) if j.nodes)) or out.nodes
        return out
    if partial.is_dir():
        out.progress = progress_of(
            partial, told["stage"], parts=bool(mine) and mine[0]["tasks"] > 1
        )
    if mine:
        _queued(out, mine, slurm, partial)
    else:
        _local(out, partial)
    if out.state == "interrupted":
        out.why = "its state is saved; the same command goes on"
    elif out.state not in (*OVER, *MOVING):
        out.why = _explanation(root / "runs" / run, out.step, mine) or out.why
    return out


def _finished(out: Standing, manifest: Mapping) -> None:
    out.state, out.elapsed_s, out.nodes = (
        manifest["status"],
        manifest["finished"] - manifest["started"],
        str(manifest.get("host") or ""),
    )
    warnings = [f"warning: {text}" for text in manifest.get("warnings", [])]
    out.why = str(manifest.get("skipped_because") or "; ".join(warnings))
    by = manifest.get("rows_by_language") or {}
    out.progress = (
        {"done": sum(by.values()), "total": None, "unit": "rows", "by_language": by} if by else {}
    )


def _queued(out: Standing, mine: Sequence[Mapping], slurm: Slurm, partial: Path) -> None:
    """The state of a step whose work is a Slurm job."""
    tasks = slurm.of(mine)
    if slurm.problem or not tasks:
        owners = claims.owners(partial)
        out.state = (
            "running" if owners else "submitted" if slurm.problem else _last_word(partial) or "gone"
        )
        out.nodes = owners[0]["host"] if owners else ""
        out.why = (
            ""
            if owners or slurm.problem
            else _message(partial) or f"Slurm has forgotten job {out.job}, which left no artifact"
        )
        return
    states = Counter(TASK_WORDS.get(j.state, j.state.lower()) for j in tasks)
    if mine[0]["tasks"] > 1:
        states["ended"] += max(0, mine[0]["tasks"] - len(tasks))
        out.tasks = {state: n for state, n in sorted(states.items(), key=_order) if n}
    shown = next(
        (
            [j for j in tasks if j.state in kind]
            for kind in (RUNNING, WAITING)
            if any(j.state in kind for j in tasks)
        ),
        tasks,
    )
    out.state = _state(shown, partial)
    out.nodes = ",".join(dict.fromkeys(j.nodes for j in shown if j.nodes))
    elapsed = max(j.elapsed_s for j in shown)
    out.elapsed_s = elapsed if elapsed or out.state == "running" else None
    why = dict.fromkeys(j.why for j in shown if j.why)
    out.why = (
        "; ".join(why)
        if any(j.active for j in shown)
        else _message(partial) or "; ".join(why) or "ended without an artifact"
    )


def _order(item: tuple[str, int]) -> tuple[int, str]:
    usual = ("done", "running", "pending")
    return (usual.index(item[0]) if item[0] in usual else len(usual), item[0])


def _state(tasks: Sequence[Job], partial: Path) -> str:
    if any(j.state in RUNNING for j in tasks):
        return "running"
    if any(j.state in WAITING for j in tasks):
        return "pending"
    bad = [j.state.lower() for j in tasks if j.state != "COMPLETED"]
    return _last_word(partial) or (bad[0] if bad else "failed")


def _local(out: Standing, partial: Path) -> None:
    if not partial.is_dir():
        return
    owners = claims.owners(partial)
    out.state = "running" if owners else _last_word(partial) or "interrupted"
    out.why = "" if owners else _message(partial)
    if owners:
        out.nodes, out.elapsed_s = (
            owners[0]["host"],
            time.time() - (partial / "config.yaml").stat().st_mtime,
        )


def _outcome(partial: Path) -> dict:
    path = partial / "outcome.json"
    return store.read_json(path, shapes.OUTCOME) if path.is_file() else {}


def _last_word(partial: Path) -> str:
    """`interrupted` or `failed`, as the step itself said when it ended; else nothing."""
    if not (outcome := _outcome(partial)):
        return ""
    return "interrupted" if outcome["status"] == stage.STOPPED else "failed"


def _message(partial: Path) -> str:
    outcome = _outcome(partial)
    return (
        outcome["message"].partition("\n")[0]
        if outcome and outcome["status"] != stage.STOPPED
        else ""
    )


def failure(run_dir: Path, mine: Sequence[Mapping]) -> Path | None:
    """The page on why the last of a step's jobs failed, if there is one that is younger than the
    job."""
    if not mine:
        return None
    path = (run_dir / "slurm" / mine[-1]["script"]).with_suffix(".failed.txt")
    return path if path.is_file() and path.stat().st_mtime >= mine[-1]["submitted"] else None


def _explanation(run_dir: Path, step: str, mine: Sequence[Mapping]) -> str:
    page = failure(run_dir, mine)
    first = (
        page.read_text(encoding="utf-8", errors="replace").strip().partition("\n")[0]
        if page
        else ""
    )
    return (
        f"{first} (mlalign logs {shlex.join([f'name={run_dir.name}', f'step={step}'])} tells more)"
        if first
        else ""
    )


# ----------------------------------------------------------------------------------------- progress


def progress_of(partial: Path, stage_name: str, parts: bool) -> dict[str, Any]:
    """`{done, total, unit, by_language}` from progress.json; of an array, whose tasks share that
    file, from the shards that are done."""
    return _of_shards(partial, stage_name) if parts else progress.read(partial)


def _of_shards(partial: Path, stage_name: str) -> dict[str, Any]:
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
    config, slot = partial / "config.yaml", stages.load(stage_name).SHARDED
    if slot is None or not config.is_file():
        return None
    told = step.read_config(config)
    source = stage.Inputs(store.Store(partial.parent), told["inputs"]).rows(slot)
    return (
        len(rows.shards(source, told["config"].get("split")))
        if (source / "rows").is_dir()
        else None
    )
