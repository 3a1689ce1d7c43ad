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
        """Report keys of `init` that no step of the rounds has, and guards that are none of its
        steps.
        """
        steps = outline.section(self.recipe, "rounds.steps")
        initial = {name for text in outline.texts(steps) for name in INITIAL.findall(text)}
        for key in self.init:
            head = key.partition("[")[0]
            if head not in steps and head not in initial:
                self.init_is_wrong = True
                self.errors.append(
                    f"rounds.init.{key}: no step of the rounds has this name{nearest(head, steps)}"
                )
        for name in self.rounds.get("guards") or []:
            if name not in steps:
                self.errors.append(
                    f"rounds.guards: the rounds have no step {name!r}{nearest(str(name), steps)}"
                )

    def link(self, step: Step) -> None:
        """Replace the texts in a step's inputs by references."""
        linked: dict[str, Any] = {}
        for slot, value in step.inputs.items():
            key = f"steps.{step.template}.inputs.{slot}"
            before = len(self.errors)
            items = _flat(value) if isinstance(value, list) else [value]
            refs = [ref for item in items for ref in self._refs(item, step, key)]
            if isinstance(value, list) or (isinstance(value, str) and "*" in value):
                linked[slot] = refs
            elif refs:
                linked[slot] = refs[0]
            if len(self.errors) > before or (self.init_is_wrong and slot not in linked):
                step.broken.add(slot)
        step.inputs = linked

    def guard(self) -> None:
        """Make steps of a round wait for the guards of all rounds before.

        A guard under `foreach` stops the steps with its own values alone.
        """
        names = self.rounds.get("guards") or []
        guards = [step for step in self.steps.values() if step.round and step.template in names]
        for step in self.steps.values():
            if step.round is None:
                continue
            before = [guard for guard in guards if (guard.round or 0) < step.round]
            step.guards = [
                guard.name for guard in before if guard.binding.items() <= step.binding.items()
            ]

    def _refs(self, item: Any, step: Step, key: str) -> list[Any]:
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
            refs = self._refs(item["step"], step, key)
            return [
                dataclasses.replace(ref, name=item.get("name")) if isinstance(ref, Ref) else ref
                for ref in refs
            ]
        return [with_models(item, lambda model: self._model(model, step, key))]

    def _model(self, model: Mapping, step: Step, key: str) -> dict:
        """`{step: NAME}` within a scorer's settings, with the unrolled name of the step."""
        if "step" not in model:
            return dict(model)
        before = len(self.errors)
        refs = self._refs(model["step"], step, key)
        if len(refs) != 1 and len(self.errors) == before:
            self.errors.append(
                f"{key}: {model['step']!r} names {len(refs) or 'no'} steps here, and a setting"
                " takes one model"
            )
        if len(refs) != 1:
            return {**model, "step": ""}
        ref = refs[0]
        if isinstance(ref, Ref):
            return {**model, "step": ref.step}
        return {**{name: value for name, value in model.items() if name != "step"}, **ref}

    def _matching(self, name: str, item: str, key: str) -> list[Any]:
        """References to the steps of an unrolled name, in which `*` stands for any value."""
        if "*" in name:
            matches = [other for other in self.steps if _fits(other, name)]
        else:
            matches = [name] if name in self.steps else []
        if not matches:
            self.errors.append(f"{key}: there is no step {item!r}{self._nearest(item)}")
        return [Ref(match) for match in matches]

    def _nearest(self, item: str) -> str:
        inner = [name for name in self.steps if name.startswith(f"{item}.")]
        if inner:
            return f"; that part gives no step of its own name, but {', '.join(inner)}"
        values = [name for name in self.steps if name.startswith(f"{item}[")]
        if values:
            return (
                f"; it has one for each value of its `foreach`: {', '.join(values[:6])}, or all:"
                f" {item}[*]"
            )
        return nearest(item, [*outline.templates(self.recipe), *self.steps])

    def _of_round(
        self, where: str, rest: str, number: int | None, item: str, key: str
    ) -> list[Any]:
        """What `previous.REST` or `initial.REST` means in a round; nothing if it means nothing
        there.
        """
        if number is None:
            self.errors.append(f"{key}: {item!r} has a meaning only inside `rounds`")
            return []
        head = rest.partition("[")[0]
        steps = outline.section(self.recipe, "rounds.steps")
        if head not in steps and not self._initial(rest):
            if not self.init_is_wrong:
                self.errors.append(
                    f"{key}: there is no step {rest!r} in `rounds`{nearest(head, steps)}"
                )
            return []
        if where == "previous" and number > 1:
            return self._matching(_with_round(rest, number - 1), item, key)
        given = self._initial(rest)
        if given is None:
            return []
        return (
            [dict(given)] if isinstance(given, Mapping) else self._matching(str(given), item, key)
        )

    def _initial(self, rest: str) -> Any:
        """What `init` names for `X` or `X[a]`: its own entry, or that value of the entry for X, or
        that entry.
        """
        if rest in self.init:
            return self.init[rest]
        head, bracket, values = rest.partition("[")
        given = self.init.get(head)
        if not bracket or not isinstance(given, str):
            return given
        of_value = f"{given}[{values}"
        return of_value if "*" in values or of_value in self.steps else given

    def _here(self, item: str, number: int | None) -> str:
        """The unrolled name of a step: one of this round, seen from outside one of the last round."""
        in_rounds = item.partition("[")[0] in outline.section(self.recipe, "rounds.steps")
        if item in self.steps or not in_rounds or not self.count:
            return item
        return _with_round(item, number or self.count)


def _flat(items: list) -> list:
    """The items of a list; a list among them, which a parameter stood for, is taken for its items."""
    return [inner for item in items for inner in (item if isinstance(item, list) else [item])]


def _with_round(name: str, number: int) -> str:
    head, bracket, rest = name.partition("[")
    return f"{head}.r{number}{bracket}{rest}"


def _fits(name: str, pattern: str) -> bool:
    """Whether an unrolled name is one of `X[*]`, `X[a,*]`; a lone `*` stands for all values of all
    variables.
    """
    head, _, values = name.removesuffix("]").partition("[")
    wanted_head, _, wanted = pattern.removesuffix("]").partition("[")
    if head != wanted_head or not values:
        return False
    if wanted == "*":
        return True
    each, asked = values.split(","), wanted.split(",")
    return len(each) == len(asked) and all(w in ("*", v) for v, w in zip(each, asked, strict=True))
