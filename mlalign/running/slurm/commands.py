"""Slurm's own commands as processes.

Every call has a timeout: some of them wait for ever for a controller that is gone.
"""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from mlalign.core.errors import UserError

TIMEOUT_S = 60
# Options of sbatch whose environment variable has another name than SBATCH_OPTION.
VARIABLES = {
    "SBATCH_TIMELIMIT": "time",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_SIGNAL": "signal",
}


class Silent(UserError):
    """Slurm did not answer: its controller is down, or busy."""


class Refused(UserError):
    """A command of Slurm ended with an error; `words` are Slurm's own."""

    def __init__(self, command: str, words: str):
        self.words = words
        super().__init__(f"launcher: {command} failed: {words}")


def call(*words: str, env: Mapping[str, str] | None = None, timeout_s: float | None = None) -> str:
    """What a command printed, within `timeout_s` seconds (TIMEOUT_S by default).

    Without `env` it runs in this environment, less the variables that filter or reshape what Slurm
    prints.

    Raises: UserError if there is no such command; Silent if it does not answer; Refused if it ends
        with an error.
    """
    timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
    env = _plain_environment() if env is None else env
    try:
        done = subprocess.run(
            words,
            env=env,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(
            f"Slurm's `{words[0]}` is not on the PATH of this machine; log in to one of the"
            " cluster, or choose launcher=local"
        ) from None
    except subprocess.TimeoutExpired as late:
        stderr = late.stderr or b""
        words_said = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr
        if "temporarily unable to accept job" in words_said:  # sbatch tries again, for minutes
            last_line = words_said.strip().splitlines()[-1]
            raise Refused(words[0], last_line.removeprefix("sbatch: error: ")) from None
        raise Silent(
            f"Slurm does not answer: `{words[0]}` said nothing for {timeout_s:g} s; see whether its"
            " controller is up (scontrol ping), then run the same command again"
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = [line.removeprefix(f"{words[0]}: ").removeprefix("error: ") for line in lines]
        raise Refused(words[0], "; ".join(said) or f"status {done.returncode}")
    return done.stdout


def _plain_environment() -> dict[str, str]:
    reshaping = ("SQUEUE_", "SACCT_", "SCANCEL_")
    plain = {name: v for name, v in os.environ.items() if not name.startswith(reshaping)}
    return plain | {"LC_ALL": "C"}


def sbatch(script: str, options: Sequence[str], extra: Sequence[str] = ()) -> str:
    """Submit a script; returns the job's id.

    `options` are those that the script sets: the environment must not replace them.
    """
    printed = call("sbatch", "--parsable", *extra, script, env=environment(options))
    return printed.strip().split(";")[0]


def environment(options: Sequence[str]) -> dict[str, str]:
    """This environment without what a surrounding job has set, and without the script's options."""
    inside = "SLURM_JOB_ID" in os.environ
    ours = {option.removeprefix("--").partition("=")[0] for option in options}

    def stays(name: str) -> bool:
        if name.startswith("SLURM_"):
            return not inside or name in ("SLURM_CONF", "SLURM_CLUSTERS")
        option = VARIABLES.get(name, name.removeprefix("SBATCH_").lower().replace("_", "-"))
        return not (name.startswith("SBATCH_") and option in ours)

    return {name: value for name, value in os.environ.items() if stays(name)}


def tasks(job_id: str) -> list[dict[str, str]]:
    """What the controller says of each task of a job; nothing once it has forgotten the job."""
    try:
        printed = call("scontrol", "-o", "show", "job", job_id)
    except Refused:
        return []
    return [
        dict(re.findall(r"(\S+?)=(\S*)", line)) for line in printed.splitlines() if line.strip()
    ]


def job(job_id: str) -> dict[str, str]:
    """What the controller says of a job or of one array task; empty once it has forgotten it."""
    return next(iter(tasks(job_id)), {})


def cancel(jobs: Sequence[str]) -> None:
    if jobs:
        call("scancel", *jobs)
