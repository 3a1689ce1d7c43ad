"""`mlalign logs name=RUN [step=STEP] [task=N] [lines=N|all] [follow=true]`: the log of a step,
wherever it ran.

Without `step` the log that was written last. Of a Slurm job that failed, the explanation comes
first. Control characters in the text are written out: a model's words cannot steer the terminal.
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
ASK_S = 5.0  # how often a followed step is looked at


def run(arguments: Mapping[str, str]) -> int:
    known(arguments, ("name", "root", "step", "task", "lines", "follow"))
    root, name = root_of(arguments), name_of(arguments)
    plan, recorded, n = read_plan(root, name), jobs.read(root / "runs" / name / "slurm"), _lines(arguments)
    follow = flag(arguments, "follow")
    steps = steps_named(plan, arguments.get("step"))
    found = {s["step"]: paths for s in steps if (paths := logs_of(root, name, s, recorded, arguments.get("task")))}
    if not found:
        asked = " ".join(f"{key}={arguments[key]}" for key in ("step", "task") if key in arguments)
        raise UserError(f"{asked}: no log yet" if asked else f"{name}: no step has a log yet")
    path, step = max(((p, step) for step, paths in found.items() for p in paths), key=lambda pair: pair[0].stat().st_mtime)
    if page := standing.failure(root / "runs" / name, jobs.current(recorded, step)):
        say(page.read_text(encoding="utf-8", errors="replace").rstrip() + "\n")
    _announce(path, found[step])
    at = _tail(path, n)
    if follow:
        _follow(path, at, lambda: _is_over(root, name, step))
    return 0


def logs_of(root: Path, run: str, told: Mapping, recorded: Sequence[dict], task: str | None = None) -> list[Path]:
    """Every log of a step: those of its last Slurm jobs, and the one in its artifact; or one
    task's."""
    mine = jobs.current(recorded, told["step"])
    found = [path for job in mine for path in _expanded(root / "runs" / run / "slurm", job, task)]
    if task is None:
        found += [root / "store" / f"{told['artifact']}{suffix}" / "logs" / "step.log" for suffix in (".partial", "")]
    return list(dict.fromkeys(p.resolve() for p in found if p.is_file()))


def _expanded(folder: Path, job: Mapping, task: str | None) -> list[Path]:
    """The files that a job's log pattern (`%j`, `%A`, `%a`, …) stands for. When its step is done,
    `.partial` is gone from the path."""
    pattern = folder / str(job["log"])
    name = "".join(_meaning(part, job, task) for part in re.split(r"(%\d*[A-Za-z%])", pattern.name))
    folders = (pattern.parent, Path(str(pattern.parent).replace(".partial/", "/")))
    return [p for folder in dict.fromkeys(folders) if folder.is_dir() for p in sorted(folder.iterdir()) if re.fullmatch(name, p.name)]


def _meaning(part: str, job: Mapping, task: str | None) -> str:
    """A piece of the pattern as a regular expression. The `%j` of an array's task is an id of its
    own, which only Slurm knows."""
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


def _announce(path: Path, all_: Sequence[Path]) -> None:
    more = len(all_) - 1
    say(f"{path}" + (f" (and {more} more: {', '.join(p.name for p in all_ if p != path)})" if more else ""))


def _lines(arguments: Mapping[str, str]) -> int | None:
    """How many lines are asked for; None for all."""
    value = arguments.get("lines", str(LINES))
    if value == "all":
        return None
    if not value.isdecimal():
        raise UserError(f"lines: expected a number of lines, or all; got {value!r}")
    return int(value)


def _tail(path: Path, n: int | None) -> int:
    """Print the last `n` lines; returns how many bytes were read."""
    kept: deque[bytes] = deque(maxlen=n)
    before = 0
    with open(path, "rb") as f:
        for line in f:
            before += len(kept) == n
            kept.append(line)
        at = f.tell()
    if before:
        say(f"… {before} lines before these: lines=all shows them")
    say(b"".join(kept).decode("utf-8", errors="replace"), end="", flush=True)
    return at


def _follow(path: Path, at: int, is_over: Callable[[], bool]) -> None:
    """Print what is added to a log until its step is over. The file stays open: it may be renamed
    with its artifact."""
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    asked = -ASK_S
    with open(path, "rb") as f:
        f.seek(at)
        over = False
        while True:
            if not over and time.monotonic() - asked > ASK_S:
                over, asked = is_over(), time.monotonic()
            if new := f.read():
                say(decode(new), end="", flush=True)
            elif over:
                return
            time.sleep(POLL_S)


def _is_over(root: Path, name: str, step: str) -> bool:
    ((found,), _) = look(root, [name])
    if found.problem:
        raise UserError(found.problem)
    return not any(s.step == step and s.state in standing.MOVING for s in found.steps)
