"""Time: operations by step over a rate that was measured, or that the scale states with its source.

A forward pass takes 2 operations for each parameter that multiplies a token (Kaplan et al. 2020, section 2.1), and 2 x 2 for each pair
of a token and one before it in each head dimension; on average half of the sequence comes before. A backward pass takes twice as much,
half of that where the weights are frozen; gradient checkpointing does the forward pass again.
"""

from mlalign.planner.architecture import Architecture


def forward(a: Architecture, length: int, task: str = "causal") -> float:
    """Operations for one token in a sequence of so many."""
    full, near = a.n_layers - a.n_sliding, min(length, 2 * (a.window or length))
    return 2 * a.matmul_parameters(task) + 4 * a.q_size * (full * length + a.n_sliding * near) / 2


def training(a: Architecture, length: int, task: str, *, lora: bool, checkpointing: bool) -> float:
    """Operations for one token of training."""
    return forward(a, length, task) * ((2 if lora else 3) + checkpointing)


def told(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 d`."""
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def size_told(n: float) -> str:
    """Bytes as `1.2 GiB` or `340 MiB`."""
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"
