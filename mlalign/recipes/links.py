"""References between steps: what the texts in `inputs` name.

A text is a step: one of this round, or, seen from outside the rounds, one of the last. In rounds,
`previous.X` is X of the round before (in the first, what `init` names for it, or nothing), and
`initial.X` is what `init` names. `X[*]` is every value of X's `foreach`, `X[a,*]` those of `a`, and
`*` alone every other step. A mapping is something external, or a scorer, or a step that a scorer is
made of: `{step: X, name: judge}`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mlalign.core.errors import nearest
from mlalign.core.model import with_models
from mlalign.recipes import outline
from mlalign.recipes.graph import Ref, Step

OTHER_ROUNDS = ("previous", "initial")
INITIAL = re.compile(r"initial\.([\w.]+)")


@dataclasses.dataclass
class Linker:
    """Turns what stands in `inputs` into references."""

    steps: Mapping[str, Step]
    recipe: Mapping
    init: Mapping
    count: int
    errors: list[str]
    # A wrong `init` explains every `previous.X` that finds nothing.
    init_is_wrong: bool = False

    def __post_init__(self) -> None:
        # Steps that collect all others are not collected themselves.
        self.collectors = {name for name, step in self.steps.items() if "*" in step.inputs.values()}

    @property
    def rounds(self) -> Mapping:
        return self.recipe.get("rounds") or {}

    def check_rounds(self) -> None:
        """Report names in `init` and in `guards` that mean no step of the rounds."""
        steps = outline.section(self.recipe, "rounds.steps")
        initial: set[str] = set()
        for text in outline.texts(steps):
            initial.update(INITIAL.findall(text))

        for key in self.init:
            head = key.partition("[")[0]
            if head not in steps and head not in initial:
                self.init_is_wrong = True
                hint = nearest(head, steps)
                self.errors.append(f"rounds.init.{key}: no step of the rounds has this name{hint}")
        for name in self.rounds.get("guards") or []:
            if name not in steps:
                hint = nearest(str(name), steps)
                self.errors.append(f"rounds.guards: the rounds have no step {name!r}{hint}")

    def link(self, step: Step) -> None:
        """Replace the texts in a step's inputs by references."""
        linked: dict[str, Any] = {}
        for slot, value in step.inputs.items():
            key = f"steps.{step.template}.inputs.{slot}"
            n_before = len(self.errors)
            refs: list[Any] = []
            for item in _flat(value):
                refs += self._refs(item, step, key)

            is_several = isinstance(value, list) or (isinstance(value, str) and "*" in value)
            if is_several:
                linked[slot] = refs
            elif refs:
                linked[slot] = refs[0]
            if len(self.errors) > n_before or (self.init_is_wrong and slot not in linked):
                step.broken.add(slot)
        step.inputs = linked

    def guard(self) -> None:
        """Make the steps of each round wait for the guards of all earlier rounds.

        A guard under `foreach` stops the steps with its own values alone.
        """
        names = self.rounds.get("guards") or []
        guards = [step for step in self.steps.values() if step.round and step.template in names]
        for step in self.steps.values():
            if step.round is None:
                continue
            step.guards = []
            for guard in guards:
                is_earlier = (guard.round or 0) < step.round
                if is_earlier and guard.binding.items() <= step.binding.items():
                    step.guards.append(guard.name)

    def _refs(self, item: Any, step: Step, key: str) -> list[Any]:
        """What one item of an input names: references, or something external as it stands."""
        if isinstance(item, Mapping):
            return self._of_mapping(item, step, key)
        if not isinstance(item, str):
            self.errors.append(f"{key}: {item!r} is neither a step nor a mapping")
            return []
        if item == "*":
            return [Ref(name, weak=True) for name in self.steps if name not in self.collectors]
        where, _, rest = item.partition(".")
        if where in OTHER_ROUNDS and rest:
            return self._of_round(where, rest, step.round, item, key)
        return self._matching(self._here(item, step.round), item, key)

    def _of_mapping(self, item: Mapping, step: Step, key: str) -> list[Any]:
        if set(item) <= {"step", "name"} and "step" in item:
            return [_named(ref, item.get("name")) for ref in self._refs(item["step"], step, key)]
        return [with_models(item, lambda model: self._model(model, step, key))]

    def _model(self, model: Mapping, step: Step, key: str) -> dict:
        """`{step: NAME}` within a scorer's settings, with the unrolled name of the step."""
        if "step" not in model:
            return dict(model)
        name = model["step"]
        n_before = len(self.errors)
        refs = self._refs(name, step, key)
        if len(refs) != 1:
            if len(self.errors) == n_before:
                number = len(refs) or "no"
                self.errors.append(
                    f"{key}: {name!r} names {number} steps here, and a setting takes one model"
                )
            return {**model, "step": ""}
        ref = refs[0]
        if isinstance(ref, Ref):
            return {**model, "step": ref.step}
        rest = {setting: value for setting, value in model.items() if setting != "step"}
        return {**rest, **ref}

    def _matching(self, name: str, item: str, key: str) -> list[Any]:
        """References to the steps of an unrolled name, in which `*` stands for any value."""
        if "*" in name:
            matches = [other for other in self.steps if _fits(other, name)]
        else:
            matches = [name] if name in self.steps else []
        if not matches:
            self.errors.append(f"{key}: there is no step {item!r}{self._hint(item)}")
        return [Ref(match) for match in matches]

    def _hint(self, item: str) -> str:
        """What a name that means no step may have meant."""
        inner = [name for name in self.steps if name.startswith(f"{item}.")]
        if inner:
            return f"; the part gives no step of its own name, only {', '.join(inner)}"
        values = [name for name in self.steps if name.startswith(f"{item}[")]
        if values:
            some = ", ".join(values[:6])
            return f"; it has one for each value of its `foreach`: {some}, or all: {item}[*]"
        return nearest(item, [*outline.templates(self.recipe), *self.steps])

    def _of_round(
        self, where: str, rest: str, number: int | None, item: str, key: str
    ) -> list[Any]:
        """What `previous.REST` or `initial.REST` means in a round; [] if it means nothing there."""
        if number is None:
            self.errors.append(f"{key}: {item!r} has a meaning only inside `rounds`")
            return []
        head = rest.partition("[")[0]
        steps = outline.section(self.recipe, "rounds.steps")
        if head not in steps and not self._initial(rest):
            if not self.init_is_wrong:
                hint = nearest(head, steps)
                self.errors.append(f"{key}: there is no step {rest!r} in `rounds`{hint}")
            return []
        if where == "previous" and number > 1:
            return self._matching(_with_round(rest, number - 1), item, key)

        initial = self._initial(rest)
        if initial is None:
            return []
        if isinstance(initial, Mapping):
            return [dict(initial)]
        return self._matching(str(initial), item, key)

    def _initial(self, rest: str) -> Any:
        """What `init` names for `X` or `X[a]`; None if it names nothing.

        For `X[a]` that is its own entry; else, with `X: base`, the step `base[a]` if there is one,
        else `base`.
        """
        if rest in self.init:
            return self.init[rest]
        head, bracket, values = rest.partition("[")
        initial = self.init.get(head)
        if not bracket or not isinstance(initial, str):
            return initial
        of_value = f"{initial}[{values}"
        is_step = "*" in values or of_value in self.steps
        return of_value if is_step else initial

    def _here(self, item: str, number: int | None) -> str:
        """The unrolled name of a step: in this round, or, from outside of rounds, in the last."""
        in_rounds = item.partition("[")[0] in outline.section(self.recipe, "rounds.steps")
        if item in self.steps or not in_rounds or not self.count:
            return item
        return _with_round(item, number or self.count)


