"""`mlalign status [name=RUN] [watch=SECONDS] [json=true]`: where every step of a run stands.

Without a name it shows every run in a line. A step's state is what its manifest says, else what
Slurm says of its job (one `squeue` for all jobs), else what its claim and its outcome say. If Slurm
does not answer, the table says so and shows what the files say.
"""

import dataclasses
import itertools
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
        return any(step.state in MOVING for step in self.steps)


def run(arguments: Mapping[str, str]) -> int:
    """Print where the steps stand; with `watch` again and again, while anything runs or waits."""
    known(arguments, ("name", "root", "watch", "json"))
    root = root_of(arguments)
    every = number(arguments, "watch", 0)
    as_json = flag(arguments, "json")
    one = "name" in arguments
    while True:
        names = [arguments["name"]] if one else runs(root)
        entries, slurm = look(root, names)
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
            plan = read_plan(root, name)
            jobs_of_run = jobs.read(root / "runs" / name / "slurm")
        except UserError as error:
            problems[name] = str(error)
        except OSError as error:
            problems[name] = system_problem(error) or ""
        else:
            plans[name] = plan
            recorded[name] = jobs_of_run

    submitted = list(itertools.chain.from_iterable(recorded.values()))
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
    """The jobs without a finished artifact; the accounting is only asked for these."""
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
    if standing.tasks:
        return _list_counts(standing.tasks)
    return standing.state


def _counts(one: Run) -> tuple[str, str]:
    """(`3/18 done`, `1 running, 14 pending`)."""
    if one.problem:
        return "cannot be read", ""
    counts = Counter(step.state for step in one.steps)
    n_over = sum(counts.pop(state, 0) for state in OVER)
    return f"{n_over}/{len(one.steps)} done", _list_counts(counts)


def _list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {state}" for state, n in counts.items())


def _json(root: Path, entries: Sequence[Run], slurm: queue.Slurm) -> str:
    content = {
        "root": str(root),
        "slurm": slurm.problem,
        "runs": [dataclasses.asdict(run) for run in entries],
    }
    return json.dumps(content, indent=1)
