"""The tables of a run: every measure with its intervals, breakdowns, and paired differences of
policies.
"""

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
    """The results of a run: the main table, the breakdown, and what could not be computed and why."""

    draws: Draws
    english: str
    confidence: float
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    breakdown: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    missing: dict[str, list[str]] = dataclasses.field(
        default_factory=dict
    )  # reason -> what could not be computed

    @property
    def not_computed(self) -> list[str]:
        """What could not be computed, and why."""
        return [f"{', '.join(names)}: {reason}" for reason, names in self.missing.items()]

    def miss(self, name: str, reason: str) -> None:
        self.missing.setdefault(reason, []).append(name)

    def add(self, items: Items, measure: Measure) -> None:
        """A measure of all items, by script and tier, and, for some, of each origin and each value
        of metadata.
        """
        estimate = self._estimate(items, measure)
        missing = sorted(
            lang
            for lang in set(items.language) - set(estimate.languages if estimate else ())
            if measure.applies(lang)
        )
        if estimate is None:
            self.miss(measure.name, measure.needs)
            return
        if missing:
            self.miss(f"{measure.name} ({' '.join(missing)})", measure.needs)
        self.add_estimate(
            measure.name, measure.by, estimate, higher_is_better=measure.higher_is_better
        )
        if measure.broken_down:
            for part, told in {"origin": items.origin, **items.parts}.items():
                self._add_members(items, measure, part, told)

    def _add_members(self, items: Items, measure: Measure, part: str, told: Sequence[str]) -> None:
        names = sorted({name for name in told if name})
        if len(names) > MAX_MEMBERS:
            self.miss(f"{measure.name} by {part}", f"more than {MAX_MEMBERS} values")
            return
        for name in names:
            self.add_member(items, measure, part, name, np.array([t == name for t in told], bool))

    def add_estimate(
        self, name: str, by: str, estimate: Estimate, *, higher_is_better: bool = True
    ) -> None:
        if undefined := [
            lang
            for lang, value in zip(estimate.languages, estimate.values, strict=True)
            if np.isnan(value)
        ]:
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
        estimate = self._estimate(
            items,
            dataclasses.replace(measure, columns=np.where(among[:, None], measure.columns, np.nan)),
        )
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
        """Our measure minus another policy's on the items that both have, paired; named
        `MEASURE_over_NAME`.

        at: the indices of these items among ours and among the other's (`answers.pairs`).
        """
        i, j = at
        mine, others = measure.columns[i], other.columns[j]
        both = np.flatnonzero(~(np.isnan(mine).any(1) | np.isnan(others).any(1)))
        if not len(both):
            self.miss(
                f"{measure.name}_over_{name}",
                f"no item with values of both policies ({measure.needs})",
            )
            return
        language, group = [ours.language[k] for k in i[both]], [ours.group[k] for k in i[both]]
        a, b = (
            bootstrap.estimate(Observed(language, group, c[both]), self.draws, measure.combine)
            for c in (mine, others)
        )
        found = bootstrap.difference(a, b)
        self.add_estimate(
            f"{measure.name}_over_{name}",
            measure.by,
            found,
            higher_is_better=measure.higher_is_better,
        )

    def _estimate(self, items: Items, measure: Measure) -> Estimate | None:
        if np.isnan(measure.columns).any(1).all():
            return None
        return bootstrap.estimate(
            Observed(items.language, items.group, measure.columns), self.draws, measure.combine
        )


def add_best_of_k(tables: Tables, answers: Answers, by: Columns) -> None:
    """Oracle and selected accuracy for k = 1, 2, 4, …, n in the breakdown (part `k`): unbiased,
    items with fewer answers left out.
    """
    right = answers.score(by.accuracy)
    selectors = {"oracle_accuracy": by.accuracy} | (
        {"selected_accuracy": by.select} if by.select else {}
    )
    everything = np.ones(len(answers.items), bool)
    for name, column in selectors.items():
        for k in best_of_n.sizes(right.shape[1]):
            values = best_of_n.selected(answers.score(column), right, k)
            tables.add_member(
                answers.items,
                Measure(name, column, accuracy.mean_columns(values)),
                "k",
                str(k),
                everything,
            )


def add_length_controlled(
    tables: Tables, ours: Answers, baseline: Answers, by: str, unit: str, name: str = "win_rate_lc"
) -> None:
    """The length-controlled win rate over the baseline."""
    i, j = pairs(ours.items, baseline.items)
    estimate = _length_controlled(tables.draws, (ours, i), (baseline, j), by, unit)
    _add_wins(
        tables,
        name,
        by,
        estimate,
        f"no pair of answers with values of {by!r} and lengths in {unit}",
    )


def add_length_controlled_difference(
    tables: Tables, ours: Answers, control: Answers, baseline: Answers, by: str, unit: str
) -> None:
    """Our length-controlled win rate over the baseline minus the control's, on the items of all
    three.
    """
    (i, j), (i_control, j_control) = (
        pairs(policy.items, baseline.items) for policy in (ours, control)
    )
    both, at, at_control = np.intersect1d(j, j_control, return_indices=True)
    sides = ((ours, i[at]), (control, i_control[at_control]))
    a, b = (_length_controlled(tables.draws, side, (baseline, both), by, unit) for side in sides)
    needs = f"no item on which both policies have values of {by!r} and lengths in {unit}"
    _add_wins(tables, "win_rate_lc_over_control", by, bootstrap.difference(a, b), needs)


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
    items, i = ours[0].items, ours[1]
    a, b = (answers.score(by)[k] for answers, k in (ours, baseline))
    length_a, length_b = (answers.lengths[unit][k] for answers, k in (ours, baseline))
    language, group = [items.language[k] for k in i], [items.group[k] for k in i]
    return win_rate.length_controlled_estimate(language, group, (a, b), (length_a, length_b), draws)
