"""Long tables of results: one row per metric and language, with the average, the worst language and the gap to English.

`COLUMNS` is the main table. The breakdown (`BREAKDOWN`) has the same columns and two more: rows of one `member` of one `part`, such as
part `script`, member `Arab`. There `language` is `avg` (the mean over the languages, each with the same weight) or a language.
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


def summarise(metric: str, by: str, estimate: Estimate, anchor: str, confidence: float, *, higher_is_better: bool = True) -> list[dict]:
    """Rows of one metric: every language, then

    `avg`: the mean over languages, each with the same weight; `worst`: the language of the lowest value (named in `which`) with its own
    interval; `gap_to_english`: the anchor minus the mean of the others. Languages where the metric is not defined (nan) have no row and
    count in none of them. Bounds are None where there is only one group. Lengths, and shares that are neither good nor bad, have no worst
    language: `higher_is_better=False` leaves it out.
    """
    out = _languages(metric, by, estimate, confidence)
    known = [i for i, value in enumerate(estimate.values) if not math.isnan(value)]
    if not known:
        return []
    out.append(_average(metric, by, estimate, known, confidence, estimate.total_groups))
    if higher_is_better:
        worst = min(known, key=lambda i: estimate.values[i])
        out.append({**out[known.index(worst)], "language": WORST, "which": estimate.languages[worst]})
    others = [i for i in known if estimate.languages[i] != anchor]
    if anchor in (estimate.languages[i] for i in known) and others:
        at = estimate.languages.index(anchor)
        gap = estimate.replicates[:, at] - _mean(estimate.replicates[:, others])
        value = estimate.values[at] - estimate.values[others].mean()
        out.append(_row(metric, by, GAP, value, gap, sum(estimate.n[i] for i in known), estimate.total_groups, confidence))
    return out


def members(
    metric: str, by: str, estimate: Estimate, part: str, member_of: Callable[[str], str], confidence: float
) -> list[dict[str, Any]]:
    """The averages over the languages of each member (a script, a resource tier). `n_groups` is that of its largest language."""
    known = [i for i, value in enumerate(estimate.values) if not math.isnan(value)]
    found: dict[str, list[int]] = {}
    for i in known:
        found.setdefault(member_of(estimate.languages[i]), []).append(i)
    groups = {member: max(estimate.n_groups[i] for i in places) for member, places in found.items()}
    rows = {m: _average(metric, by, estimate, places, confidence, groups[m]) for m, places in sorted(found.items())}
    return [{"part": part, "member": m, **row} for m, row in rows.items()]


def member(metric: str, by: str, estimate: Estimate, part: str, name: str, confidence: float) -> list[dict[str, Any]]:
    """Languages and average of an estimate on the items of one member (a kind of preference, an origin)."""
    known = [i for i, value in enumerate(estimate.values) if not math.isnan(value)]
    rows = _languages(metric, by, estimate, confidence)
    rows += [_average(metric, by, estimate, known, confidence, estimate.total_groups)] if known else []
    return [{"part": part, "member": name, **row} for row in rows]


def _languages(metric: str, by: str, estimate: Estimate, confidence: float) -> list[dict]:
    each = zip(estimate.languages, estimate.values, estimate.replicates.T, estimate.n, estimate.n_groups, strict=True)
    return [_row(metric, by, *values, confidence) for values in each if not math.isnan(values[1])]


def _average(metric: str, by: str, estimate: Estimate, places: Sequence[int], confidence: float, n_groups: int) -> dict:
    value, replicates, n = estimate.values[places].mean(), _mean(estimate.replicates[:, places]), sum(estimate.n[i] for i in places)
    return _row(metric, by, AVERAGE, value, replicates, n, n_groups, confidence)


def _row(metric: str, by: str, language: str, value: float, replicates: np.ndarray, n: int, n_groups: int, confidence: float) -> dict:
    low, high = interval(replicates, confidence, n_groups) or (None, None)
    numbers = {"value": _rounded(value), "low": _rounded(low), "high": _rounded(high), "n": n, "n_groups": n_groups}
    return {"metric": metric, "by": by, "language": language, **numbers, "which": ""}


def _mean(replicates: np.ndarray) -> np.ndarray:
    """Mean over the languages that a replicate drew (B x L -> B)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a replicate that drew none of them stays nan
        return np.nanmean(replicates, axis=1)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def source_of(column: str) -> str:
    """The training language in a column's name: `reward[swh_Latn]` -> `swh_Latn`; a name without one stays."""
    found = re.search(r"\[(.+)\]$", column)
    return found.group(1) if found else column


def matrix(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """source x target of one metric: `values[i][j]` is the reward model of source i on target language j (None: not measured)."""
    cells = {(source_of(r["by"]), r["language"]): r["value"] for r in rows if r["metric"] == metric and r["language"] not in SUMMARIES}
    sources, targets = sorted({s for s, _ in cells}), sorted({t for _, t in cells})
    return {"metric": metric, "sources": sources, "targets": targets, "values": [[cells.get((s, t)) for t in targets] for s in sources]}


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """CSV text with a header; None becomes an empty field, and what is no column is left out."""
    return spreadsheets.to_csv(rows, columns)
