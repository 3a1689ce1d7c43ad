"""What a scorer's numbers say about one preference row. Pure.

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
# What a scorer prefers.
CHOSEN = 0
REJECTED = 1
TIE = 2


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
    def n_answers(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def preferred(self) -> int:
        best_chosen = max(self.chosen)
        best_rejected = max(self.rejected)
        if best_chosen == best_rejected:
            return TIE
        return CHOSEN if best_chosen > best_rejected else REJECTED

    @property
    def values(self) -> tuple[float, ...]:
        """In the order of MEASURES."""
        best_chosen = max(self.chosen)
        best_rejected = max(self.rejected)
        highest = max(best_chosen, best_rejected)
        n_right = self.chosen.count(highest)
        n_wrong = self.rejected.count(highest)
        accuracy = n_right / (n_right + n_wrong)
        return accuracy, float(best_chosen > best_rejected), best_chosen - best_rejected


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
    item, group_id = place(row, where)
    chosen_scores = _finite(chosen)
    rejected_scores = _finite(rejected)
    if len(chosen_scores) < len(chosen) or len(rejected_scores) < len(rejected):
        chosen_scores = ()
        rejected_scores = ()
    return Verdict(language, item, group_id, subset, section, chosen_scores, rejected_scores)


def _finite(scores: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(score for score in scores if score is not None and math.isfinite(score))
