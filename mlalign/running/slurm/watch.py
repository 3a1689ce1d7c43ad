"""Watch a submitted run to its end: what each step does, by Slurm and by progress files."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlalign.core.progress import describe
from mlalign.running.slurm import commands, ended, jobs, submit

# How often the controller is asked: at first, and when nothing has changed for long.
EVERY_S = (1, 30)
OUTAGE_S = 3600  # how long a controller may be away


def follow(
    run: submit.Run, steps: Sequence[submit.Step], say: Callable[[str], None]
) -> dict[str, str]:
    """Say every change until no job of the run is left.

    Returns the artifacts that are not there then, each with its explanation, or "" without one.
    Ctrl-C ends the watching, not the jobs.

    Raises: UserError if Slurm has not answered for an hour.
    """
    shown = {step.name: "done" if _done(run, step) else "" for step in steps}
    pause = float(EVERY_S[0])
    while True:
        alive = _live(run.folder, say)
        now = {step.name: _stand(run, step, alive) for step in steps}
        changed = [name for name in now if now[name] != shown[name]]
        for name in changed:
            say(f"{time.strftime('%H:%M:%S')} {name}: {now[name]}")
        shown = now
        if not alive:
            break
        pause = EVERY_S[0] if changed else min(pause * 1.3, EVERY_S[1])
        time.sleep(pause)

    last_job = {entry["artifact"]: entry for entry in jobs.read(run.folder)}
    lost = {}
    for step in steps:
        if not _done(run, step):
            entry = last_job.get(step.artifact)
            why = ended.explain_lost(run.folder, entry) if entry else None
            lost[step.artifact] = why or ""
    return lost


def _live(folder: Path, say: Callable[[str], None]) -> list[jobs.Live]:
    """The jobs that wait or run; an outage of the controller is waited for."""
    since = time.monotonic()
    is_said = False
    while True:
        try:
            return jobs.live(folder)[0]
        except commands.Silent as silent:
            if time.monotonic() - since > OUTAGE_S:
                raise
            if not is_said:
                problem = silent.messages[0].partition(";")[0]
                say(f"{time.strftime('%H:%M:%S')} {problem}; asking on")
            is_said = True
        time.sleep(EVERY_S[1])


def _done(run: submit.Run, step: submit.Step) -> bool:
    return (run.store.root / step.artifact / "manifest.json").is_file()


def _stand(run: submit.Run, step: submit.Step, alive: Sequence[jobs.Live]) -> str:
    """Where a step stands, in a few words."""
    if _done(run, step):
        return "done"
    mine = [one for one in alive if one.entry["artifact"] == step.artifact]
    tasks = [task for one in mine for task in one.tasks]
    running = sorted({nodes for state, _, nodes in tasks if state in ("RUNNING", "COMPLETING")})
    if running:
        progress = describe(run.store.root / f"{step.artifact}.partial")
        how_far = f", {progress}" if progress else ""
        return f"running on {', '.join(running)}{how_far}"
    if tasks:
        reasons = sorted({reason for _, reason, _ in tasks} - {"None"})
        return f"waits ({', '.join(reasons)})" if reasons else "waits"
    return "ended without a result"
