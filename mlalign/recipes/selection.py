"""What a person calls steps on the command line: `only=`, `from=`, `force=` and `use.STEP=PATH`."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlalign.core.errors import nearest
from mlalign.core.model import with_models
from mlalign.recipes.command_line import STEP_LISTS
from mlalign.recipes.graph import Ref, Step, without
from mlalign.recipes.settings import Settings


def names_of(step: Step) -> set[str]:
    """What a person may call a step: `reward.r1[eng_Latn]`, `reward.r1` or `reward`."""
    return {step.name, step.name.partition("[")[0], step.template}


def groups_of(step: Step) -> set[str]:
    """The names that stand for this step, alone or with others: its own, and those of its parts."""
    words = step.template.split(".")
    parts = {".".join(words[:n]) for n in range(1, len(words))}
    return names_of(step) | parts


def check(settings: Settings, steps: Sequence[Step], errors: list[str]) -> None:
    """Report names on the command line that no step has."""
    if not steps:
        return  # the recipe's own mistakes come first
    groups: set[str] = set()
    names: set[str] = set()
    for step in steps:
        groups |= groups_of(step)
        names |= names_of(step)

    for control in STEP_LISTS:
        for name in settings.controls.get(control, []):
            if name not in groups:
                errors.append(f"{control}: the recipe has no step {name!r}{nearest(name, groups)}")
    for name in settings.use:
        if name not in names:
            errors.append(f"use.{name}: the recipe has no such step{nearest(name, names)}")


def stand_in(steps: list[Step], use: Mapping[str, str]) -> list[Step]:
    """The steps with external paths in the place of some (`use.STEP=PATH`).

    Steps that only those needed are left out.
    """
    if not use:
        return steps
    paths = _paths(steps, use)
    ends = _ends(steps)
    for step in steps:
        for slot, value in step.inputs.items():
            if isinstance(value, list):
                step.inputs[slot] = [_replaced(item, paths) for item in value]
            else:
                step.inputs[slot] = _replaced(value, paths)
        step.guards = [guard for guard in step.guards if guard not in paths]

    remaining = [step for step in steps if step.name not in paths]
    kept = _upstream(remaining, ends - set(paths))
    names = {step.name for step in kept}
    for step in kept:  # a report on all steps is one on those that run
        step.inputs = {slot: without(value, names) for slot, value in step.inputs.items()}
    return kept


def _paths(steps: Sequence[Step], use: Mapping[str, str]) -> dict[str, str]:
    """Step -> the path that stands in for it; its longest name that `use` has wins."""
    paths = {}
    for step in steps:
        for name in sorted(names_of(step), key=len):
            if name in use:
                paths[step.name] = use[name]
    return paths


def _replaced(item: Any, paths: Mapping[str, str]) -> Any:
    """An input in which references to replaced steps are external paths."""

    def replaced_model(model: Mapping) -> Mapping:
        if "path" in model or model.get("step") not in paths:
            return model
        return {**model, "path": paths[model["step"]]}

    if not isinstance(item, Ref):
        return with_models(item, replaced_model)
    if item.step not in paths:
        return item
    external = {"path": paths[item.step], "step": item.step}
    return external if item.name is None else {**external, "name": item.name}


def _ends(steps: Sequence[Step]) -> set[str]:
    """The steps that no other step needs."""
    names = {step.name for step in steps}
    for step in steps:
        names -= set(step.needs())
    return names


def _upstream(steps: Sequence[Step], ends: set[str]) -> list[Step]:
    """The steps that the `ends` need, and these themselves."""
    needed = set(ends)
    # Steps are in the order of running, so backwards every consumer comes before what it needs.
    for step in reversed(steps):
        if step.name in needed:
            needed.update(step.needs())
    return [step for step in steps if step.name in needed]
