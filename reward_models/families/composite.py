"""The family `composite`: one scorer made of several, by a weighted sum or minimum, with gates.

    family: composite
    scorers: [{family: classifier, path: my_rm}, {family: language_adherence}]
    weights: {classifier: 1.0}
    gates: [{scorer: language_adherence, min: 0.5}]

normalise    prompt: z-scores among the answers of one row; calibration: the card of each part that
             has a model puts it on one scale for all languages (see `calibration`), other parts
             stay as they are
combine      sum: sum_s weight_s * score_s; minimum: the smallest weight_s * score_s

Every part is reported: columns `PART` and `PART.COLUMN`, flags `PART.FLAG`. None and a flag where a
weighted part has no value (`incomplete`), and where a gate drops the answer (`gated`). Parts may be
composites or ensembles themselves.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from reward_models import settings
from reward_models.families import combine, parts
from reward_models.families.combine import Combination, Gate
from reward_models.families.together import Together
from reward_models.items import Item, Scores


@dataclasses.dataclass(frozen=True)
class Settings:
    scorers: list[dict]  # as for `open_scorer`; two of one family need a `name` each
    weights: dict[str, float]  # of the parts by name; a negative one punishes
    normalise: Literal["none", "prompt", "calibration"] = "none"
    combine: Literal["sum", "minimum"] = "sum"
    # {scorer, min, policy, floor, missing}, see `combine.Gate`
    gates: list[dict] = dataclasses.field(default_factory=list)

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        gates = values.get("gates", [])
        messages = settings.of_scorers(values["scorers"], f"{key}.scorers")
        for i, gate in enumerate(gates):
            messages += settings.problems(Gate, gate, f"{key}.gates[{i}]")
        for name, weight in values["weights"].items():
            if not _is_number(weight):
                messages.append(f"{key}.weights.{name}: expected a number, got {weight!r}")
        if messages:
            return messages

        names = [str(settings.name_of(spec)) for spec in values["scorers"]]
        combination = Combination(values["weights"], gates=[Gate(**gate) for gate in gates])
        return combine.problems(combination, names, key)


def acceptor(config: Settings) -> Callable[[Sequence[Item]], None]:
    """A function that raises a UserError for items that one of the parts would refuse."""
    return parts.acceptor(config.scorers)


def prepare(config: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Open every part. Raises: UserError."""
    calibrate = "location_scale" if config.normalise == "calibration" else None
    scorers = parts.open_all(config.scorers, calibrate)
    normalise: Literal["none", "prompt"] = "prompt" if config.normalise == "prompt" else "none"
    gates = [Gate(**gate) for gate in config.gates]
    combination = Combination(config.weights, normalise, gates, config.combine)

    def run(items: Sequence[Item]) -> Scores:
        scores_by_part = {name: scorer.score_items(items) for name, scorer in scorers.items()}
        part_values = {name: scores.values for name, scores in scores_by_part.items()}
        values = parts.by_row(
            items, part_values, lambda row_values: combine.combine(row_values, combination)
        )

        incomplete = []
        gated = []
        for i, value in enumerate(values):
            lacks_part = any(part_values[name][i] is None for name in config.weights)
            incomplete.append(lacks_part)
            gated.append(value is None and not lacks_part)
        flags = {"incomplete": incomplete, "gated": gated}
        return parts.with_parts(scores_by_part, values, flags, {})

    return Together(scorers.values(), run)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
