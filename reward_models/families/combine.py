"""Combines several scores of one prompt's answers into one: a weighted sum, with gates. Pure.

Only the answers to one prompt are looked at, so a combined score does not depend on what else is in
a shard.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from mlalign.core.errors import nearest


def _doc(text: str, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"doc": text})


@dataclasses.dataclass
class Gate:
    """An answer passes if `scorer` gives it at least `min`."""

    scorer: str = _doc("name of a scorer of this step")
    min: float = _doc("lowest value that passes", 0.5)
    policy: Literal["drop", "floor"] = _doc(
        "an answer that fails has no combined score (drop), or the score `floor` (floor)", "drop"
    )
    floor: float = _doc("combined score of an answer that fails under policy: floor", -1e4)
    missing: Literal["pass", "fail"] = _doc(
        "what happens where the scorer gives no value (a language it does not know, say)", "pass"
    )

    def passes(self, value: float | None) -> bool:
        if value is None:
            return self.missing == "pass"
        return value >= self.min


@dataclasses.dataclass
class Combination:
    """Weights by scorer, how scores are made comparable before they are added, and gates."""

    weights: dict[str, float] = dataclasses.field(
        metadata={"doc": "weight of each scorer; a negative one punishes"}
    )
    normalise: Literal["none", "prompt"] = _doc(
        "prompt: z-scores among the answers to one prompt before adding", "none"
    )
    gates: list[Gate] = dataclasses.field(
        default_factory=list, metadata={"doc": "conditions that an answer must meet"}
    )
    combine: Literal["sum", "minimum"] = _doc(
        "sum of the weighted scores, or the smallest of them", "sum"
    )


def combine(scores: Mapping[str, Sequence[float | None]], how: Combination) -> list[float | None]:
    """One number for each of the n answers to one prompt; `scores` maps a scorer to its n values.

    `sum_s weight_s * score_s` (or the smallest `weight_s * score_s`), each `score_s` normalised as
    `how` says; None if a weighted score is missing or a gate drops the answer. The first gate that
    fails decides. Normalisation is over all n answers, before the gates.
    """
    compared: dict[str, Sequence[float | None]] = {}
    for name in how.weights:
        if how.normalise == "prompt":
            compared[name] = z_scores(scores[name])
        else:
            compared[name] = scores[name]

    n_answers = len(next(iter(compared.values())))
    combined: list[float | None] = []
    for i in range(n_answers):
        terms = [(weight, compared[name][i]) for name, weight in how.weights.items()]
        gate_values = [scores[gate.scorer][i] for gate in how.gates]
        value = _reduced(terms, REDUCE[how.combine])
        combined.append(_gated(value, how.gates, gate_values))
    return combined


def z_scores(values: Sequence[float | None]) -> list[float | None]:
    """(value - mean) / population standard deviation of the known values; all 0 if they are equal.

    `[1.0, 3.0, None]` gives `[-1.0, 1.0, None]`: an unknown value stays None.
    """
    known = [value for value in values if value is not None]
    if not known:
        return list(values)
    mean = statistics.fmean(known)
    deviation = statistics.pstdev(known)

    scaled: list[float | None] = []
    for value in values:
        if value is None:
            scaled.append(None)
        elif deviation > 0:
            scaled.append((value - mean) / deviation)
        else:
            scaled.append(0.0)
    return scaled


REDUCE: dict[str, Callable[[Iterable[float]], float]] = {"sum": sum, "minimum": min}


def _reduced(
    terms: Sequence[tuple[float, float | None]], reduce: Callable[[Iterable[float]], float]
) -> float | None:
    """`reduce` of weight * value over the terms; None if a value is missing."""
    products = [weight * value for weight, value in terms if value is not None]
    if len(products) < len(terms):
        return None
    return reduce(products)


def _gated(
    value: float | None, gates: Sequence[Gate], gate_values: Sequence[float | None]
) -> float | None:
    """The value, unless a gate fails; `gate_values` are the scores that the gates look at."""
    for gate, score in zip(gates, gate_values, strict=True):
        if not gate.passes(score):
            return gate.floor if gate.policy == "floor" else None
    return value


def problems(how: Combination, known: Sequence[str], key: str) -> list[str]:
    """Messages about names in a combination that are not among the `known` scorers."""
    messages = []
    if not how.weights:
        messages.append(f"{key}.weights: empty; name at least one scorer")

    named = [(f"{key}.weights", name) for name in how.weights]
    named += [(f"{key}.gates[{i}].scorer", gate.scorer) for i, gate in enumerate(how.gates)]
    for place, name in named:
        if name not in known:
            messages.append(f"{place}: no scorer here is named {name!r}{nearest(name, known)}")
    return messages
