"""`mlalign status [name=RUN] [watch=SECONDS] [json=true]`: where every step of a run stands; without a name, every run in a line.

A step's state is what its manifest says, else what Slurm says of its job (one `squeue` for all jobs), else what its claim and its last
words say. Where Slurm cannot be asked, the table says so and shows what the files tell.
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

HEADER = ("round", "step", "language", "stage", "state", "job", "node", "elapsed", "restarts", "progress", "why")


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
    """Print where the steps stand; with `watch` again and again, until nothing of it runs or waits in the queue."""
    known(arguments, ("name", "root", "watch", "json"))
    root, every = root_of(arguments), number(arguments, "watch", 0)
    as_json = flag(arguments, "json")
    while True:
        found, slurm = look(root, [arguments["name"]] if "name" in arguments else runs(root))
        broken = [one for one in found if one.problem]
        if broken and "name" in arguments:
            raise UserError(broken[0].problem)
        text = _json(root, found, slurm) if as_json else _text(root, found, slurm, "name" in arguments)
        if every and not as_json and sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")
        say(text, flush=True)
        if not every or not any(r.moving for r in found):
            break
        time.sleep(every)
    for one in broken:
        say_error(f"run {one.name}: {one.problem}")
    return 1 if broken else 0


def look(root: Path, names: Sequence[str]) -> tuple[list[Run], queue.Slurm]:
    """Where all steps of these runs stand, with one question to Slurm. A run that cannot be read keeps no other from being told."""
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

    ids = {str(job["job"]) for submitted in recorded.values() for job in submitted}
    slurm = queue.ask(ids, {str(j["job"]) for submitted in recorded.values() for j in _unfinished(root, submitted)})
    found = []
    for name in names:
        if name in problems:
            found.append(Run(name, "", [], problems[name]))
            continue
        steps = [standing.of_step(root, name, step, recorded[name], slurm) for step in plans[name]["steps"]]
        found.append(Run(name, plans[name]["recipe"], steps))
    return found, slurm


def _unfinished(root: Path, recorded: Sequence[Mapping]) -> list[Mapping]:
    """The jobs whose artifact is not there: the accounting is worth asking only for those."""
    return [job for job in recorded if not (root / "store" / job["artifact"] / "manifest.json").is_file()]


def _text(root: Path, found: Sequence[Run], slurm: queue.Slurm, one: bool) -> str:
    if not found:
        return f"no runs under {root}"
    blocks = [_steps(found[0])] if one else [table([[r.name, r.recipe, *_counts(r)] for r in found], ["run", "recipe", "steps", "now"])]
    if slurm.problem:
        blocks.append(f"{slurm.problem}; what stands here is from the files of the steps alone")
    return "\n\n".join(blocks)


def _steps(one: Run) -> str:
    rows = [
        [
            "" if s.round is None else s.round, s.step, s.language, s.stage, state_of(s), s.job, s.nodes,
            "" if s.elapsed_s is None else duration(s.elapsed_s), s.restarts or "", progress.text(s.progress), s.why,
        ]
        for s in one.steps
    ]  # fmt: skip
    return f"{one.name} (recipe {one.recipe}): {', '.join(c for c in _counts(one) if c)}\n{without_empty(rows, HEADER)}"


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


def _json(root: Path, found: Sequence[Run], slurm: queue.Slurm) -> str:
    told: dict[str, Any] = {"root": str(root), "slurm": slurm.problem, "runs": [dataclasses.asdict(r) for r in found]}
    return json.dumps(told, indent=1)
