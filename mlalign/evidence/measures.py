"""Distributions of scores, lengths and margins over the rows of a run.

Reads the numeric columns of candidates, scores and preference rows, shard by shard; no text.
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
Measured = Iterable[tuple[str, str, float | None]]  # (quantity, language, value)


def distributions(steps: Steps, evaluations: Sequence[Mapping]) -> list[dict[str, Any]]:
    """One entry per measured quantity, with the steps it was measured in, over common bins.

    Quantities: lengths and score columns of the evaluated answers, margins and scores of the
    training pairs. Columns of at most three distinct values (right or wrong) are left out.
    """
    by_quantity: dict[str, dict[str, Values]] = {}
    for evaluation in evaluations:
        for answers in evaluation["answers"]:
            _add(by_quantity, evaluation["model"], _lengths(steps, answers))
        for scores in evaluation["scores"]:
            _add(by_quantity, evaluation["model"], _scores(steps, scores))

    for step in steps.values():
        compares_scores = "score" in step.manifest
        if not compares_scores or not step.done:
            continue
        _add(by_quantity, step.name, _pairs(steps, step.name, "margin", "margins of the pairs"))
        for side in ("chosen", "rejected"):
            scores = _pairs(steps, step.name, f"score_{side}", "scores of the pairs")
            _add(by_quantity, f"{step.name}: {side}", scores)

    summaries = (summary(quantity, by_step) for quantity, by_step in by_quantity.items())
    return [entry for entry in summaries if entry]


def _add(by_quantity: dict[str, dict[str, Values]], step: str, measured: Measured) -> None:
    for quantity, language, value in measured:
        if value is None or not math.isfinite(value):
            continue
        values = by_quantity.setdefault(quantity, {}).setdefault(step, {})
        values.setdefault(language, []).append(value)


def _lengths(steps: Steps, name: str) -> Iterator[tuple[str, str, float | None]]:
    import pyarrow.parquet as pq

    # The nested column alone, without the texts beside it.
    columns = ["prompt_lang", "responses.list.element.n_tokens"]
    for shard in rows.shards(steps[name].path):
        for row in pq.ParquetFile(shard).read(columns).to_pylist():
            for response in row["responses"] or []:
                yield "tokens per answer", row["prompt_lang"], response["n_tokens"]


def _scores(steps: Steps, name: str) -> Iterator[tuple[str, str, float | None]]:
    for row in rows.read(steps[name].path):
        for column, value in row.items():
            if column.startswith("score."):
                yield f"score: {column.removeprefix('score.')}", row["prompt_lang"], value


def _pairs(
    steps: Steps,
    name: str,
    column: str,
    quantity: str,
) -> Iterator[tuple[str, str, float | None]]:
    for row in rows.read(steps[name].path, columns=["prompt_lang", column]):
        yield quantity, row["prompt_lang"], row[column]


def summary(quantity: str, by_step: Mapping[str, Values]) -> dict[str, Any] | None:
    """Histograms over common bins, and quantiles by language; None for three values or fewer.

    The outermost bins hold the tails beyond the 0.5 and 99.5 percentiles.
    """
    of_step = {step: _joined(values) for step, values in by_step.items()}
    everything = np.concatenate(list(of_step.values()))
    if len(np.unique(everything)) <= 3:
        return None

    edges = _edges(everything)
    steps = []
    for step, values in of_step.items():
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        by_language = {lang: _quantiles(v) for lang, v in sorted(by_step[step].items())}
        entry = {
            "step": step,
            "n": len(values),
            "counts": counts.tolist(),
            "quantiles": _quantiles(values),
            "by_language": by_language,
        }
        steps.append(entry)
    return {"what": quantity, "edges": [_five_digits(edge) for edge in edges], "steps": steps}


def _joined(values: Values) -> np.ndarray:
    return np.concatenate([np.asarray(v, dtype=np.float64) for v in values.values()])


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, [0.5, 99.5])
    if not high > low:
        low, high = values.min(), values.max()
    return np.linspace(low, high, BINS + 1)


def _quantiles(values: Any) -> list[float]:
    return [_five_digits(q) for q in np.percentile(values, QUANTILES)]


def _five_digits(value: float) -> float:
    return float(f"{value:.5g}")
