"""What all benchmarks share: interleaved A/B pairs, the median ratio and its bootstrap interval."""

import random
import statistics
from collections.abc import Callable, Sequence


def interleaved(
    ours: Callable[[], float], peer: Callable[[], float], n: int, warm_up: bool = True
) -> tuple[list[float], list[float]]:
    """Measure both `n` times, in pairs, changing who goes first; each call returns what it
    measured.
    """
    if warm_up:
        ours(), peer()
    a, b = [], []
    for i in range(n):
        for mine in (True, False) if i % 2 == 0 else (False, True):
            (a if mine else b).append((ours if mine else peer)())
    return a, b


def ratio(
    ours: Sequence[float], peer: Sequence[float], n_bootstrap: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Median of the pairwise ratios ours/peer with its 95% percentile-bootstrap interval over
    pairs.
    """
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    draw = random.Random(seed)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(n_bootstrap)
    )
    return (
        statistics.median(ratios),
        medians[int(0.025 * n_bootstrap)],
        medians[int(0.975 * n_bootstrap) - 1],
    )


def told(name: str, ours: Sequence[float], peer: Sequence[float], unit: str) -> str:
    """`name: ours 1.23 s, peer 1.20 s, ratio 1.02 [1.00, 1.04] (5 pairs)`."""
    middle, low, high = ratio(ours, peer)
    return (
        f"{name}: ours {statistics.median(ours):.4g} {unit}, peer {statistics.median(peer):.4g}"
        f" {unit}, ratio {middle:.3f} [{low:.3f}, {high:.3f}] ({len(ours)} pairs)"
    )
