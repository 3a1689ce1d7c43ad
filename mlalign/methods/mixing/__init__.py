"""Mixing rules: how many training rows of each language to take; one pure function to a file.

    def cap(available: Mapping[str, int], *, rows: int) -> dict[str, int]
    def unimax(available: Mapping[str, int], *, total: int, …) -> dict[str, int]

A rule gets the number of rows that each language has, and returns how many to take of each. More
than there are means that rows are repeated. How rules are found, their options checked and their
code hashed: `mlalign.methods`. The option `total` is filled by the stage, from its `total_rows`;
a rule whose `total` has no default needs that setting, and one without `total` cannot have it.
"""

import inspect
from collections.abc import Callable, Mapping

from mlalign import methods
from mlalign.core.errors import UserError

Rule = Callable[..., dict[str, int]]
FILLED = ("total",)


def load(name: str, key: str = "mixing") -> Rule:
    """The rule called `name`, as `mlalign.methods.load` finds it.

    Raises: UserError, also for a function that does not take one positional parameter.
    """
    rule = methods.load(__name__, name, key)
    taken = methods.inputs(rule)
    if len(taken) != 1:
        parameters = ", ".join(taken) or "none"
        expected = "one positional parameter, `available`, and its options after `*`"
        raise UserError(f"{key}: {name} takes {parameters}; a mixing rule takes {expected}")
    return rule


def problems(rule: Rule, name: str, total: int | None) -> list[str]:
    """What does not fit between a rule and the setting `total_rows`."""
    parameter = inspect.signature(rule).parameters.get("total")
    if parameter is None and total is not None:
        return [f"total_rows: the mixing rule {name} takes no total; leave it out"]
    if parameter is not None and parameter.default is parameter.empty and total is None:
        return [f"total_rows: missing; the mixing rule {name} divides it among the languages"]
    return []


def shared(
    weights: Mapping[str, float],
    most: Mapping[str, int],
    total: int,
) -> dict[str, int]:
    """`total` rows shared by weight, but no more than `most` of a language.

    What a language lacks, the others share. The whole numbers sum to `total`, or to the sum of
    `most` where that is less.
    """
    total = min(total, sum(most.values()))
    full: dict[str, int] = {}
    while True:
        rest = total - sum(full.values())
        open_weights = {language: w for language, w in weights.items() if language not in full}
        whole = sum(open_weights.values())
        shares = {language: rest * w / whole for language, w in open_weights.items()}
        short = {name: most[name] for name, share in shares.items() if share >= most[name]}
        if not short:
            return dict(sorted((full | largest_remainder(shares, rest)).items()))
        full |= short


def largest_remainder(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that sum to `total`, within 1 of the shares; equal remainders go by name.

    {"a": 1.5, "b": 1.5, "c": 1.0}, 4  ->  {"a": 2, "b": 1, "c": 1}
    """
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
