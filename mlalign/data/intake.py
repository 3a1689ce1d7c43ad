"""Which rows are taken: good, new and on one side of the split."""

import dataclasses

from mlalign.core.sources import Problems, Source
from mlalign.core.store import Tally
from mlalign.data import cleaning, splits

SIDES = (
    ("chosen", "rejected"),
    ("chosen_lang", "rejected_lang"),
    ("score_chosen", "score_rejected"),
)


@dataclasses.dataclass
class Intake:
    """Takes rows one by one; what it drops is counted in `tally`, what is wrong is in `problems`.

    `splits_said`: a source says the split of its rows, so a group could be on two sides.
    """

    kind: str
    dedup: bool
    max_chars: int | None
    eval_frac: float
    flip_frac: float
    seed: int
    splits_said: bool
    tally: Tally
    problems: Problems = dataclasses.field(default_factory=Problems)
    contents: cleaning.Seen = dataclasses.field(default_factory=cleaning.Seen)
    ids: cleaning.Seen = dataclasses.field(default_factory=cleaning.Seen)
    sides: cleaning.Seen = dataclasses.field(default_factory=cleaning.Seen)

    def accept(self, row: dict, source: Source, place: str) -> bool:
        """Whether a row is good and new. It gets its split here, and may be flipped."""
        language = row["prompt_lang"]
        keep_empty = self._keeps_empty_answers(source)
        reason = self._reason_to_drop(row, keep_empty)
        if reason is not None:
            self.tally.drop(reason, language)
            return False
        if keep_empty and not all(text.strip() for text in cleaning.answers(row, self.kind)):
            self.tally.add("empty_answers_kept", language)

        self._split(row, place)
        if self._flips(row):
            _flip(row)
            self.tally.add("flipped", language)
        self._check_id(row, place)
        return True

    def _keeps_empty_answers(self, source: Source) -> bool:
        if source.keep_empty_answers is not None:
            return source.keep_empty_answers
        return source.adapter == "hh_rlhf" and self.kind == "preference"

    def _reason_to_drop(self, row: dict, keep_empty: bool) -> str | None:
        reason = cleaning.problem(row, self.kind, self.max_chars, keep_empty_answers=keep_empty)
        if reason is not None or not self.dedup:
            return reason
        is_new = self.contents.add(cleaning.content_key(row, self.kind))
        return None if is_new else "duplicate"

    def _split(self, row: dict, place: str) -> None:
        if row["split"] is not None:
            self.splits_said = True
        if not row["split"]:
            row["split"] = splits.split_of(row["group_id"], self.seed, self.eval_frac)
        if self.splits_said:
            self._check_side(row, place)

    def _check_side(self, row: dict, place: str) -> None:
        """Note a group on two sides; a hash of the group alone cannot put it there."""
        group = row["group_id"]
        other = "train" if row["split"] == "eval" else "eval"
        self.sides.add(cleaning.key64(f"{row['split']}\x1f{group}"))
        if cleaning.key64(f"{other}\x1f{group}") in self.sides:
            self.problems.add(
                f"{place}: its group {group!r} is in train and in eval; a group belongs to one"
                " split: mend the split column, or name the sources apart (source: NAME)"
            )

    def _flips(self, row: dict) -> bool:
        if row["split"] != "train" or not self.flip_frac:
            return False
        return splits.fraction("flip", self.seed, row["id"]) < self.flip_frac

    def _check_id(self, row: dict, place: str) -> None:
        if not row.get("own_id") or self.ids.add(int(row["id"], 16)):
            return
        self.problems.add(
            f"{place}: an earlier row of source {row['source']!r} has the same id; name the sources"
            " apart (source: NAME), or mend the ids",
            once=(row["source"], "id"),
        )


def _flip(row: dict) -> None:
    """Swap the sides of a preference row in place: answers, their languages and scores.

    A margin stays, since it belongs to the label.
    """
    for chosen, rejected in SIDES:
        row[chosen], row[rejected] = row.get(rejected), row.get(chosen)
