"""What a search may propose for a key: Hydra's grammar as Optuna's distributions, and a proposal as a value that a person can type."""

from typing import Any

from mlalign.sweep.grid import Axis, Value

FIGURES = 4  # significant figures of a proposed number


def distribution(axis: Axis) -> Any:
    """A swept key as Optuna's distribution: `interval` (`int(interval(…))`, `tag(log,interval(…))`), `range`, or a choice."""
    from optuna import distributions

    told = axis.space.value() if axis.space is not None else None
    if told is not None and axis.space.is_interval_sweep():
        whole = isinstance(told.start, int) and isinstance(told.end, int)
        kind = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(told.start, told.end, log="log" in told.tags)
    numbers = [v.shown for v in axis.values]
    if told is not None and axis.space.is_range_sweep() and len(numbers) > 1:
        step = numbers[1] - numbers[0]
        kind = distributions.IntDistribution if isinstance(step, int) else distributions.FloatDistribution
        return kind(min(numbers), max(numbers), step=abs(step))
    return distributions.CategoricalDistribution([str(v.shown) for v in axis.values])


def value(axis: Axis, proposed: Any) -> Value:
    """What was proposed as a value of the key; numbers between the ends are rounded to what a person can type."""
    if isinstance(proposed, str):
        return next(v for v in axis.values if str(v.shown) == proposed)
    if isinstance(proposed, float) and axis.space.is_interval_sweep():
        told = axis.space.value()
        return axis.value(min(max(float(f"{proposed:.{FIGURES}g}"), told.start), told.end))
    return axis.value(proposed)


def ends(axis: Axis) -> list[Value]:
    if axis.space is not None and axis.space.is_interval_sweep():
        return [axis.value(axis.space.value().start), axis.value(axis.space.value().end)]
    return [axis.values[0], axis.values[-1]]
