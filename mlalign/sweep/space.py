"""The values that a search may propose: Hydra's grammar as Optuna's distributions, and back."""

from typing import Any

from mlalign.sweep.grid import Axis, Value

FIGURES = 4  # significant figures of a proposed number


def distribution(axis: Axis) -> Any:
    """A swept key as Optuna's distribution.

    It is an interval (`interval(…)`, `int(interval(…))`, `tag(log,interval(…))`), a range, or a
    choice.
    """
    from optuna import distributions

    if axis.is_interval:
        interval = axis.space.value()
        is_whole = isinstance(interval.start, int) and isinstance(interval.end, int)
        kind = distributions.IntDistribution if is_whole else distributions.FloatDistribution
        return kind(interval.start, interval.end, log="log" in interval.tags)
    shown = [value.shown for value in axis.values]
    if axis.space is not None and axis.space.is_range_sweep() and len(shown) > 1:
        step = shown[1] - shown[0]
        is_whole = isinstance(step, int)
        kind = distributions.IntDistribution if is_whole else distributions.FloatDistribution
        return kind(min(shown), max(shown), step=abs(step))
    return distributions.CategoricalDistribution([str(value) for value in shown])


def value(axis: Axis, proposed: Any) -> Value:
    """A proposal as a value of the key.

    Numbers inside an interval are rounded to what a person would type.
    """
    if isinstance(proposed, str):
        return next(v for v in axis.values if str(v.shown) == proposed)
    if isinstance(proposed, float) and axis.is_interval:
        interval = axis.space.value()
        rounded = float(f"{proposed:.{FIGURES}g}")
        return axis.value(min(max(rounded, interval.start), interval.end))
    return axis.value(proposed)


def ends(axis: Axis) -> list[Value]:
    """The first and the last value of a key."""
    if axis.is_interval:
        interval = axis.space.value()
        return [axis.value(interval.start), axis.value(interval.end)]
    return [axis.values[0], axis.values[-1]]
