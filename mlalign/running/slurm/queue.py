"""What Slurm says of jobs: one `squeue` for all of them, and `sacct`, where accounting is on, for
those that it has forgotten.

Nothing is guessed: where Slurm has no commands here, or does not answer, the message of
`Slurm.problem` says so.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlalign.core.errors import UserError
from mlalign.running.slurm import commands

TIMEOUT_S = 20.0  # a person waits for the answer
# field of squeue -> its width; widths are fixed, since the text of a field may hold any separator
FIELDS = {
    "JobArrayID": 64,
    "ArrayTaskID": 32,
    "State": 20,
    "Reason": 128,
    "NodeList": 255,
    "TimeUsed": 24,
    "RestartCnt": 12,
    "exit_code": 12,
}
WAITING = frozenset(
    {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
RUNNING = frozenset(
    {
        "RUNNING",
        "CONFIGURING",
        "COMPLETING",
        "SUSPENDED",
        "STOPPED",
        "SIGNALING",
        "STAGE_OUT",
        "RESIZING",
    }
)

# Slurm's reason -> what it means to a person. A longer beginning stands before a shorter one.
HELD = "is held: scontrol release JOB lets it go"
REASONS = {
    "Priority": "other jobs come first",
    "Resources": "waits for nodes to become free",
    "DependencyNeverSatisfied": (
        "what it waits for has failed, so it can never start; mend that, then run the same command"
        " again"
    ),
    "Dependency": "waits for the steps before it",
    "BeginTime": "may not start before a set time (a requeued job waits up to two minutes)",
    "JobArrayTaskLimit": "as many tasks of the array run as may at a time",
    "JobHeldUser": HELD,
    "JobHeldAdmin": "is held by an administrator",
    "JobHoldMaxRequeue": f"was requeued too often and {HELD}",
    "job_requeued_in_held_state": f"was requeued but {HELD}",
    "launch_failed_requeued_held": f"a node failed to start it, and it {HELD}",
    "ReqNodeNotAvail": "nodes that it asks for are down, drained or reserved",
    "Nodes_required_for_job_are_DOWN": "nodes that it needs are down, drained or reserved",
    "PartitionTimeLimit": "asks for more time than its partition allows",
    "PartitionNodeLimit": "asks for more nodes than its partition allows",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs",
    "PartitionConfig": "asks for what its partition does not have",
    "Reservation": "waits for its reservation to begin",
    "Licenses": "waits for a licence",
    "BadConstraints": "no node fulfils its constraints",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "QOS": "a limit of its QOS",
    "Assoc": "a limit of its account",
    "MaxJobsPerAccount": "a limit of its account",
    "NodeDown": "its node is down",
    "Prolog": "its node is being prepared",
    "Cleaning": "its last start is still being cleaned up",
}
# Slurm's state of a job that has ended -> what it means to a person
ENDINGS = {
    "BOOT_FAIL": "its node did not boot",
    "CANCELLED": "was cancelled",
    "DEADLINE": "missed its deadline",
    "FAILED": "ended with an error",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "used more memory than it asked for",
    "PREEMPTED": "gave way to another job",
    "TIMEOUT": "used up its time limit",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """A job, or one task of an array, as Slurm describes it.

    `array` is the id that sbatch printed; `ending` is `exit status 7`, `signal 9` or empty.
    """

    id: str
    array: str
    task: str | None
    state: str
    reason: str
    nodes: str
    elapsed_s: float
    restarts: int
    ending: str

    @property
    def active(self) -> bool:
        return self.state in WAITING or self.state in RUNNING

    @property
    def why(self) -> str:
        """Why it waits, or how it ended: Slurm's word, and what that means."""
        if self.state in WAITING:
            return explained(self.reason)
        if self.state in RUNNING or self.state == "COMPLETED":
            return ""
        meaning = ENDINGS.get(self.state, self.state.lower())
        return f"{meaning} ({self.ending})" if self.ending else meaning


