"""Rows of a run -> distributions of scores, lengths and margins.

Reads the columns of numbers of candidates, scores and preference rows, shard by shard; no text.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlalign.core import rows
from mlalign.evidence.collect import Steps

BINS = 40
QUANTILES = (5, 25, 50, 75, 95)

Values = dict[str, list[float]]  # language -> values


def distributions(steps: Steps, evaluations: Sequence[Mapping]) -> list[dict[str, Any]]:
    """One entry per measured quantity, with the steps it was measured in, over common bins.

    Quantities: lengths and score columns of the evaluated answers, margins and scores of the pairs that were trained on.
    Columns of at most three distinct values (right or wrong) have no distribution worth drawing.
    """
    found: dict[str, dict[str, Values]] = {}
    for evaluation in evaluations:
        for answers in evaluation["answers"]:
            _add(found, evaluation["model"], _lengths(steps, answers))
        for scores in evaluation["scores"]:
            _add(found, evaluation["model"], _scores(steps, scores))
    for step in steps.values():
        if step.manifest["stage"] == "pairs" and step.done:
            _add(found, step.name, _pairs(steps, step.name, "margin", "margins of the pairs"))
            for side in ("chosen", "rejected"):
                _add(found, f"{step.name}: {side}", _pairs(steps, step.name, f"score_{side}", "scores of the pairs"))
    told = (summary(name, by_step) for name, by_step in found.items())
    return [d for d in told if d]


def _add(found: dict[str, dict[str, Values]], step: str, measured: Iterable[tuple[str, str, float | None]]) -> None:
    for name, language, value in measured:
        if value is not None and math.isfinite(value):
            found.setdefault(name, {}).setdefault(step, {}).setdefault(language, []).append(value)


def _lengths(steps: Steps, name: str) -> Iterator[tuple[str, str, float | None]]:
    import pyarrow.parquet as pq

    for shard in rows.shards(steps[name].path):  # a nested column alone, without the texts beside it
        for row in pq.ParquetFile(shard).read(["prompt_lang", "responses.list.element.n_tokens"]).to_pylist():
            yield from (("tokens per answer", row["prompt_lang"], r["n_tokens"]) for r in row["responses"] or [])


def _scores(steps: Steps, name: str) -> Iterator[tuple[str, str, float | None]]:
    for row in rows.read(steps[name].path):
        yield from ((f"score: {k.removeprefix('score.')}", row["prompt_lang"], v) for k, v in row.items() if k.startswith("score."))


def _pairs(steps: Steps, name: str, column: str, what: str) -> Iterator[tuple[str, str, float | None]]:
    for row in rows.read(steps[name].path, columns=["prompt_lang", column]):
        yield what, row["prompt_lang"], row[column]


def summary(name: str, by_step: Mapping[str, Values]) -> dict[str, Any] | None:
    """Histograms over common bins (the outermost hold the tails beyond the 0.5 and 99.5 percentiles) and quantiles by language."""
    every = np.concatenate([np.asarray(v, dtype=np.float64) for values in by_step.values() for v in values.values()])
    if len(np.unique(every)) <= 3:
        return None
    low, high = np.percentile(every, [0.5, 99.5])
    edges = np.linspace(low, high, BINS + 1) if high > low else np.linspace(every.min(), every.max(), BINS + 1)
    steps = []
    for step, values in by_step.items():
        all_ = np.concatenate([np.asarray(v, dtype=np.float64) for v in values.values()])
        counts, _ = np.histogram(np.clip(all_, edges[0], edges[-1]), edges)
        told = {lang: _quantiles(v) for lang, v in sorted(values.items())}
        steps.append({"step": step, "n": len(all_), "counts": counts.tolist(), "quantiles": _quantiles(all_), "by_language": told})
    return {"what": name, "edges": [float(f"{e:.5g}") for e in edges], "steps": steps}


def _quantiles(values: Any) -> list[float]:
    return [float(f"{q:.5g}") for q in np.percentile(values, QUANTILES)]
