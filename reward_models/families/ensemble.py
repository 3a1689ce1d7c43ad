"""The family `ensemble`: several scorers of one kind, whose mean (median, smallest) is the score
and whose spread is told.

    family: ensemble
    scorers: [{family: classifier, name: a, path: rm_a}, {family: classifier, name: b, path: rm_b}]
    reduce: min                       # the lower bound of Coste et al. 2024, worst-case optimisation

score = reduce(members) - penalty * disagreement, where disagreement is the population standard
deviation of the members' values: with `reduce: mean` a lower confidence bound (the paper's
uncertainty-weighted form takes the variance). `normalise: prompt` makes members of different scales
comparable first: z-scores among the answers of one row.

Columns: `disagreement`, `MEMBER`, `MEMBER.COLUMN`. None and the flag `incomplete` where a member
    has no value.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from reward_models import settings
from reward_models.families import parts
from reward_models.families.combine import z_scores
from reward_models.families.together import Together
from reward_models.items import Item, Scores

REDUCE: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    scorers: list[dict]  # as for `open_scorer`; each with a `name`
    reduce: Literal["mean", "median", "min"] = "mean"
    penalty: float = 0.0  # of disagreement
    normalise: Literal["none", "prompt"] = "none"

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        return settings.of_scorers(values["scorers"], f"{key}.scorers")


def acceptor(told: Settings) -> Callable[[Sequence[Item]], None]:
    """What raises a UserError for items that one of the parts would refuse."""
    return parts.acceptor(told.scorers)


def prepare(told: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Open every member. Raises: UserError."""
    members = parts.open_all(told.scorers)

    def run(items: Sequence[Item]) -> Scores:
        found = {name: scorer.score_items(items) for name, scorer in members.items()}
        compared = {
            name: _normalised(items, scores.values, told.normalise)
            for name, scores in found.items()
        }
        per_item = [_known([values[i] for values in compared.values()]) for i in range(len(items))]
        spread = [statistics.pstdev(known) if known else None for known in per_item]
        values = [
            _reduced(known, s, told) if known and s is not None else None
            for known, s in zip(per_item, spread, strict=True)
        ]
        return parts.told_by(
            found,
            values,
            {"incomplete": [not known for known in per_item]},
            {"disagreement": spread},
        )

    return Together(members.values(), run)


def _normalised(items: Sequence[Item], values: parts.Values, normalise: str) -> parts.Values:
    return (
        values
        if normalise == "none"
        else parts.by_row(items, {"": values}, lambda of_row: z_scores(of_row[""]))
    )


def _known(values: Sequence[float | None]) -> list[float]:
    """The members' values; none at all if one of them has none."""
    return [] if any(v is None for v in values) else [v for v in values if v is not None]


def _reduced(values: Sequence[float], spread: float, told: Settings) -> float:
    return float(REDUCE[told.reduce](values)) - told.penalty * spread
