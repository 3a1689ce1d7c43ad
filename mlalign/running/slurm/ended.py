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
    asked = parser.parse_args(argv)
    try:
        end = _End(asked.frozen, asked.part, asked.job, asked.log)
        try:
            return end.decide(asked.status)
        except UserError as error:  # Slurm does not answer, or refuses: the job fails, and says so
            return end.fail(asked.status, str(error))
    except UserError as error:
        say_error(str(error))
    except OSError as error:
        say_error(f"{system_problem(error, asked.frozen.parent)}")
    return asked.status or 1


class _End:
    """The end of one job, or of one task of an array."""

    def __init__(self, frozen: Path, part: str, job: str, log: Path):
        self.folder, self.told, self.job, self.log = (
            frozen.parent,
            store.read_json(frozen, shapes.SUBMITTED),
            job,
            log,
        )
        index, n = (int(x) for x in part.split("/"))
        self.part = (index, n)
        self.partial = store.Store(Path(self.told["store"])).partial(
            self.told["stage"], self.told["fingerprint"]
        )
        outcome = (
            stage.own_file(self.partial, self.part, "outcome.json")
            if self.partial.is_dir()
            else Path()
        )
        self.outcome = store.read_json(outcome, shapes.OUTCOME) if outcome.is_file() else {}

    def decide(self, status: int) -> int:
        told = commands.job(self.job)
        state = told.get("JobState", "unknown")
        if int(told.get("Restarts", 0)) > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            say("Slurm has sent the job back to the queue", file=sys.stderr)
            return status or 1
        cancelled = jobs.cancelled(self.folder, self.told["run"]["step"])
        if state != "RUNNING" and not cancelled:
            return self.fail(status, f"the job was ended from outside (Slurm calls it {state})")
        if state == "RUNNING" and stage.STOPPED not in (status, self.outcome.get("status")):
            return self.fail(status, self.outcome.get("message", ""))
        if cancelled:
            say(
                "the run was cancelled, so its job is not continued; what it has saved is kept",
                file=sys.stderr,
            )
            return stage.STOPPED
        if self._stuck():
            return self.fail(status, f"it was continued {TURNS} times and made no progress")
        if self.told["slurm"]["requeue"]:
            commands.call("scontrol", "requeue", self.job)
            say("state saved; the job is back in the queue", file=sys.stderr)
        else:
            say(f"state saved; job {self._continue()} goes on from here", file=sys.stderr)
        return 0

    def _stuck(self) -> bool:
        """Whether the last turns all ended where this one has."""
        found = [
            p
            for name in ("checkpoints", "shards")
            for p in (self.partial / name).rglob("*")
            if not p.name.endswith(".tmp")
        ]
        mark = store.fingerprint({"files": sorted(str(p.relative_to(self.partial)) for p in found)})
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
            mine = next(e for e in entries if e["job"] == own)
            array = [f"--array={self.part[0]}"] if self.part[1] > 1 else []
            extra = [*array, f"--dependency=afterany:{self.job}"]
            further = commands.sbatch(
                str(self.folder / mine["script"]), self.told["slurm"]["options"], extra
            )
            line = {k: mine[k] for k in ("step", "artifact", "script", "log")}
            jobs.append(
                self.folder,
                {"job": further, **line, "tasks": 1, "after": [own], "continues": self.job},
            )
            before = jobs.chain(entries, own)
            for entry in entries:
                if before & set(entry["after"]) and not entry["continues"]:
                    _wait_too(entry["job"], further)
        return further

    def fail(self, status: int, message: str) -> int:
        """Leave the explanation, in the log too.

        While a submission is under way its end is awaited, so that it stays whole.
        """
        node, restarts = (
            os.environ.get("SLURMD_NODENAME", socket.gethostname()),
            int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )
        again = f", in its turn {restarts + 1}" if restarts else ""
        head = (
            f"{self.told['run']['step']} ended with status {status}: job {self.job} on"
            f" {node}{again}"
        )
        text = mends.explanation(
            head,
            message,
            str(self.log),
            tail(self.log),
            waiting(self.folder, self.job.partition("_")[0]),
        )
        batch.failed_file(self.folder, self.told["run"]["step"]).write_text(text, encoding="utf-8")
        say(text, file=sys.stderr)
        with jobs.alone(self.folder, PATIENCE_S):
            return status or 1


def _wait_too(waits: str, further: str) -> None:
    told = commands.job(waits)
    if told.get("JobState") != "PENDING":
        return
    now = re.sub(r"\([a-z]+\)", "", told.get("Dependency", "")).removeprefix("(null)")
    commands.call(
        "scontrol",
        "update",
        f"JobId={waits}",
        "Dependency=" + ",".join(filter(None, [now, f"afterok:{further}"])),
    )


def tail(log: Path) -> list[str]:
    """The last lines of a log that may be long or missing."""
    if not log.is_file():
        return []
    with open(log, "rb") as f:
        f.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return f.read().decode("utf-8", errors="replace").splitlines()


def waiting(folder: Path, job: str) -> list[str]:
    """The steps that wait for a job, directly or through others, in the order of submission."""
    entries, found, steps = jobs.read(folder), jobs.chain(jobs.read(folder), job), []
    for entry in entries:
        if set(entry["after"]) & found and not entry["continues"]:
            found.add(entry["job"])
            steps.append(entry["step"])
    return steps


def explain_lost(folder: Path, entry: dict[str, Any]) -> str | None:
    """Explain a job that Slurm ended before it could do so itself; None if there is nothing to
    explain.

    `entry` is its line in jobs.jsonl; an explanation that the job has left since its submission
    stays.
    """
    path = batch.failed_file(folder, entry["step"])
    if path.is_file() and path.stat().st_mtime >= entry["submitted"]:
        return path.read_text(encoding="utf-8")
    if jobs.cancelled(folder, entry["step"]):
        return None
    ended = (
        t
        for t in commands.tasks(entry["job"])
        if t["JobState"] not in ("PENDING", "RUNNING", "COMPLETED")
    )
    told = next((t for t in ended if t.get("Reason") not in ("Dependency", jobs.NEVER)), None)
    if told is None:
        return None
    log = folder / entry["log"].replace("%j", entry["job"]).replace("%A", entry["job"]).replace(
        "%a", told.get("ArrayTaskId", "0")
    )
    state = told["JobState"] + (
        f" ({told['Reason']})"
        if told.get("Reason", "None") not in ("None", "NonZeroExitCode")
        else ""
    )
    where = f" on {told['NodeList']}" if told.get("NodeList", "(null)") != "(null)" else ""
    head = (
        f"{entry['step']}: Slurm ended job {entry['job']}{where}: {state}, status"
        f" {told['ExitCode']}"
    )
    text = mends.explanation(head, "", str(log), tail(log), waiting(folder, entry["job"]))
    path.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    sys.exit(main())
