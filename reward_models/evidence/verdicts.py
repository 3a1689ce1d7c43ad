"""What a scorer's numbers say of one preference row. Pure.

With s the highest score of the chosen and r the highest of the rejected answers of a row:

    accuracy             1 if s > r, 0 if s < r; if both are equal, the chosen answers' share of
                         those that score highest (1/2 for a pair)
    accuracy_ties_wrong  1 if s > r, else 0: how the published code of RewardBench counts
    mean_margin          s - r, in the scorer's own unit
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from reward_models.evidence import rewardbench

UNKNOWN = "und"  # the language of rows that name none (ISO 639-2)
MEASURES = ("accuracy", "accuracy_ties_wrong", "mean_margin")
CHOSEN, REJECTED, TIE = range(3)  # what a scorer prefers


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The scores of one row's answers.

    `item` is the same for a row and its translations, `group_id` for all rows that depend on each
    other.
    """

    language: str
    item: str
    group_id: str
    subset: str
    section: str
    chosen: tuple[float, ...]  # empty, as `rejected`, where an answer has no score
    rejected: tuple[float, ...]

    @property
    def scored(self) -> bool:
        return bool(self.chosen)

    @property
    def preferred(self) -> int:
        best, other = max(self.chosen), max(self.rejected)
        if best == other:
            return TIE
        return CHOSEN if best > other else REJECTED

    @property
    def values(self) -> tuple[float, ...]:
        """In the order of MEASURES."""
        best, other = max(self.chosen), max(self.rejected)
        highest = max(best, other)
        n_right, n_wrong = self.chosen.count(highest), self.rejected.count(highest)
        accuracy = n_right / (n_right + n_wrong)
        return accuracy, float(best > other), best - other


def place(row: Mapping, where: str) -> tuple[str, str]:
    """(item, group_id) of a row.

    Both are its `group_id` if it has one, else its `id` within its subset, else its place. The ids
    `ref:7` and `tied:7` of RewardBench 2 are two items of one group.
    """
    if row.get("group_id") is not None:
        return str(row["group_id"]), str(row["group_id"])
    if row.get("id") is None:
        return where, where

    prefix = f"{row['subset']}:" if row.get("subset") else ""
    item = str(row["id"])
    kind, colon, number = item.partition(":")
    group = number if colon and kind in ("ref", "tied") else item
    return f"{prefix}{item}", f"{prefix}{group}"


def of_row(
    row: Mapping,
    where: str,
    chosen: Sequence[float | None],
    rejected: Sequence[float | None],
) -> Verdict:
    """The verdict on a row whose answers have these scores; None or non-finite is no score."""
    subset = str(row.get("subset") or "")
    section = str(row.get("section") or rewardbench.SECTION_OF.get(subset, ""))
    language = row.get("language") or UNKNOWN
    known = [[s for s in side if s is not None and math.isfinite(s)] for side in (chosen, rejected)]
    sides = [tuple(side) for side in known]
    if len(sides[0]) < len(chosen) or len(sides[1]) < len(rejected):
        sides = [(), ()]
    return Verdict(language, *place(row, where), subset, section, *sides)
