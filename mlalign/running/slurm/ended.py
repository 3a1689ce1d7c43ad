"""What becomes of a job whose step did not finish:
`python -m mlalign.running.slurm.ended FROZEN STATUS …`, called by its batch shell.

A step that saved its state goes on: its job returns to the queue, or, where a site forbids that, a
further job continues it and those that wait for it are told to wait for that one too. A step that
came no further in two such turns, and one that failed, leave `runs/NAME/slurm/STEP.failed.txt`. The
exit status is the one that the job must end with.
"""

import argparse
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

from mlalign.core import shapes, stage, store
from mlalign.core.errors import UserError, system_problem
from mlalign.core.terminal import say, say_error
from mlalign.running.slurm import batch, commands, jobs, mends

PATIENCE_S = 300  # for a submission, or another task's continuation, to end
TURNS = 2  # so many continuations without any progress, then it is a failure
TAIL_BYTES = 20_000


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mlalign.running.slurm.ended", description=__doc__
    )
    parser.add_argument("frozen", type=Path)
    parser.add_argument("status", type=int)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--job", required=True)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        end = _End(options.frozen, options.part, options.job, options.log)
        try:
            return end.decide(options.status)
        except UserError as error:  # Slurm does not answer, or refuses: the job fails, and says so
            return end.fail(options.status, str(error))
    except UserError as error:
        say_error(str(error))
    except OSError as error:
        say_error(f"{system_problem(error, options.frozen.parent)}")
    return options.status or 1


class _End:
    """The end of one job, or of one task of an array."""

    def __init__(self, frozen: Path, part: str, job: str, log: Path):
        self.folder = frozen.parent
        self.frozen_step = store.read_json(frozen, shapes.SUBMITTED)
        self.job = job
        self.log = log
        index, n_parts = part.split("/")
        self.part = (int(index), int(n_parts))
        the_store = store.Store(Path(self.frozen_step["store"]))
        self.partial = the_store.partial(self.frozen_step["stage"], self.frozen_step["fingerprint"])
        self.outcome: dict[str, Any] = {}
        if self.partial.is_dir():
            file = stage.own_file(self.partial, self.part, "outcome.json")
            if file.is_file():
                self.outcome = store.read_json(file, shapes.OUTCOME)

    @property
    def step(self) -> str:
        """What the step is called in its run."""
        return str(self.frozen_step["run"]["step"])

    def decide(self, status: int) -> int:
        described = commands.job(self.job)
        state = described.get("JobState", "unknown")
        if int(described.get("Restarts", 0)) > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            say("Slurm has sent the job back to the queue", file=sys.stderr)
            return status or 1
        cancelled = jobs.cancelled(self.folder, self.step)
        if state != "RUNNING" and not cancelled:
            return self.fail(status, f"the job was ended from outside (Slurm calls it {state})")
        if state == "RUNNING" and stage.STOPPED not in (status, self.outcome.get("status")):
            return self.fail(status, self.outcome.get("message", ""))
        if cancelled:
            message = "the run was cancelled, so its job is not continued"
            say(f"{message}; what it has saved is kept", file=sys.stderr)
            return stage.STOPPED
        if self._stuck():
            return self.fail(status, f"it was continued {TURNS} times and made no progress")
        if self.frozen_step["slurm"]["requeue"]:
            commands.call("scontrol", "requeue", self.job)
            say("state saved; the job is back in the queue", file=sys.stderr)
        else:
            say(f"state saved; job {self._continue()} goes on from here", file=sys.stderr)
        return 0

    def _stuck(self) -> bool:
        """Whether the last turns all ended where this one has."""
        saved = [*(self.partial / "checkpoints").rglob("*"), *(self.partial / "shards").rglob("*")]
        names = [str(p.relative_to(self.partial)) for p in saved if not p.name.endswith(".tmp")]
        mark = store.fingerprint({"files": sorted(names)})
        path = self.partial / "parts" / f"{self.part[0]}.turns.json"
        path.parent.mkdir(exist_ok=True)
        before = store.read_json(path, {"marks": list})["marks"] if path.is_file() else []
        store.write_json(path, {"marks": [*before, mark]})
        return before[-TURNS:] == [mark] * TURNS

    def _continue(self) -> str:
        """Submit a further job, and make what waits for this one wait for that one too."""
        own = self.job.partition("_")[0]
        with jobs.alone(self.folder, PATIENCE_S):
            entries = jobs.read(self.folder)
            mine = next(entry for entry in entries if entry["job"] == own)
            array = [f"--array={self.part[0]}"] if self.part[1] > 1 else []
            extra = [*array, f"--dependency=afterany:{self.job}"]
            script = str(self.folder / mine["script"])
            further = commands.sbatch(script, self.frozen_step["slurm"]["options"], extra)

            shared = {key: mine[key] for key in ("step", "artifact", "script", "log")}
            links = {"tasks": 1, "after": [own], "continues": self.job}
            jobs.append(self.folder, {"job": further, **shared, **links})
            before = jobs.chain(entries, own)
            for entry in entries:
                if before & set(entry["after"]) and not entry["continues"]:
                    _wait_too(entry["job"], further)
        return further

    def fail(self, status: int, message: str) -> int:
        """Leave the explanation, in the log too; returns the exit status.

        A submission that is under way is waited for, so that it stays whole.
        """
        node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        again = f", in its turn {restarts + 1}" if restarts else ""
        head = f"{self.step} ended with status {status}: job {self.job} on {node}{again}"
        cancelled_with_it = waiting(self.folder, self.job.partition("_")[0])
        text = mends.explanation(head, message, str(self.log), tail(self.log), cancelled_with_it)
        batch.failed_file(self.folder, self.step).write_text(text, encoding="utf-8")
        say(text, file=sys.stderr)
        with jobs.alone(self.folder, PATIENCE_S):
            return status or 1


