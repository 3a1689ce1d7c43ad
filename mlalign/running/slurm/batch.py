"""The text of a step's batch script: a pure function of the step and the launcher's configuration.

The batch shell begins the step on its frozen configuration, runs it in the background and waits.
When Slurm announces the time limit or a preemption, the shell writes a STOP file; the step saves
its state and ends with status 75. A step that does not end in time is killed, and loses the shard
or the training step it was at. Then, and when a step fails, `mlalign.running.slurm.ended`
decides: back to the queue, a further job, or an explanation.
"""

import dataclasses
import hashlib
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError
from mlalign.core.stage import NOTHING_TO_DO
from mlalign.recipes.launchers import Slurm

# Resources -> the options of sbatch that they become.
OPTIONS = {
    "nodes": "nodes",
    "cpus": "cpus-per-task",
    "memory": "mem",
    "time": "time",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "exclude": "exclude",
    "reservation": "reservation",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One step as a job.

    `folder` is the run's own for Slurm, `source` goes in front on PYTHONPATH. In a sweep nothing
    waits for the `last` steps of a variant.
    """

    step: str
    run: str
    folder: Path
    partial: Path
    source: Path
    resources: Mapping[str, Any]
    distributed: bool
    sweep: bool = False
    last: bool = False

    @property
    def tasks(self) -> int:
        return self.resources.get("tasks") or 1

    @property
    def is_array(self) -> bool:
        return self.tasks > 1

    @property
    def file(self) -> str:
        return file_name(self.step)

    @property
    def frozen(self) -> Path:
        return self.folder / f"{self.file}.json"

    @property
    def script(self) -> Path:
        return self.folder / f"{self.file}.sbatch"

    @property
    def failed(self) -> Path:
        """The file that explains a bad end."""
        return failed_file(self.folder, self.step)

    @property
    def log(self) -> str:
        """Slurm's pattern for the log, below `folder`."""
        return f"logs/{self.file}-%A_%a.log" if self.is_array else f"logs/{self.file}-%j.log"


def script(job: Job, cfg: Slurm) -> str:
    """The batch script: equal text for equal input."""
    parts = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options(job, cfg)),
        (
            f"# Step {one_line(job.step)} of run {one_line(job.run)}. By hand: sbatch"
            f" {shlex.quote(one_line(str(job.script)))}"
        ),
        "",
        *_ask(job),
        *_environment(job, cfg),
        *cfg.preamble,
        (
            f"export PYTHONPATH={shlex.quote(str(job.source))}${{PYTHONPATH:+:$PYTHONPATH}}"
            " PYTHONSAFEPATH=1"
        ),
        "",
        *_names(job, cfg),
        "",
        SEES,
        "",
        *([_results(job)] if job.sweep else []),
        BEGIN,
        *([RENDEZVOUS] if _n_nodes(job) > 1 else []),
        f"{_command(job, cfg)} &",
        WAIT,
    ]
    return "\n".join(parts) + "\n"


def options(job: Job, cfg: Slurm) -> list[str]:
    """`--name=value` for every option of sbatch.

    Ours come first, then those that resources become, then those that are given verbatim.
    """
    log = str(job.folder).replace("%", "%%") + "/" + job.log
    values: dict[str, Any] = {
        "job-name": file_name(f"{job.run}/{job.step}", "/"),
        "output": log,
        "open-mode": "append",
        "signal": f"B:USR1@{cfg.grace_s}",
        "requeue" if cfg.requeue else "no-requeue": True,
        "kill-on-invalid-dep": "yes",
        "nodes": 1,
        "ntasks-per-node": 1,
    }
    if job.is_array:
        values["array"] = f"0-{job.tasks - 1}"
    for name, value in job.resources.items():
        if name in OPTIONS:
            values[OPTIONS[name]] = _time(value) if name == "time" else value
    gpus = job.resources.get("gpus")
    if gpus:
        devices = job.resources.get("devices", 1)
        values["gpus-per-node"] = devices if job.distributed else gpus
    values |= job.resources.get("sbatch") or {}

    options = []
    for name, value in values.items():
        if value is True:
            options.append(f"--{name}")
        elif value not in (None, False):
            options.append(f"--{name}={_quoted(value)}")
    return options


def _time(value: str | None) -> str | None:
    """`90 min` and `3 h` in the form that sbatch takes."""
    in_words = re.fullmatch(r"(\d+) ?(min|h)", value) if value is not None else None
    if in_words is None:
        return value
    minutes = 60 if in_words[2] == "h" else 1
    return f"{int(in_words[1]) * minutes}"


def _ask(job: Job) -> list[str]:
    """What to do when a signal comes; this is first in the script.

    Slurm sends USR1 ahead of the time limit, and TERM at the end. Bash handles them while it waits,
    and between two commands.
    """
    stop = "parts/$SLURM_ARRAY_TASK_ID.STOP" if job.is_array else "STOP"
    return [
        f"partial={shlex.quote(str(job.partial))}",
        f'stop="$partial/{stop}"',
        "asked='' timer=''",
        'ask() { asked=1; touch -- "$stop" 2>/dev/null; }',
        "trap ask USR1 TERM",
        "",
    ]


def _environment(job: Job, cfg: Slurm) -> list[str]:
    cpus = job.resources.get("cpus")
    threads = job.resources.get("threads")
    if not threads and cpus:
        devices = job.resources.get("devices") or 1
        threads = max(1, cpus // devices)

    variables = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if cfg.offline:
        variables["HF_HUB_OFFLINE"] = "1"
    variables |= cfg.environment
    lines = [f"export {name}={_word(value)}" for name, value in variables.items()]
    if threads:
        lines.append(f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{threads}}}")
    if cpus:
        lines.append("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK")
    return lines