def _named(ref: Any, name: str | None) -> Any:
    """A reference with the name that its scorer is to have."""
    return dataclasses.replace(ref, name=name) if isinstance(ref, Ref) else ref


def _flat(value: Any) -> list:
    """The items of an input. A list within a list, which a parameter stood for, adds its items."""
    if not isinstance(value, list):
        return [value]
    items: list[Any] = []
    for item in value:
        items += item if isinstance(item, list) else [item]
    return items


def _with_round(name: str, number: int) -> str:
    """`policy[a]`, 2  ->  `policy.r2[a]`"""
    head, bracket, rest = name.partition("[")
    return f"{head}.r{number}{bracket}{rest}"


def _fits(name: str, pattern: str) -> bool:
    """Whether an unrolled name is one of `X[*]` (all values of all variables) or of `X[a,*]`."""
    head, _, values = name.removesuffix("]").partition("[")
    wanted_head, _, wanted = pattern.removesuffix("]").partition("[")
    if head != wanted_head or not values:
        return False
    if wanted == "*":
        return True
    own_values = values.split(",")
    wanted_values = wanted.split(",")
    if len(own_values) != len(wanted_values):
        return False
    pairs = zip(own_values, wanted_values, strict=True)
    return all(wanted in ("*", own) for own, wanted in pairs)
