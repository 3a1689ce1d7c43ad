"""`mlalign logs name=RUN [step=STEP] [task=N] [lines=N|all] [follow=true]`: show a step's log.

Without `step`, it is the log that was written last. If a Slurm job failed, the explanation comes
first. Control characters in the text are escaped: a model's words cannot steer the terminal.
"""

import codecs
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlalign.cli.commands import flag, known, name_of, read_plan, root_of, standing, steps_named
from mlalign.cli.commands.status import look
from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from mlalign.running.slurm import jobs

LINES = 200
POLL_S = 0.3
ASK_S = 5.0  # how often to ask whether a followed step is over


def run(arguments: Mapping[str, str]) -> int:
    known(arguments, ("name", "root", "step", "task", "lines", "follow"))
    root = root_of(arguments)
    name = name_of(arguments)
    run_dir = root / "runs" / name
    plan = read_plan(root, name)
    recorded = jobs.read(run_dir / "slurm")
    n_lines = _n_lines(arguments)
    follow = flag(arguments, "follow")

    logs: dict[str, list[Path]] = {}
    for entry in steps_named(plan, arguments.get("step")):
        paths = logs_of(root, name, entry, recorded, arguments.get("task"))
        if paths:
            logs[entry["step"]] = paths
    if not logs:
        selection = [f"{key}={arguments[key]}" for key in ("step", "task") if key in arguments]
        if selection:
            raise UserError(f"{' '.join(selection)}: no log yet")
        raise UserError(f"{name}: no step has a log yet")

    path, step = _newest(logs)
    page = standing.failure(run_dir, jobs.current(recorded, step))
    if page:
        say(page.read_text(encoding="utf-8", errors="replace").rstrip() + "\n")
    _announce(path, logs[step])
    position = _tail(path, n_lines)
    if follow:
        _follow(path, position, lambda: _is_over(root, name, step))
    return 0


def _newest(logs: Mapping[str, Sequence[Path]]) -> tuple[Path, str]:
    """The log that was written last, and its step."""
    step_of: dict[Path, str] = {}
    for step, paths in logs.items():
        for path in paths:
            step_of.setdefault(path, step)
    newest = max(step_of, key=lambda path: path.stat().st_mtime)
    return newest, step_of[newest]


def logs_of(
    root: Path,
    run: str,
    entry: Mapping,
    recorded: Sequence[dict],
    task: str | None = None,
) -> list[Path]:
    """Every log of a step (an entry of plan.json), or one task's.

    They are those of its last Slurm jobs, and the one in its artifact.
    """
    paths: list[Path] = []
    for job in jobs.current(recorded, entry["step"]):
        paths += _expanded(root / "runs" / run / "slurm", job, task)
    if task is None:
        artifact = root / "store" / entry["artifact"]
        for folder in (artifact.with_name(f"{artifact.name}.partial"), artifact):
            paths.append(folder / "logs" / "step.log")
    return list(dict.fromkeys(path.resolve() for path in paths if path.is_file()))


def _expanded(folder: Path, job: Mapping, task: str | None) -> list[Path]:
    """The files that a job's log pattern (`%j`, `%A`, `%a`, …) stands for.

    When the step is done, `.partial` is gone from the path.
    """
    pattern = folder / str(job["log"])
    parts = re.split(r"(%\d*[A-Za-z%])", pattern.name)
    name = "".join(_meaning(part, job, task) for part in parts)
    finished = Path(str(pattern.parent).replace(".partial/", "/"))

    paths: list[Path] = []
    for place in dict.fromkeys((pattern.parent, finished)):
        if place.is_dir():
            paths += [p for p in sorted(place.iterdir()) if re.fullmatch(name, p.name)]
    return paths


def _meaning(part: str, job: Mapping, task: str | None) -> str:
    """A piece of the pattern as a regular expression.

    For an array's task, `%j` is an id of its own, which only Slurm knows.
    """
    if not re.fullmatch(r"%\d*[A-Za-z%]", part):
        return re.escape(part)
    match part[-1]:
        case "A":
            return re.escape(str(job["job"]))
        case "j" if job["tasks"] == 1:
            return re.escape(str(job["job"]))
        case "a":
            return r"\d+" if task is None else rf"0*{re.escape(task)}"
        case "%":
            return "%"
    return r".*"


def _announce(path: Path, paths: Sequence[Path]) -> None:
    others = [other.name for other in paths if other != path]
    more = f" (and {len(others)} more: {', '.join(others)})" if others else ""
    say(f"{path}{more}")


def _n_lines(arguments: Mapping[str, str]) -> int | None:
    """How many lines to show; None for all."""
    value = arguments.get("lines", str(LINES))
    if value == "all":
        return None
    if not value.isdecimal():
        raise UserError(f"lines: expected a number of lines, or all; got {value!r}")
    return int(value)


def _tail(path: Path, n: int | None) -> int:
    """Print the last `n` lines; returns how many bytes were read."""
    kept: deque[bytes] = deque(maxlen=n)
    n_skipped = 0
    with open(path, "rb") as file:
        for line in file:
            if len(kept) == n:
                n_skipped += 1
            kept.append(line)
        position = file.tell()
    if n_skipped:
        say(f"… {n_skipped} lines before these: lines=all shows them")
    say(b"".join(kept).decode("utf-8", errors="replace"), end="", flush=True)
    return position


def _follow(path: Path, position: int, is_over: Callable[[], bool]) -> None:
    """Print what is added to a log until its step is over.

    The file stays open, since it may be renamed with its artifact.
    """
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    over = False
    asked_at = -ASK_S
    with open(path, "rb") as file:
        file.seek(position)
        while True:
            if not over and time.monotonic() - asked_at > ASK_S:
                over = is_over()
                asked_at = time.monotonic()
            added = file.read()
            if added:
                say(decode(added), end="", flush=True)
            elif over:
                return
            time.sleep(POLL_S)


def _is_over(root: Path, name: str, step: str) -> bool:
    (run_,), _ = look(root, [name])
    if run_.problem:
        raise UserError(run_.problem)
    for standing_ in run_.steps:
        if standing_.step == step and standing_.state in standing.MOVING:
            return False
    return True
