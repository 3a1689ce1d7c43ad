"""Sums of verdicts in cells of language, section and subset, and the numbers made of them. Pure.

A row with an answer that has no score is in no mean; it is counted as `unscored`. Intervals: see
`statistics`. The groups of all languages are drawn together, so differences between languages have
intervals too.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from reward_models.evidence import statistics
from reward_models.evidence.verdicts import MEASURES, TIE, Verdict

# Summaries over languages, in place of a language.
AVERAGE = "avg"
WORST = "worst"
GAP = "gap_to_english"

Measured = tuple[float, np.ndarray]  # a number and its B replicates; nan where it is undefined


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to measure: the language to compare with, the weights of subsets, the bootstrap."""

    anchor: str = "eng_Latn"
    counts: str = "m_rewardbench"
    replicates: int = 1000
    confidence: float = 0.95
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Size:
    """How many rows a number is based on, and how many rows could not be used."""

    n: int
    n_groups: int
    ties: int = 0
    unscored: int = 0
    unlinked: int = 0  # rows without a counterpart in the anchor language


@dataclasses.dataclass(frozen=True)
class Record:
    """One number with its interval; None where it is undefined.

    An empty `language`, `section` or `subset` means all of them.
    """

    measure: str
    value: float | None
    low: float | None
    high: float | None
    size: Size
    language: str = ""
    section: str = ""
    subset: str = ""
    which: str = ""  # the language that is the worst


def record(measure: str, measured: Measured, plan: Plan, size: Size, **where: str) -> Record:
    """A number with its interval; a single group has none, since there is nothing to draw from."""
    value, replicates = measured
    low = high = None
    is_defined = not np.isnan(value) and not np.isnan(replicates).all()
    if is_defined and size.n_groups > 1:
        low, high = statistics.interval(replicates, plan.confidence)
    return Record(measure, _rounded(value), _rounded(low), _rounded(high), size, **where)


def _rounded(value: float | None) -> float | None:
    if value is None or np.isnan(value):
        return None
    return round(float(value), 6)


def average(each: Sequence[Measured]) -> Measured:
    """The mean with equal weights; a replicate averages only the numbers that it has."""
    mean_value = np.mean([value for value, _ in each])
    replicates = np.array([draws for _, draws in each])
    is_defined = ~np.isnan(replicates)
    totals = np.where(is_defined, replicates, 0).sum(0)
    counts = is_defined.sum(0)
    return float(mean_value), statistics.ratio(totals, counts)


def numbered(names: Sequence[str]) -> np.ndarray:
    """A number for each name, in the order of names."""
    number = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([number[name] for name in names], dtype=np.int64)


class Table:
    """The measures of all verdicts, added up from cells (language, section, subset)."""

    def __init__(self, verdicts: Sequence[Verdict], plan: Plan):
        self.plan = plan
        cell_of_row = [(v.language, v.section, v.subset) for v in verdicts]
        self.cells = sorted(set(cell_of_row))
        n_cells = len(self.cells)
        languages, sections, subsets = np.array(self.cells).T
        self._names = {"language": languages, "section": sections, "subset": subsets}

        number = {cell: i for i, cell in enumerate(self.cells)}
        cells = np.array([number[cell] for cell in cell_of_row])
        groups = numbered([v.group_id for v in verdicts])
        scored = np.array([v.scored for v in verdicts])
        ties = np.array([v.scored and v.preferred == TIE for v in verdicts])
        self._ties = np.bincount(cells[ties], minlength=n_cells)
        self._unscored = np.bincount(cells[~scored], minlength=n_cells)

        # (V + 1) x N, of scored rows: the last kind of value counts rows.
        rows = [(*v.values, 1.0) for v in verdicts if v.scored]
        values = np.array(rows).reshape(-1, len(MEASURES) + 1).T
        self._cell_of = cells[scored]
        self._groups = groups[scored]
        self._sums = statistics.sums(values, self._cell_of, n_cells)
        shape = (int(groups.max()) + 1, n_cells)
        self._replicates = statistics.resampled_sums(
            values, self._groups, self._cell_of, shape, plan.replicates, plan.seed
        )

    @property
    def languages(self) -> list[str]:
        return sorted({language for language, _, _ in self.cells})

    def mean(self, where: Mapping[str, str], measure: str) -> Measured:
        """The mean of a measure over the rows of a language, section, subset.

        nan if none of them has scores.
        """
        cells = self._cells(where)
        kind = MEASURES.index(measure)
        value = statistics.ratio(self._sums[kind, cells].sum(), self._sums[-1, cells].sum())
        totals = self._replicates[:, kind, cells].sum(1)
        counts = self._replicates[:, -1, cells].sum(1)
        return float(value), statistics.ratio(totals, counts)

    def size(self, where: Mapping[str, str]) -> Size:
        cells = self._cells(where)
        rows = cells[self._cell_of]
        n_groups = len(np.unique(self._groups[rows]))
        n_ties = int(self._ties[cells].sum())
        n_unscored = int(self._unscored[cells].sum())
        return Size(int(rows.sum()), n_groups, n_ties, n_unscored)

    def records(self, where: Mapping[str, str]) -> list[Record]:
        """All measures of the rows of a language, section, subset."""
        size = self.size(where)
        records = []
        for measure in MEASURES:
            measured = self.mean(where, measure)
            records.append(record(measure, measured, self.plan, size, **where))
        return records

    def _cells(self, where: Mapping[str, str]) -> np.ndarray:
        """Which cells match: a mask of K."""
        mask = np.full(len(self.cells), True)
        for name, value in where.items():
            mask &= self._names[name] == value
        return mask


def summaries(
    measure: str,
    each: Mapping[str, Measured],
    table: Table,
    averaged: Iterable[str],
) -> list[Record]:
    """Over languages: the average, the worst, and the anchor minus the mean of the others.

    The average has equal weights for the languages in `averaged`. Languages without a value are in
    none of the three.
    """
    known = {code: measured for code, measured in each.items() if not np.isnan(measured[0])}
    plan = table.plan
    size = table.size({})
    records = []

    in_average = [known[code] for code in averaged if code in known]
    if in_average:
        records.append(record(measure, average(in_average), plan, size, language=AVERAGE))

    if known:
        worst = min(known, key=lambda code: known[code][0])
        size_of_worst = table.size({"language": worst})
        where = {"language": WORST, "which": worst}
        records.append(record(measure, known[worst], plan, size_of_worst, **where))

    others = [measured for code, measured in known.items() if code != plan.anchor]
    if plan.anchor in known and others:
        value, draws = known[plan.anchor]
        mean_value, mean_draws = average(others)
        gap = (value - mean_value, draws - mean_draws)
        records.append(record(measure, gap, plan, size, language=GAP))
    return records
