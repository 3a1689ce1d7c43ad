"""Operations of a forward pass and of training, for each token.

A forward pass takes 2 operations for each parameter that multiplies a token (Kaplan et al. 2020,
section 2.1), and 2 x 2 for each pair of a token and an earlier one in each head dimension; on
average half of the sequence is earlier. A backward pass takes twice as much, and half of that where
the weights are frozen. Gradient checkpointing repeats the forward pass.
"""

from mlalign.planner.architecture import Architecture


def forward(a: Architecture, length: int, task: str = "causal") -> float:
    """Operations for one token of a sequence of this length."""
    n_full = a.n_layers - a.n_sliding
    in_window = min(length, 2 * (a.window or length))
    pairs = (n_full * length + a.n_sliding * in_window) / 2
    return 2 * a.matmul_parameters(task) + 4 * a.q_size * pairs


def training(a: Architecture, length: int, task: str, *, lora: bool, checkpointing: bool) -> float:
    """Operations for one token of training."""
    passes = (2 if lora else 3) + checkpointing
    return forward(a, length, task) * passes


def duration_text(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 d`."""
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def size_text(n_bytes: float) -> str:
    """Bytes as `1.2 GiB` or `340 MiB`."""
    if n_bytes >= 2**30:
        return f"{n_bytes / 2**30:.1f} GiB"
    return f"{n_bytes / 2**20:.0f} MiB"