def _wait_too(waits: str, further: str) -> None:
    """Make a pending job wait for a further one as well."""
    described = commands.job(waits)
    if described.get("JobState") != "PENDING":
        return
    now = re.sub(r"\([a-z]+\)", "", described.get("Dependency", "")).removeprefix("(null)")
    dependency = ",".join(filter(None, [now, f"afterok:{further}"]))
    commands.call("scontrol", "update", f"JobId={waits}", f"Dependency={dependency}")


def tail(log: Path) -> list[str]:
    """The last lines of a log that may be long or missing."""
    if not log.is_file():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace").splitlines()


def waiting(folder: Path, job: str) -> list[str]:
    """The steps that wait for a job, directly or through others, in the order of submission."""
    entries = jobs.read(folder)
    awaited = jobs.chain(entries, job)
    steps = []
    for entry in entries:
        if set(entry["after"]) & awaited and not entry["continues"]:
            awaited.add(entry["job"])
            steps.append(entry["step"])
    return steps


def explain_lost(folder: Path, entry: dict[str, Any]) -> str | None:
    """Explain a job that Slurm ended before it could do so itself; None if there is no need.

    `entry` is its line in jobs.jsonl. An explanation that the job itself has left stays.
    """
    path = batch.failed_file(folder, entry["step"])
    if path.is_file() and path.stat().st_mtime >= entry["submitted"]:
        return path.read_text(encoding="utf-8")
    if jobs.cancelled(folder, entry["step"]):
        return None
    task = _lost_task(entry["job"])
    if task is None:
        return None

    job = entry["job"]
    log = folder / entry["log"].replace("%j", job).replace("%A", job).replace(
        "%a", task.get("ArrayTaskId", "0")
    )
    state = task["JobState"]
    if task.get("Reason", "None") not in ("None", "NonZeroExitCode"):
        state += f" ({task['Reason']})"
    where = f" on {task['NodeList']}" if task.get("NodeList", "(null)") != "(null)" else ""
    ended = f"Slurm ended job {job}{where}: {state}, status {task['ExitCode']}"
    head = f"{entry['step']}: {ended}"
    text = mends.explanation(head, "", str(log), tail(log), waiting(folder, job))
    path.write_text(text, encoding="utf-8")
    return text


def _lost_task(job: str) -> dict[str, str] | None:
    """The first task of a job that ended badly, and not because of another job."""
    for task in commands.tasks(job):
        ended_badly = task["JobState"] not in ("PENDING", "RUNNING", "COMPLETED")
        if ended_badly and task.get("Reason") not in ("Dependency", jobs.NEVER):
            return task
    return None


if __name__ == "__main__":
    sys.exit(main())
