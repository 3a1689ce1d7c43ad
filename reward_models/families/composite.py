"""The family `composite`: several scorers made into one, by a weighted sum or the smallest, with
gates.

    family: composite
    scorers: [{family: classifier, path: my_rm}, {family: language_adherence}]
    weights: {classifier: 1.0}
    gates: [{scorer: language_adherence, min: 0.5}]

normalise    prompt: z-scores among the answers of one row; calibration: every part that has a model is put on one scale for all
             languages by the card of its model (see `calibration`), the others stay as they are
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
    gates: list[dict] = dataclasses.field(
        default_factory=list
    )  # {scorer, min, policy, floor, missing}, see `combine.Gate`

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        gates = values.get("gates", [])
        found = settings.of_scorers(values["scorers"], f"{key}.scorers")
        found += [
            p
            for i, gate in enumerate(gates)
            for p in settings.problems(Gate, gate, f"{key}.gates[{i}]")
        ]
        found += [
            f"{key}.weights.{n}: expected a number, got {w!r}"
            for n, w in values["weights"].items()
            if not _is_number(w)
        ]
        if found:
            return found
        names = [str(settings.name_of(t)) for t in values["scorers"]]
        return combine.problems(
            Combination(values["weights"], gates=[Gate(**g) for g in gates]), names, key
        )


def acceptor(told: Settings) -> Callable[[Sequence[Item]], None]:
    """What raises a UserError for items that one of the parts would refuse."""
    return parts.acceptor(told.scorers)


def prepare(told: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Open every part. Raises: UserError."""
    scorers = parts.open_all(
        told.scorers, "location_scale" if told.normalise == "calibration" else None
    )
    how = Combination(
        told.weights,
        "prompt" if told.normalise == "prompt" else "none",
        [Gate(**gate) for gate in told.gates],
        told.combine,
    )

    def run(items: Sequence[Item]) -> Scores:
        found = {name: scorer.score_items(items) for name, scorer in scorers.items()}
        known = {name: scores.values for name, scores in found.items()}
        values = parts.by_row(items, known, lambda of_row: combine.combine(of_row, how))
        incomplete = [
            any(known[name][i] is None for name in told.weights) for i in range(len(items))
        ]
        gated = [value is None and not part for value, part in zip(values, incomplete, strict=True)]
        return parts.told_by(found, values, {"incomplete": incomplete, "gated": gated}, {})

    return Together(scorers.values(), run)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