def _names(job: Job, cfg: Slurm) -> list[str]:
    """What the rest of the script calls by name."""
    python = " ".join(map(_word, [*cfg.prefix, cfg.python or sys.executable]))
    outside = ""
    if cfg.srun:
        outside = " ".join(["srun --overlap --nodes=1 --ntasks=1", *map(_word, cfg.srun), ""])
    own = "part=0/1 job=$SLURM_JOB_ID"
    if job.is_array:
        index = "$SLURM_ARRAY_TASK_ID"
        own = f"part={index}/{job.tasks} job=${{SLURM_ARRAY_JOB_ID}}_{index}"
    return [
        f"frozen={shlex.quote(str(job.frozen))}",
        f"failed={shlex.quote(str(job.failed))}",
        own,
        f'log={shlex.quote(str(job.folder / "logs" / job.file))}-"$job.log"',
        f"patience={max(cfg.grace_s - 15, cfg.grace_s // 2)}",
        f"python=({python})",
        f"helper=({outside}{python})",
    ]


def _results(job: Job) -> str:
    """Write the sweep's results anew when a variant ends: with its last steps, or by a failure."""
    run_dir = job.folder.parent
    root = run_dir.parent.parent
    results = f"results name={shlex.quote(run_dir.name)} root={shlex.quote(str(root))}"
    when = "results" if job.last else "'[ \"$?\" -eq 0 ] || results'"
    function = f"""results() {{ "${{helper[@]}}" -m mlalign {results} >/dev/null; }}"""
    return f"{function}\ntrap {when} EXIT"


# A backslash at the end of a line joins it with the next one in Python, not in the script.
SEES = """\
if ! [ -r "$frozen" ]; then
  echo "error: node $(hostname) does not see $frozen: root= must lie on a disk\
 that the nodes share" >&2
  exit 78
fi"""

BEGIN = f"""\
end() {{ "${{helper[@]}}" -m mlalign.running.slurm.ended "$frozen" "$1" --part "$part" --job "$job"\
 --log "$log"; exit; }}

grep -qs "job $job on " "$failed" && rm -f -- "$failed"
"${{helper[@]}}" -m mlalign.step --begin "$frozen" --part "$part"
status=$?
[ "$status" -eq {NOTHING_TO_DO} ] && exit 0
[ "$status" -eq 0 ] || end "$status"
[ -z "$asked" ] || ask
"""

# A step that has not saved its state in time is ended, so that the job can go back to the queue
# before Slurm ends it.
WAIT = """\
child=$!
while wait "$child"; kill -0 "$child" 2>/dev/null; do
  [ -n "$timer" ] || { (sleep "$patience"; kill "$child") & timer=$!; }
done
wait "$child"
status=$?
if [ -n "$timer" ] && ! kill "$timer" 2>/dev/null; then status=75; fi
[ "$status" -eq 0 ] || end "$status\""""

# The first node, by its name or, where names do not resolve, its address; and a free port there.
RENDEZVOUS = """\
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
getent hosts "$head" >/dev/null || head=$(srun --nodes=1 --ntasks=1 --nodelist="$head" printenv\
 SLURM_LAUNCH_NODE_IPADDR)
port=$("${helper[@]}" -c 'import socket; s = socket.socket(); s.bind(("", 0));\
 print(s.getsockname()[1])')
"""


def _n_nodes(job: Job) -> int:
    return (job.resources.get("nodes") or 1) if job.distributed else 1


def _command(job: Job, cfg: Slurm) -> str:
    """The command of the step under srun; with several ranks, that of torchrun on each node."""
    nodes = _n_nodes(job)
    devices = (job.resources.get("devices") or 1) if job.distributed else 1
    start = f"srun --nodes={nodes} --ntasks={nodes} --kill-on-bad-exit=1"
    srun = " ".join([start, *map(_word, cfg.srun)])
    step = '-m mlalign.step "$partial/config.yaml"'
    if nodes * devices == 1:
        return f'{srun} "${{python[@]}}" {step} --part "$part"'

    meeting = "--standalone"
    if nodes > 1:
        meeting = '--rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID" --rdzv_endpoint="$head:$port"'
    torchrun = f"-m torch.distributed.run --nnodes={nodes} --nproc_per_node={devices} {meeting}"
    return f'{srun} "${{python[@]}}" {torchrun} {step}'


def _word(text: str) -> str:
    """A word of shell in which variables (`$SCRATCH/models`) are the only thing with a meaning."""
    if "$" not in text:
        return shlex.quote(text)
    escaped = re.sub(r'(["\\`]|\$\()', r"\\\1", text)
    return f'"{escaped}"'


def _quoted(value: Any) -> str:
    """A value as sbatch reads it on an #SBATCH line.

    Raises: UserError for control characters, which no quoting there can carry.
    """
    text = str(value)
    if not text.isprintable():
        raise UserError(
            f"{text!r}: sbatch cannot take control characters; choose another root= or name="
        )
    if not re.search(r"[^\w@%+=:,./\[\]-]", text):
        return text
    escaped = re.sub(r'(["\\])', r"\\\1", text)
    return f'"{escaped}"'


def failed_file(folder: Path, step: str) -> Path:
    return folder / f"{file_name(step)}.failed.txt"


def one_line(text: str) -> str:
    """Control characters as `?`: what a person named must not add lines to a script."""
    return "".join(c if c.isprintable() else "?" for c in text)


def file_name(text: str, besides: str = "") -> str:
    """A name that is safe in paths, job names and Slurm's `%` patterns; different names stay so."""
    safe = re.sub(rf"[^\w.\-\[\],@+={besides}]", "_", text)
    if safe == text:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{safe}-{digest[:6]}"
