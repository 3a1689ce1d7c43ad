"""The explanation of a job that ended badly: one screen, with what most likely helps.

These are pure functions.
"""

import re
from collections.abc import Sequence

LOG_LINES = 14
WIDTH = 160

# The first pattern that is found in the state, the message or the end of the log says what most
# likely helps.
MENDS = (
    (
        (
            r"CUDA out of memory|OutOfMemoryError.*CUDA|HIP out of memory|No available memory for"
            r" the cache blocks"
        ),
        (
            "a GPU's memory is full: lower device_batch_size, device_batch_tokens or"
            " engine.args.gpu_memory_utilization, or take deepspeed=zero3"
        ),
    ),
    (
        (
            r"OUT_OF_MEMORY|oom.kill|Out Of Memory|MemoryError|not enough memory|[Cc]annot allocate"
            r" memory"
        ),
        "the node's memory that the job asked for is full: raise resources.memory of this step",
    ),
    (
        r"No space left on device|disk is full|[Qq]uota exceeded|quota is used up",
        "a disk is full: make room there, or name another root=",
    ),
    (
        r"TIMEOUT|DUE TO TIME LIMIT|made no progress",
        (
            "the time limit leaves no room for one unit of work and for saving: raise"
            " resources.time of this step, or launcher.grace_s, or lower checkpoint_every or the"
            " rows per shard"
        ),
    ),
    (
        r"LocalEntryNotFound|OfflineModeIsEnabled|offline mode|outgoing traffic has been disabled",
        (
            "a file of the hub is not in the local cache, and jobs run offline: `mlalign fetch`"
            " brings it, or set launcher.offline=false"
        ),
    ),
    (
        (
            r"NCCL|ProcessGroup|TCPStore|[Rr]endezvous|DistNetworkError|Connection"
            r" (refused|reset|timed out)"
        ),
        (
            "the processes could not talk to each other: see above which node failed first; name"
            " the network interface in launcher.environment (NCCL_SOCKET_IFNAME), or leave a faulty"
            " node out with resources.exclude"
        ),
    ),
    (
        r"does not see .*root=|\b0:53\b",
        "the node does not see the run's directory: root= must lie on a disk that the nodes share",
    ),
    (
        (
            r"ModuleNotFoundError|No module named|command not found|No such file or directory:"
            r" '\S*python|Exec format error"
        ),
        (
            "the job's environment lacks something: see launcher.preamble, launcher.python and"
            " launcher.prefix"
        ),
    ),
    (
        (
            r"no CUDA-capable device|CUDA driver|No CUDA GPUs|Torch not compiled with CUDA|Found no"
            r" NVIDIA driver"
        ),
        (
            "there is no GPU in the job: give resources.gpus and a partition that has GPUs, and"
            " check the preamble's CUDA module"
        ),
    ),
    (
        r"FileNotFoundError|[Nn]o such file or directory|there is no file",
        "a file is missing: see below; paths must exist on the nodes",
    ),
    (
        r"BadConstraints",
        (
            "no node has what this step asks for: see its resources (nodes, gpus, cpus, memory,"
            " constraint)"
        ),
    ),
    (
        r"NODE_FAIL|BOOT_FAIL",
        "a node went away: run the same command again; resources.exclude leaves a faulty node out",
    ),
    (
        r"CANCELLED|PREEMPTED|COMPLETING",
        (
            "it was ended from outside (scancel, or a preemption without a requeue): run the same"
            " command again"
        ),
    ),
    (
        r"status 13[79]|status -9|signal 9|Killed|:9\b",
        "it was killed: most often the node's memory was full; raise resources.memory of this step",
    ),
)


def mend(text: str) -> str | None:
    """What most likely helps against what a text says; None if nothing is known of it."""
    for pattern, advice in MENDS:
        if re.search(pattern, text):
            return advice
    return None


def explanation(
    head: str, message: str, log: str, lines: Sequence[str], waiting: Sequence[str]
) -> str:
    """One screen about a job that ended badly.

    It has what ended and how (`head`), what it said, what likely helps, the end of its log (the
    last of `lines`), and the steps that were `waiting` for it.
    """
    tail = [clean(line)[:WIDTH] for line in lines if line.strip()][-LOG_LINES:]
    parts = [head]
    parts += [f"it said: {clean(line)[: 3 * WIDTH]}" for line in message.splitlines()[:4]]
    likely = mend(f"{head} {message}") or mend("\n".join(tail))
    if likely:
        parts.append(f"likely: {likely}")
    if tail:
        parts += [f"the end of {log}:", *(f"  {line}" for line in tail)]
    else:
        parts.append(f"its log {log} is empty or was never written")
    if waiting:
        more = ", …" if len(waiting) > 12 else ""
        parts.append(f"cancelled with it: {', '.join(waiting[:12])}{more}")
    parts.append("finished steps and saved state are kept: mend it and run the same command again")
    return "\n".join(parts) + "\n"


def clean(text: str) -> str:
    """Text of a log without control characters, tabs as spaces."""
    plain = text.replace("\t", " ")
    return "".join(c if c.isprintable() else "?" for c in plain)
