"""How many rows of each language to take: temperature mixing (Conneau et al. 2020, section 3.1: p_l ∝ n_l^α, α = 1/T)."""

from collections.abc import Mapping


def temperature_counts(available: Mapping[str, int], temperature: float = 1.0, total: int | None = None) -> dict[str, int]:
    """Rows to take of each language: p_l ∝ n_l^(1/T), nothing taken twice.

    T = 1 keeps the proportions, a larger T evens them out. Without `total`: the largest total that keeps the proportions
    exact. With it: a language with fewer rows than its share gives all it has, and the others share the rest.
    """
    available = {language: n for language, n in sorted(available.items()) if n > 0}
    weights = {language: n ** (1 / temperature) for language, n in available.items()}
    if total is None:
        per_weight = min((n / weights[language] for language, n in available.items()), default=0.0)
        return {language: round(per_weight * weight) for language, weight in weights.items()}
    return _share(available, weights, min(total, sum(available.values())))


def _share(available: Mapping[str, int], weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Largest-remainder rounding of `total` by weight, after giving languages that run short all they have."""
    full: dict[str, int] = {}
    while True:
        open_ = {language: w for language, w in weights.items() if language not in full}
        rest = total - sum(full.values())
        shares = {language: rest * w / sum(open_.values()) for language, w in open_.items()}
        short = {language: available[language] for language, share in shares.items() if share >= available[language]}
        if not short:
            return dict(sorted((full | largest_remainder(shares, rest)).items()))
        full |= short


def largest_remainder(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that sum to `total` and lie within 1 of the shares; equal remainders go by name."""
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
