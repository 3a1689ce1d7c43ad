"""What all benchmarks share: interleaved A/B pairs, the median ratio and its bootstrap interval."""

import random
import statistics
from collections.abc import Callable, Sequence


def interleaved(
    ours: Callable[[], float], peer: Callable[[], float], n: int, warm_up: bool = True
) -> tuple[list[float], list[float]]:
    """Measure both `n` times, in pairs; who goes first alternates."""
    if warm_up:
        ours()
        peer()
    of_ours = []
    of_peer = []
    for i in range(n):
        if i % 2 == 0:
            of_ours.append(ours())
            of_peer.append(peer())
        else:
            of_peer.append(peer())
            of_ours.append(ours())
    return of_ours, of_peer


def ratio(
    ours: Sequence[float], peer: Sequence[float], n_bootstrap: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(median, low, high) of the pairwise ratios ours/peer.

    The interval is the 95% percentile bootstrap over pairs.
    """
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    draw = random.Random(seed)
    samples = [draw.choices(ratios, k=len(ratios)) for _ in range(n_bootstrap)]
    medians = sorted(map(statistics.median, samples))
    low = medians[int(0.025 * n_bootstrap)]
    high = medians[int(0.975 * n_bootstrap) - 1]
    return statistics.median(ratios), low, high


def summary(name: str, ours: Sequence[float], peer: Sequence[float], unit: str) -> str:
    """`name: ours 1.23 s, peer 1.20 s, ratio 1.02 [1.00, 1.04] (5 pairs)`."""
    median, low, high = ratio(ours, peer)
    return (
        f"{name}: ours {statistics.median(ours):.4g} {unit}, peer {statistics.median(peer):.4g}"
        f" {unit}, ratio {median:.3f} [{low:.3f}, {high:.3f}] ({len(ours)} pairs)"
    )
