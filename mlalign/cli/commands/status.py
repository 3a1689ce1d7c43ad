"""`mlalign status [name=RUN] [watch=SECONDS] [json=true]`: where every step of a run stands;
without a name, every run in a line.

A step's state is what its manifest says, else what Slurm says of its job (one `squeue` for all
jobs), else what its claim and its last words say. Where Slurm cannot be asked, the table says so
and shows what the files tell.
"""

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.cli.commands import flag, known, number, read_plan, root_of, runs, standing
from mlalign.cli.commands.standing import MOVING, OVER, Standing
from mlalign.core import progress
from mlalign.core.errors import UserError, system_problem
from mlalign.core.terminal import duration, say, say_error, table, without_empty
from mlalign.running.slurm import jobs, queue

HEADER = (
    "round",
    "step",
    "language",
    "stage",
    "state",
    "job",
    "node",
    "elapsed",
    "restarts",
    "progress",
    "why",
)


@dataclasses.dataclass
class Run:
    """A run: its plan, and where its steps stand."""

    name: str
    recipe: str
    steps: list[Standing]
    problem: str = ""  # what keeps the run from being read

    @property
    def moving(self) -> bool:
        return any(s.state in MOVING for s in self.steps)


def run(arguments: Mapping[str, str]) -> int:
    """Print where the steps stand; with `watch` again and again, while anything runs or waits."""
    known(arguments, ("name", "root", "watch", "json"))
    root, every = root_of(arguments), number(arguments, "watch", 0)
    as_json = flag(arguments, "json")
    one = "name" in arguments
    while True:
        entries, slurm = look(root, [arguments["name"]] if one else runs(root))
        broken = [entry for entry in entries if entry.problem]
        if broken and one:
            raise UserError(broken[0].problem)
        text = _json(root, entries, slurm) if as_json else _text(root, entries, slurm, one)
        if every and not as_json and sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")
        say(text, flush=True)
        if not every or not any(entry.moving for entry in entries):
            break
        time.sleep(every)
    for entry in broken:
        say_error(f"run {entry.name}: {entry.problem}")
    return 1 if broken else 0


def look(root: Path, names: Sequence[str]) -> tuple[list[Run], queue.Slurm]:
    """Where all steps of these runs stand, with one query to Slurm.

    A run that cannot be read has a `problem`, and does not hide the others.
    """
    plans: dict[str, dict[str, Any]] = {}
    recorded: dict[str, list[dict[str, Any]]] = {}
    problems: dict[str, str] = {}
    for name in names:
        try:
            plan, jobs_of_run = read_plan(root, name), jobs.read(root / "runs" / name / "slurm")
        except UserError as error:
            problems[name] = str(error)
        except OSError as error:
            problems[name] = system_problem(error) or ""
        else:
            plans[name], recorded[name] = plan, jobs_of_run

    submitted = [job for jobs_of_run in recorded.values() for job in jobs_of_run]
    ids = {str(job["job"]) for job in submitted}
    unfinished = {str(job["job"]) for job in _unfinished(root, submitted)}
    slurm = queue.ask(ids, unfinished)

    looked_at = []
    for name in names:
        if name in problems:
            looked_at.append(Run(name, "", [], problems[name]))
            continue
        steps = plans[name]["steps"]
        standings = [standing.of_step(root, name, step, recorded[name], slurm) for step in steps]
        looked_at.append(Run(name, plans[name]["recipe"], standings))
    return looked_at, slurm


def _unfinished(root: Path, recorded: Sequence[Mapping]) -> list[Mapping]:
    """The jobs without a finished artifact: only for those the accounting is worth asking."""
    unfinished = []
    for job in recorded:
        manifest = root / "store" / job["artifact"] / "manifest.json"
        if not manifest.is_file():
            unfinished.append(job)
    return unfinished


def _text(root: Path, entries: Sequence[Run], slurm: queue.Slurm, one: bool) -> str:
    if not entries:
        return f"no runs under {root}"
    if one:
        blocks = [_steps(entries[0])]
    else:
        rows = [[run.name, run.recipe, *_counts(run)] for run in entries]
        blocks = [table(rows, ["run", "recipe", "steps", "now"])]
    if slurm.problem:
        blocks.append(f"{slurm.problem}; this shows only what the files of the steps say")
    return "\n\n".join(blocks)


def _steps(one: Run) -> str:
    counts = ", ".join(count for count in _counts(one) if count)
    rows = without_empty([_row(step) for step in one.steps], HEADER)
    return f"{one.name} (recipe {one.recipe}): {counts}\n{rows}"


def _row(step: Standing) -> list[Any]:
    return [
        "" if step.round is None else step.round,
        step.step,
        step.language,
        step.stage,
        state_of(step),
        step.job,
        step.nodes,
        "" if step.elapsed_s is None else duration(step.elapsed_s),
        step.restarts or "",
        progress.text(step.progress),
        step.why,
    ]


def state_of(standing: Standing) -> str:
    """`running`, or of an array `3 done, 1 running, 1 pending`."""
    return ", ".join(f"{n} {state}" for state, n in standing.tasks.items()) or standing.state


def _counts(one: Run) -> tuple[str, str]:
    """(`3/18 done`, `1 running, 14 pending`)."""
    states = Counter("done" if s.state in OVER else s.state for s in one.steps)
    done = states.pop("done", 0)
    if one.problem:
        return "cannot be read", ""
    return f"{done}/{len(one.steps)} done", ", ".join(f"{n} {state}" for state, n in states.items())


def _json(root: Path, entries: Sequence[Run], slurm: queue.Slurm) -> str:
    content = {
        "root": str(root),
        "slurm": slurm.problem,
        "runs": [dataclasses.asdict(run) for run in entries],
    }
    return json.dumps(content, indent=1)
