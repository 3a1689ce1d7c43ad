"""Long tables of results: a row per metric and language, then the summaries over languages.

`COLUMNS` is the main table. The breakdown (`BREAKDOWN`) has two columns more: its rows are about
one `member` of one `part`, such as part `script`, member `Arab`. There `language` is a language, or
`avg` (the mean over the languages, each with the same weight).
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlalign.core import spreadsheets
from mlalign.methods.metrics import AVERAGE, COLUMNS, GAP, SUMMARIES, WORST
from mlalign.methods.metrics.bootstrap import Estimate, interval

BREAKDOWN = ("part", "member", *COLUMNS[:-1])


def summarise(
    metric: str,
    by: str,
    estimate: Estimate,
    anchor: str,
    confidence: float,
    *,
    higher_is_better: bool = True,
) -> list[dict]:
    """Rows of one metric: every language, then the summaries.

    `avg` is the mean over languages, each with the same weight. `worst` is the language of the
    lowest value (named in `which`) with its own interval. `gap_to_english` is the anchor minus the
    mean of the others. Languages where the metric is undefined (nan) have no row and count in none
    of them. Bounds are None where there is only one group. `higher_is_better=False` leaves out the
    worst language: it is for lengths, and for shares that are neither good nor bad.
    """
    known = _defined(estimate)
    if not known:
        return []
    rows = _languages(metric, by, estimate, confidence)
    summaries = [_average(metric, by, estimate, known, confidence, estimate.total_groups)]
    if higher_is_better:
        worst = min(known, key=lambda i: estimate.values[i])
        which = estimate.languages[worst]
        summaries.append({**rows[known.index(worst)], "language": WORST, "which": which})

    others = [i for i in known if estimate.languages[i] != anchor]
    if others and len(others) < len(known):
        at = estimate.languages.index(anchor)
        value = estimate.values[at] - estimate.values[others].mean()
        replicates = estimate.replicates[:, at] - _mean(estimate.replicates[:, others])
        n = sum(estimate.n[i] for i in known)
        n_groups = estimate.total_groups
        summaries.append(_row(metric, by, GAP, value, replicates, n, n_groups, confidence))
    return rows + summaries


def members(
    metric: str,
    by: str,
    estimate: Estimate,
    part: str,
    member_of: Callable[[str], str],
    confidence: float,
) -> list[dict[str, Any]]:
    """The averages over the languages of each member (a script, a resource tier).

    `n_groups` is that of the member's largest language.
    """
    places_of: dict[str, list[int]] = {}
    for i in _defined(estimate):
        places_of.setdefault(member_of(estimate.languages[i]), []).append(i)

    rows = []
    for name, places in sorted(places_of.items()):
        n_groups = max(estimate.n_groups[i] for i in places)
        average = _average(metric, by, estimate, places, confidence, n_groups)
        rows.append({"part": part, "member": name, **average})
    return rows


def member(
    metric: str,
    by: str,
    estimate: Estimate,
    part: str,
    name: str,
    confidence: float,
) -> list[dict[str, Any]]:
    """Languages and average of an estimate on the items of one member, such as an origin."""
    rows = _languages(metric, by, estimate, confidence)
    known = _defined(estimate)
    if known:
        rows.append(_average(metric, by, estimate, known, confidence, estimate.total_groups))
    return [{"part": part, "member": name, **row} for row in rows]


def _defined(estimate: Estimate) -> list[int]:
    """Places of the languages that have a value."""
    return [i for i, value in enumerate(estimate.values) if not math.isnan(value)]


def _languages(metric: str, by: str, estimate: Estimate, confidence: float) -> list[dict]:
    rows = []
    for i in _defined(estimate):
        row = _row(
            metric,
            by,
            estimate.languages[i],
            estimate.values[i],
            estimate.replicates[:, i],
            estimate.n[i],
            estimate.n_groups[i],
            confidence,
        )
        rows.append(row)
    return rows


def _average(
    metric: str,
    by: str,
    estimate: Estimate,
    places: Sequence[int],
    confidence: float,
    n_groups: int,
) -> dict:
    value = estimate.values[places].mean()
    replicates = _mean(estimate.replicates[:, places])
    n = sum(estimate.n[i] for i in places)
    return _row(metric, by, AVERAGE, value, replicates, n, n_groups, confidence)


def _row(
    metric: str,
    by: str,
    language: str,
    value: float,
    replicates: np.ndarray,
    n: int,
    n_groups: int,
    confidence: float,
) -> dict:
    low, high = interval(replicates, confidence, n_groups) or (None, None)
    return {
        "metric": metric,
        "by": by,
        "language": language,
        "value": _rounded(value),
        "low": _rounded(low),
        "high": _rounded(high),
        "n": n,
        "n_groups": n_groups,
        "which": "",
    }


def _mean(replicates: np.ndarray) -> np.ndarray:
    """Mean over the languages that a replicate drew, nan where it drew none. B x L -> B."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(replicates, axis=1)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def source_of(column: str) -> str:
    """The training language in a column's name, else the name.

    reward[swh_Latn]  ->  swh_Latn
    """
    match = re.search(r"\[(.+)\]$", column)
    return match[1] if match else column


def matrix(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """source x target of one metric.

    `values[i][j]`: the reward model of source i on target language j; None where it was not
    measured.
    """
    cells = {}
    for row in rows:
        if row["metric"] == metric and row["language"] not in SUMMARIES:
            cells[source_of(row["by"]), row["language"]] = row["value"]
    sources = sorted({source for source, _ in cells})
    targets = sorted({target for _, target in cells})
    values = []
    for source in sources:
        values.append([cells.get((source, target)) for target in targets])
    return {"metric": metric, "sources": sources, "targets": targets, "values": values}


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """CSV text with a header. None becomes an empty field; keys outside `columns` are left out."""
    return spreadsheets.to_csv(rows, columns)
