"""What a cluster takes: the size of an array, and how many jobs a person may have in the queue."""

import re

from mlalign.running.slurm import commands

# Slurm's words where a person, an account or the cluster has as many jobs as may be; each task of
# an array counts as one.
FULL = re.compile(r"SubmitJob\w*Limit|MaxJobCount|temporarily unable to accept job", re.IGNORECASE)


def array_size() -> int:
    """How many tasks an array may have; 1 where there are no arrays.

    Slurm's MaxArraySize is one more than the highest index.

    Raises: UserError if Slurm does not answer.
    """
    settings = commands.call("scontrol", "show", "config")
    sizes = [int(n) for n in re.findall(r"^MaxArraySize\s*=\s*(\d+)", settings, re.MULTILINE)]
    sizes += [int(n) for n in re.findall(r"max_array_tasks=(\d+)", settings)]
    return max(1, min(sizes, default=1001))


def is_full(words: str) -> bool:
    """Whether Slurm refuses a job because there are too many, not because of what it is."""
    return FULL.search(words) is not None
