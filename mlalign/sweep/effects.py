"""Differences between variants and the main effect of every swept key, with intervals.

Variants answer the same prompts, so their results rise and fall together: where the evaluated rows are at hand, all of them are drawn
again in one bootstrap over groups (`metrics.bootstrap`), and means over variants and differences between them are paired. Where they
are not (a metric that is no sum over items, rows that were cleaned away), a mean of variants gets the mean of their bounds, which is
right if they move together and too wide otherwise, and differences get no interval.

The main effect of a value is the mean over the variants that have it, minus the mean over all variants (Box, Hunter & Hunter 2005,
"Statistics for Experimenters", chapter 5). Intervals speak of the prompts, not of other seeds of training.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mlalign import stages
from mlalign.core import schema, stage, store
from mlalign.methods.metrics import AVERAGE

if TYPE_CHECKING:
    import numpy as np

    from mlalign.methods.metrics.answers import Items
    from mlalign.methods.metrics.measures import Measure
    from mlalign.sweep.results import Key, Outcome

N_BOOTSTRAP, SEED = 1000, 0


def compute(outcomes: Sequence["Outcome"], key: "Key", the_store: store.Store) -> dict[str, Any]:
    """The statistics of variants that all have the metric, best first.

    `paired`: whether the rows were at hand; `behind`: how far each variant is behind the first (`variant, value, low, high`);
    `effects`: for every key that varies its `levels` (`value, mean, low, high, effect, effect_low, effect_high, n`).
    """
    values = [o.rows[key][AVERAGE]["value"] for o in outcomes]
    replicates, n_groups, confidence = _replicates(outcomes, key, the_store)
    spread = _Spread(values, [o.rows[key][AVERAGE] for o in outcomes], replicates, n_groups, confidence)
    behind = [{"variant": o.label, **spread.of({i: 1.0, 0: -1.0} if i else {})} for i, o in enumerate(outcomes)]
    names = [k for k in outcomes[0].values if len({_level(o.values[k]) for o in outcomes}) > 1]
    effects = [{"key": k, "levels": _levels(k, outcomes, spread)} for k in names]
    return {"paired": replicates is not None, "behind": behind[1:], "effects": effects}


def _level(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _levels(key: str, outcomes: Sequence["Outcome"], spread: "_Spread") -> list[dict[str, Any]]:
    groups: dict[str, list[int]] = {}
    for i, o in enumerate(outcomes):
        groups.setdefault(_level(o.values[key]), []).append(i)
    out = []
    for places in groups.values():
        mean = {i: 1 / len(places) for i in places}
        rest = {i: mean.get(i, 0.0) - 1 / len(outcomes) for i in range(len(outcomes))}
        effect = {f"effect_{k}" if k != "value" else "effect": v for k, v in spread.of(rest).items()}
        told = spread.of(mean)
        value = outcomes[places[0]].values[key]
        out.append({"value": value, "mean": told["value"], "low": told["low"], "high": told["high"], **effect, "n": len(places)})
    numbers = all(isinstance(x["value"], int | float) for x in out)
    return sorted(out, key=lambda x: x["value"]) if numbers else sorted(out, key=lambda x: str(x["value"]))


class _Spread:
    """Weighted sums of the variants' results with their intervals."""

    def __init__(self, values: Sequence[float], rows: Sequence[Mapping], replicates: "np.ndarray | None", n_groups: int, confidence: float):
        self.values, self.rows, self.replicates, self.n_groups, self.confidence = values, rows, replicates, n_groups, confidence

    def of(self, weights: Mapping[int, float]) -> dict[str, float | None]:
        """`weights`: place of a variant -> its weight. Bounds are None where nothing can be said of them."""
        value = sum(w * self.values[i] for i, w in weights.items())
        low, high = self._bounds(weights)
        return {"value": round(value, 6), "low": low, "high": high}

    def _bounds(self, weights: Mapping[int, float]) -> tuple[float | None, float | None]:
        from mlalign.methods.metrics.bootstrap import interval

        if self.replicates is not None:
            drawn = sum(w * self.replicates[i] for i, w in weights.items())
            found = interval(drawn, self.confidence, self.n_groups) if weights else None  # type: ignore[arg-type]  # an array by then
            return (round(found[0], 6), round(found[1], 6)) if found else (None, None)
        bounds = [(self.rows[i]["low"], self.rows[i]["high"]) for i in weights]
        if not weights or min(weights.values()) < 0 or any(b is None for pair in bounds for b in pair):
            return None, None
        low, high = (sum(w * pair[k] for w, pair in zip(weights.values(), bounds, strict=True)) for k in (0, 1))
        return round(low, 6), round(high, 6)


def _replicates(outcomes: Sequence["Outcome"], key: "Key", the_store: store.Store) -> tuple["np.ndarray | None", int, float]:
    """Bootstrap replicates of each variant's average over languages (V x B) on common draws, the number of groups, the confidence.

    No replicates if the rows of any variant are not at hand.
    """
    import numpy as np

    from mlalign.methods.metrics import bootstrap

    read = [_by_item(the_store.root / o.evaluations[key], the_store, key) for o in outcomes]
    confidence = next((c for _, c in read if c), 0.95)
    found = [r for r, _ in read if r is not None]
    if len(found) < len(outcomes):
        return None, 0, confidence
    draws = bootstrap.draw((g for items, _ in found for g in items.group), N_BOOTSTRAP, SEED)
    estimates = [bootstrap.estimate(bootstrap.Observed(i.language, i.group, m.columns), draws, m.combine) for i, m in found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a replicate that drew nothing stays nan
        means = np.stack([np.nanmean(e.replicates, axis=1) for e in estimates])
    return means, min(e.total_groups for e in estimates), confidence


def _by_item(path: Path, the_store: store.Store, key: "Key") -> tuple["tuple[Items, Measure] | None", float | None]:
    """What every item of an evaluation adds to the metric, and the confidence it was made for; None where the rows are gone."""
    told = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    module = stages.load(told["stage"])
    confidence = told["config"].get("confidence")
    sources = [v for value in told["inputs"].values() for v in (value if isinstance(value, list) else [value]) if v]
    if told["stage"] != "evaluate" or not all((the_store.root / v.get("artifact", "") / "manifest.json").is_file() for v in sources):
        return None, confidence
    cfg = schema.build(module.Config, told["config"])
    return module.by_item(cfg, stage.Inputs(the_store, told["inputs"]), *key), confidence
