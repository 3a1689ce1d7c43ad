"""Several scores of one prompt's answers made into one: a weighted sum, with gates. Pure.

Everything here looks at the answers to one prompt only, so a combined score does not depend on what
else is in a shard.
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
        "who fails has no combined score (drop), or the score `floor` (floor)", "drop"
    )
    floor: float = _doc("combined score of who fails under policy: floor", -1e4)
    missing: Literal["pass", "fail"] = _doc(
        "what happens where the scorer gives no value (a language it does not know, say)", "pass"
    )

    def passes(self, value: float | None) -> bool:
        return self.missing == "pass" if value is None else value >= self.min


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
    fails decides; normalisation is over all n answers, before gates.
    """
    weighted = {
        name: z_scores(scores[name]) if how.normalise == "prompt" else list(scores[name])
        for name in how.weights
    }
    n, reduce = len(next(iter(weighted.values()))), REDUCE[how.combine]
    values = [
        _reduced([(w, weighted[name][i]) for name, w in how.weights.items()], reduce)
        for i in range(n)
    ]
    return [
        _gated(value, how.gates, [scores[g.scorer][i] for g in how.gates])
        for i, value in enumerate(values)
    ]


def z_scores(values: Sequence[float | None]) -> list[float | None]:
    """(x - mean) / population standard deviation over the known values; all 0 if they are equal;
    unknown stays None.
    """
    known = [v for v in values if v is not None]
    if not known:
        return list(values)
    mean, sd = statistics.fmean(known), statistics.pstdev(known)
    return [None if v is None else (v - mean) / sd if sd > 0 else 0.0 for v in values]


REDUCE: dict[str, Callable[[Iterable[float]], float]] = {"sum": sum, "minimum": min}


def _reduced(
    terms: Sequence[tuple[float, float | None]], reduce: Callable[[Iterable[float]], float]
) -> float | None:
    return (
        None
        if any(v is None for _, v in terms)
        else reduce(w * v for w, v in terms if v is not None)
    )


def _gated(
    value: float | None, gates: Sequence[Gate], seen: Sequence[float | None]
) -> float | None:
    for gate, score in zip(gates, seen, strict=True):
        if not gate.passes(score):
            return gate.floor if gate.policy == "floor" else None
    return value


def problems(how: Combination, known: Sequence[str], key: str) -> list[str]:
    """Names in a combination that are no scorer, as messages."""
    named = [(f"{key}.weights", n) for n in how.weights] + [
        (f"{key}.gates[{i}].scorer", g.scorer) for i, g in enumerate(how.gates)
    ]
    empty = [] if how.weights else [f"{key}.weights: empty; name at least one scorer"]
    return empty + [
        f"{where}: no scorer here is named {name!r}{nearest(name, known)}"
        for where, name in named
        if name not in known
    ]
