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
    """What a command printed; without `env`, in this environment less the variables that filter or
    reshape what Slurm prints. It is waited for `timeout_s` seconds (TIMEOUT_S by default).

    Raises: UserError if it is not there; Silent if it does not answer; Refused if it ended with an
        error.
    """
    timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
    if env is None:
        env = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("SQUEUE_", "SACCT_", "SCANCEL_"))
        } | {"LC_ALL": "C"}
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
        said = late.stderr or b""
        words_said = said.decode(errors="replace") if isinstance(said, bytes) else said
        if (
            "temporarily unable to accept job" in words_said
        ):  # sbatch tries again by itself, for minutes
            raise Refused(
                words[0], words_said.strip().splitlines()[-1].removeprefix("sbatch: error: ")
            ) from None
        raise Silent(
            f"Slurm does not answer: `{words[0]}` said nothing for {timeout_s:g} s; see whether its"
            " controller is up (scontrol ping), then run the same command again"
        ) from None
    if done.returncode:
        told = [
            line.removeprefix(f"{words[0]}: ").removeprefix("error: ")
            for line in done.stderr.splitlines()
            if line.strip()
        ]
        raise Refused(words[0], "; ".join(told) or f"status {done.returncode}")
    return done.stdout


def sbatch(script: str, options: Sequence[str], extra: Sequence[str] = ()) -> str:
    """Submit a script; returns the job's id.

    `options` are those that the script sets: the environment must not replace them.
    """
    return (
        call("sbatch", "--parsable", *extra, script, env=environment(options)).strip().split(";")[0]
    )


def environment(options: Sequence[str]) -> dict[str, str]:
    """This environment without what a surrounding job has set, and without defaults for options
    that the script sets.
    """
    inside = "SLURM_JOB_ID" in os.environ
    ours = {option.removeprefix("--").partition("=")[0] for option in options}

    def stays(name: str) -> bool:
        if name.startswith("SLURM_"):
            return not inside or name in ("SLURM_CONF", "SLURM_CLUSTERS")
        option = VARIABLES.get(name, name.removeprefix("SBATCH_").lower().replace("_", "-"))
        return not (name.startswith("SBATCH_") and option in ours)

    return {name: value for name, value in os.environ.items() if stays(name)}


def tasks(job_id: str) -> list[dict[str, str]]:
    """What the controller says of a job, or of each task of an array; nothing once it has forgotten
    it.
    """
    try:
        told = call("scontrol", "-o", "show", "job", job_id)
    except Refused:
        return []
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in told.splitlines() if line.strip()]


def job(job_id: str) -> dict[str, str]:
    """What the controller says of a job or of one array task; empty once it has forgotten it."""
    return next(iter(tasks(job_id)), {})


def cancel(jobs: Sequence[str]) -> None:
    if jobs:
        call("scancel", *jobs)
