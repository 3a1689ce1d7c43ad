"""The family `ensemble`: the mean (median, smallest) of several scorers of one kind.

    family: ensemble
    scorers: [{family: classifier, name: a, path: rm_a}, {family: classifier, name: b, path: rm_b}]
    reduce: min    # the lower bound of Coste et al. 2024, worst-case optimisation

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


def acceptor(config: Settings) -> Callable[[Sequence[Item]], None]:
    """A function that raises a UserError for items that one of the members would refuse."""
    return parts.acceptor(config.scorers)


def prepare(config: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Open every member. Raises: UserError."""
    members = parts.open_all(config.scorers)

    def run(items: Sequence[Item]) -> Scores:
        scores_by_member = {name: scorer.score_items(items) for name, scorer in members.items()}
        compared = []
        for scores in scores_by_member.values():
            compared.append(_normalised(items, scores.values, config.normalise))

        values: parts.Values = []
        spreads: parts.Values = []
        for member_values in zip(*compared, strict=True):
            known = [value for value in member_values if value is not None]
            if len(known) < len(member_values):
                values.append(None)
                spreads.append(None)
                continue
            disagreement = statistics.pstdev(known)
            values.append(_reduced(known, disagreement, config))
            spreads.append(disagreement)

        incomplete = [spread is None for spread in spreads]
        return parts.with_parts(
            scores_by_member, values, {"incomplete": incomplete}, {"disagreement": spreads}
        )

    return Together(members.values(), run)


def _normalised(items: Sequence[Item], values: parts.Values, normalise: str) -> parts.Values:
    if normalise == "none":
        return values
    return parts.by_row(items, {"": values}, lambda row_values: z_scores(row_values[""]))


def _reduced(values: Sequence[float], disagreement: float, config: Settings) -> float:
    return float(REDUCE[config.reduce](values)) - config.penalty * disagreement
