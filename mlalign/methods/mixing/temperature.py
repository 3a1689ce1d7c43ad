"""`temperature`: in proportion to a power of the available rows (Conneau et al. 2020, sec. 3.1)."""

from collections.abc import Mapping

from mlalign.methods.mixing import shared


def temperature(
    available: Mapping[str, int],
    *,
    temperature: float = 1.0,
    total: int | None = None,
) -> dict[str, int]:
    """Rows to take of each language l, of which there are n_l, at temperature T; none is repeated.

        p_l = n_l^(1/T) / sum_k n_k^(1/T)

    T = 1 keeps the proportions, a larger T evens them out. Without `total`: the largest total that
    keeps the proportions exact. With it, a language with fewer rows than its share gives all that
    it has, and the others share the rest.

        {"a": 900, "b": 100}, T = 2, total = 80  ->  {"a": 60, "b": 20}
    """
    rows_of = {language: n for language, n in sorted(available.items()) if n > 0}
    weights = {language: n ** (1 / temperature) for language, n in rows_of.items()}
    if total is not None:
        return shared(weights, rows_of, total)
    per_weight = min((n / weights[language] for language, n in rows_of.items()), default=0.0)
    return {language: round(per_weight * weight) for language, weight in weights.items()}
