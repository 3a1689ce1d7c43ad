"""Differences between variants and the main effect of every swept key, with intervals.

Variants answer the same prompts, so their results rise and fall together. Where the evaluated rows
exist, one bootstrap over groups (`metrics.bootstrap`) draws all of them, so that means over
variants and differences between them are paired. Where they do not (a metric that is no sum over
items, rows that were cleaned away), a mean of variants gets the mean of their bounds, which is
right if they move together and too wide otherwise; differences get no interval.

The main effect of a value is the mean over the variants that have it, minus the mean over all
variants (Box, Hunter & Hunter 2005, "Statistics for Experimenters", chapter 5). Intervals are about
other prompts, not about other seeds of training.
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

    `paired`: whether the rows exist; `behind`: how far each variant is behind the first (`variant,
    value, low, high`); `effects`: for every key that varies its `levels` (`value, mean, low, high,
    effect, effect_low, effect_high, n`).
    """
    replicates, n_groups, confidence = _replicates(outcomes, key, the_store)
    rows = [outcome.rows[key][AVERAGE] for outcome in outcomes]
    spread = _Spread(rows, replicates, n_groups, confidence)

    behind = []
    for i, outcome in enumerate(outcomes[1:], 1):
        behind.append({"variant": outcome.label, **spread.of({i: 1.0, 0: -1.0})})
    effects = []
    for name in outcomes[0].values:
        levels = _levels(name, outcomes, spread)
        if len(levels) > 1:
            effects.append({"key": name, "levels": levels})
    return {"paired": replicates is not None, "behind": behind, "effects": effects}


def _level(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _levels(key: str, outcomes: Sequence["Outcome"], spread: "_Spread") -> list[dict[str, Any]]:
    places_of: dict[str, list[int]] = {}
    for i, outcome in enumerate(outcomes):
        places_of.setdefault(_level(outcome.values[key]), []).append(i)

    levels = []
    for places in places_of.values():
        weights = {i: 1 / len(places) for i in places}
        contrast = {i: weights.get(i, 0.0) - 1 / len(outcomes) for i in range(len(outcomes))}
        mean, effect = spread.of(weights), spread.of(contrast)
        levels.append(
            {
                "value": outcomes[places[0]].values[key],
                "mean": mean["value"],
                "low": mean["low"],
                "high": mean["high"],
                "effect": effect["value"],
                "effect_low": effect["low"],
                "effect_high": effect["high"],
                "n": len(places),
            }
        )
    are_numbers = all(isinstance(level["value"], int | float) for level in levels)
    return sorted(levels, key=lambda level: level["value"] if are_numbers else str(level["value"]))


class _Spread:
    """Weighted sums of the variants' results with their intervals."""

    def __init__(
        self,
        rows: Sequence[Mapping],
        replicates: "np.ndarray | None",
        n_groups: int,
        confidence: float,
    ):
        self.rows = rows
        self.replicates = replicates
        self.n_groups = n_groups
        self.confidence = confidence

    def of(self, weights: Mapping[int, float]) -> dict[str, float | None]:
        """`weights`: place of a variant -> its weight. Bounds are None where they are not known."""
        value = sum(weight * self.rows[i]["value"] for i, weight in weights.items())
        bounds = self._bounds(weights)
        if bounds is None:
            return {"value": round(value, 6), "low": None, "high": None}
        return {"value": round(value, 6), "low": round(bounds[0], 6), "high": round(bounds[1], 6)}

    def _bounds(self, weights: Mapping[int, float]) -> tuple[float, float] | None:
        from mlalign.methods.metrics.bootstrap import interval

        if self.replicates is not None:
            drawn = sum(weight * self.replicates[i] for i, weight in weights.items())
            return interval(drawn, self.confidence, self.n_groups)  # type: ignore[arg-type]
        if min(weights.values()) < 0:
            return None
        low = high = 0.0
        for i, weight in weights.items():
            row = self.rows[i]
            if row["low"] is None or row["high"] is None:
                return None
            low += weight * row["low"]
            high += weight * row["high"]
        return low, high


def _replicates(
    outcomes: Sequence["Outcome"],
    key: "Key",
    the_store: store.Store,
) -> tuple["np.ndarray | None", int, float]:
    """Bootstrap replicates of each variant's average over languages (V x B) on common draws.

    With them come the number of groups and the confidence. None if any variant's rows are missing.
    """
    import numpy as np

    from mlalign.methods.metrics import bootstrap

    read = [_by_item(the_store.root / o.evaluations[key], the_store, key) for o in outcomes]
    confidence = next((given for _, given in read if given), 0.95)
    measured = [measure for measure, _ in read if measure is not None]
    if len(measured) < len(outcomes):
        return None, 0, confidence

    groups = [group for items, _ in measured for group in items.group]
    draws = bootstrap.draw(groups, N_BOOTSTRAP, SEED)
    estimates = []
    for items, measure in measured:
        observed = bootstrap.Observed(items.language, items.group, measure.columns)
        estimates.append(bootstrap.estimate(observed, draws, measure.combine))
    with warnings.catch_warnings():
        # A replicate that drew nothing stays nan.
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.stack([np.nanmean(e.replicates, axis=1) for e in estimates])
    return means, min(e.total_groups for e in estimates), confidence


def _by_item(
    path: Path,
    the_store: store.Store,
    key: "Key",
) -> tuple["tuple[Items, Measure] | None", float | None]:
    """What every item of an evaluation adds to the metric, and the evaluation's confidence.

    None instead of the items where their rows are gone.
    """
    frozen_step = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    confidence = frozen_step["config"].get("confidence")
    module = stages.load(frozen_step["stage"])
    if not hasattr(module, "by_item") or not _have_inputs(frozen_step["inputs"], the_store):
        return None, confidence
    cfg = schema.build(module.Config, frozen_step["config"])
    return module.by_item(cfg, stage.Inputs(the_store, frozen_step["inputs"]), *key), confidence


def _have_inputs(inputs: Mapping[str, Any], the_store: store.Store) -> bool:
    """Whether the artifacts of all inputs are in the store."""
    for value in inputs.values():
        for source in value if isinstance(value, list) else [value]:
            manifest = the_store.root / (source or {}).get("artifact", "") / "manifest.json"
            if source and not manifest.is_file():
                return False
    return True
