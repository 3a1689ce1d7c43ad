"""The tables of a run: measures with intervals, breakdowns, and paired differences of policies."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlalign.core import languages
from mlalign.methods.metrics import accuracy, best_of_n, bootstrap, table, tiers, win_rate
from mlalign.methods.metrics.answers import Answers, Items, pairs
from mlalign.methods.metrics.bootstrap import Draws, Estimate, Observed
from mlalign.methods.metrics.measures import Columns, Measure

MAX_MEMBERS = 50  # of a part: a key of metadata with more values is an identifier
UNDEFINED = "not defined there: nothing to divide by, or (kappa) both always say the same"


@dataclasses.dataclass
class Tables:
    """The results of a run: the main table, the breakdown, and what could not be computed."""

    draws: Draws
    english: str
    confidence: float
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    breakdown: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    # Reason -> what could not be computed.
    missing: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def not_computed(self) -> list[str]:
        """What could not be computed, and why."""
        lines = []
        for reason, names in self.missing.items():
            lines.append(f"{', '.join(names)}: {reason}")
        return lines

    def miss(self, name: str, reason: str) -> None:
        """Note that something could not be computed."""
        self.missing.setdefault(reason, []).append(name)

    def add(self, items: Items, measure: Measure) -> None:
        """A measure of all items, and of each script and tier of languages.

        Some measures are also broken down by origin and by keys of metadata.
        """
        estimate = self._estimate(items, measure)
        if estimate is None:
            self.miss(measure.name, measure.needs)
            return
        languages_without = set(items.language) - set(estimate.languages)
        missing = sorted(filter(measure.applies, languages_without))
        if missing:
            self.miss(f"{measure.name} ({' '.join(missing)})", measure.needs)
        self.add_estimate(
            measure.name,
            measure.by,
            estimate,
            higher_is_better=measure.higher_is_better,
        )
        if measure.broken_down:
            parts = {"origin": items.origin, **items.parts}
            for part, members in parts.items():
                self._add_members(items, measure, part, members)

    def _add_members(
        self, items: Items, measure: Measure, part: str, members: Sequence[str]
    ) -> None:
        """A measure of the items of each member of a part; members: that of each item, or ""."""
        names = sorted({name for name in members if name})
        if len(names) > MAX_MEMBERS:
            self.miss(f"{measure.name} by {part}", f"more than {MAX_MEMBERS} values")
            return
        for name in names:
            among = np.array([member == name for member in members], bool)
            self.add_member(items, measure, part, name, among)

    def add_estimate(
        self, name: str, by: str, estimate: Estimate, *, higher_is_better: bool = True
    ) -> None:
        """Rows for each language of an estimate, and for its scripts and tiers."""
        undefined = []
        for language, value in zip(estimate.languages, estimate.values, strict=True):
            if np.isnan(value):
                undefined.append(language)
        if undefined:
            self.miss(f"{name} ({' '.join(undefined)})", UNDEFINED)
        self.rows += table.summarise(
            name, by, estimate, self.english, self.confidence, higher_is_better=higher_is_better
        )
        for part, member_of in (("script", languages.script), ("tier", tiers.tier)):
            self.breakdown += table.members(name, by, estimate, part, member_of, self.confidence)

    def add_member(
        self, items: Items, measure: Measure, part: str, name: str, among: np.ndarray
    ) -> None:
        """A measure of some items only (`among`: I, bool), in the breakdown."""
        columns = accuracy.kept(measure.columns, among)
        estimate = self._estimate(items, dataclasses.replace(measure, columns=columns))
        if estimate is not None:
            self.breakdown += table.member(
                measure.name, measure.by, estimate, part, name, self.confidence
            )

    def add_difference(
        self,
        ours: Items,
        measure: Measure,
        other: Measure,
        at: tuple[np.ndarray, np.ndarray],
        name: str,
    ) -> None:
        """Our measure minus another policy's, paired, as `MEASURE_over_NAME`.

        at: the indices of the items that both have, among ours and among the other's
        (`answers.pairs`).
        """
        difference_name = f"{measure.name}_over_{name}"
        i, j = at
        ours_there = measure.columns[i]
        others_there = other.columns[j]
        is_missing = np.isnan(np.concatenate([ours_there, others_there], axis=1))
        both = np.flatnonzero(~is_missing.any(axis=1))
        if not len(both):
            self.miss(difference_name, f"no item with values of both policies ({measure.needs})")
            return

        places = i[both]
        language = [ours.language[place] for place in places]
        group = [ours.group[place] for place in places]
        our_estimate = self._estimate_of(language, group, ours_there[both], measure)
        other_estimate = self._estimate_of(language, group, others_there[both], measure)
        self.add_estimate(
            difference_name,
            measure.by,
            bootstrap.difference(our_estimate, other_estimate),
            higher_is_better=measure.higher_is_better,
        )

    def _estimate(self, items: Items, measure: Measure) -> Estimate | None:
        is_missing = np.isnan(measure.columns).any(axis=1)
        if is_missing.all():
            return None
        return self._estimate_of(items.language, items.group, measure.columns, measure)

    def _estimate_of(
        self, language: Sequence[str], group: Sequence[str], columns: np.ndarray, measure: Measure
    ) -> Estimate:
        observed = Observed(language, group, columns)
        return bootstrap.estimate(observed, self.draws, measure.combine)


def add_best_of_k(tables: Tables, answers: Answers, by: Columns) -> None:
    """Oracle and selected accuracy for k = 1, 2, 4, …, n, as the part `k` of the breakdown.

    They are unbiased; items with fewer than k answers are left out.
    """
    right = answers.score(by.accuracy)
    selectors = {"oracle_accuracy": by.accuracy}
    if by.select:
        selectors["selected_accuracy"] = by.select
    everything = np.ones(len(answers.items), bool)
    for name, column in selectors.items():
        for k in best_of_n.sizes(right.shape[1]):
            values = best_of_n.selected(answers.score(column), right, k)
            measure = Measure(name, column, accuracy.mean_columns(values))
            tables.add_member(answers.items, measure, "k", str(k), everything)


def add_length_controlled(
    tables: Tables, ours: Answers, baseline: Answers, by: str, unit: str, name: str = "win_rate_lc"
) -> None:
    """The length-controlled win rate over the baseline."""
    i, j = pairs(ours.items, baseline.items)
    estimate = _length_controlled(tables.draws, (ours, i), (baseline, j), by, unit)
    needs = f"no pair of answers with values of {by!r} and lengths in {unit}"
    _add_wins(tables, name, by, estimate, needs)


def add_length_controlled_difference(
    tables: Tables, ours: Answers, control: Answers, baseline: Answers, by: str, unit: str
) -> None:
    """Our length-controlled win rate over the baseline minus the control's.

    Both are on the items that all three policies have.
    """
    i_ours, j_ours = pairs(ours.items, baseline.items)
    i_control, j_control = pairs(control.items, baseline.items)
    in_all, at_ours, at_control = np.intersect1d(j_ours, j_control, return_indices=True)
    of_baseline = (baseline, in_all)
    of_ours = (ours, i_ours[at_ours])
    of_control = (control, i_control[at_control])

    our_rate = _length_controlled(tables.draws, of_ours, of_baseline, by, unit)
    control_rate = _length_controlled(tables.draws, of_control, of_baseline, by, unit)
    difference = bootstrap.difference(our_rate, control_rate)
    needs = f"no item on which both policies have values of {by!r} and lengths in {unit}"
    _add_wins(tables, "win_rate_lc_over_control", by, difference, needs)


def _add_wins(tables: Tables, name: str, by: str, estimate: Estimate, needs: str) -> None:
    if estimate.languages:
        tables.add_estimate(name, by, estimate)
    else:
        tables.miss(name, needs)


def _length_controlled(
    draws: Draws,
    ours: tuple[Answers, np.ndarray],
    baseline: tuple[Answers, np.ndarray],
    by: str,
    unit: str,
) -> Estimate:
    """The length-controlled win rate of some of our answers over some of the baseline's."""
    our_answers, i = ours
    their_answers, j = baseline
    items = our_answers.items
    return win_rate.length_controlled_estimate(
        language=[items.language[k] for k in i],
        group=[items.group[k] for k in i],
        scores=(our_answers.score(by)[i], their_answers.score(by)[j]),
        lengths=(our_answers.lengths[unit][i], their_answers.lengths[unit][j]),
        draws=draws,
    )