@dataclasses.dataclass(frozen=True)
class Slurm:
    """Slurm's answer: the jobs that it knows, and what kept it from answering (None if it did)."""

    jobs: Sequence[Job]
    problem: str | None = None

    def of(self, recorded: Iterable[Mapping[str, Any]]) -> list[Job]:
        """All tasks of these jobs, without those in whose place a further job goes on."""
        recorded = list(recorded)
        ids = {str(job["job"]) for job in recorded}
        replaced = {str(job["continues"]) for job in recorded}
        return [job for job in self.jobs if job.array in ids and job.id not in replaced]


def ask(ids: Iterable[str], forgotten: Iterable[str] | None = None) -> Slurm:
    """What Slurm knows of these jobs.

    `forgotten` are those worth asking the accounting for (all, by default).
    """
    ids = sorted(set(ids), key=int)
    if not ids:
        return Slurm([])
    try:
        jobs = squeue(ids, TIMEOUT_S)
    except UserError as error:
        return Slurm([], str(error))
    known = {job.array for job in jobs}
    worth_asking = set(ids) if forgotten is None else set(forgotten)
    lost = sorted(worth_asking - known, key=int)
    if lost:
        jobs += _sacct(lost)
    return Slurm(jobs)


def explained(reason: str) -> str:
    """`Priority: other jobs come first`; a reason that is not known stays as it is."""
    plain = reason.replace(" ", "_")
    for beginning, meaning in REASONS.items():
        if plain.startswith(beginning):
            return f"{reason}: {meaning}"
    return "" if reason == "None" else reason


def squeue(ids: Sequence[str], timeout_s: float) -> list[Job]:
    """The tasks of these jobs, of those that Slurm's controller still knows.

    Raises: UserError if it does not answer.
    """
    layout = ",".join(f"{name}:{width}" for name, width in FIELDS.items())
    options = ["--noheader", "--array", "--states=all"]
    options += [f"--jobs={','.join(ids)}", f"--Format={layout}"]
    try:
        printed = commands.call("squeue", *options, timeout_s=timeout_s)
    except commands.Refused as refused:
        if "Invalid job id" in refused.words:  # the only job asked for is forgotten
            return []
        raise commands.Silent(f"Slurm does not answer: {refused.words}") from None
    return [_job(line) for line in printed.splitlines() if line.strip()]


def _job(line: str) -> Job:
    fields = {}
    begin = 0
    for name, width in FIELDS.items():
        fields[name] = line[begin : begin + width].strip()
        begin += width
    array, _, task = fields["JobArrayID"].partition("_")
    status, signal = divmod(int(fields["exit_code"] or 0), 256)
    return Job(
        id=fields["JobArrayID"],
        array=array,
        task=task or None,
        state=fields["State"],
        reason=fields["Reason"],
        nodes=fields["NodeList"],
        elapsed_s=_seconds(fields["TimeUsed"]),
        restarts=int(fields["RestartCnt"] or 0),
        ending=_ending(status, signal),
    )


def _sacct(ids: Sequence[str]) -> list[Job]:
    """Jobs from the accounting; none where there is no accounting."""
    options = ["--noheader", "--parsable2", "--allocations", f"--jobs={','.join(ids)}"]
    options.append("--format=JobID,State,NodeList,ElapsedRaw,ExitCode,Reason")
    try:
        printed = commands.call("sacct", *options, timeout_s=TIMEOUT_S)
    except UserError:
        return []
    return [_accounted(line) for line in printed.splitlines()]


def _accounted(line: str) -> Job:
    job_id, state, nodes, elapsed, code, reason = line.split("|", 5)
    array, _, task = job_id.partition("_")
    status, signal = map(int, code.split(":"))
    return Job(
        id=job_id,
        array=array,
        task=task or None,
        state=state.split()[0],
        reason=reason,
        nodes=nodes.replace("None assigned", ""),
        elapsed_s=float(elapsed or 0),
        restarts=0,
        ending=_ending(status, signal),
    )


def _ending(status: int, signal: int) -> str:
    """What a job's shell ended with: its exit status, or the number of a signal."""
    if signal:
        return f"signal {signal & 127}"
    return f"exit status {status}" if status else ""


def _seconds(clock: str) -> float:
    """Seconds of Slurm's `1-02:03:04`, `2:03`; 0 for what is no time."""
    days, _, rest = clock.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
    except ValueError:
        return 0.0
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + part
    return float(seconds + int(days or 0) * 86400)
