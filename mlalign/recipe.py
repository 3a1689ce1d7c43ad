"""Recipes: a YAML graph of named steps, unrolled into a static list of steps.

    params: {beta: 0.1}
    steps:   {NAME: {stage, inputs, config, resources, foreach}}
    rounds:  {count, init: {NAME: STEP}, steps: {…}}       unrolled: NAME.r1, NAME.r2, …
    finally: {NAME: …}                                     sees the last round

In `inputs` a string is a step, a mapping something external or a scorer, a list several; the settings of a scorer name the model of
a step as `{step: NAME}`. Inside `rounds`, `previous.X` is X of the round
before (in the first round what `init` names, or nothing) and `initial.X` what `init` named. `foreach: {lang: [a, b]}` gives
`X[a]`, `X[b]`; `X[*]` collects them, and `*` alone every other step.
"""

import dataclasses
import graphlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlalign.engine.models import models_in, with_models
from mlalign.errors import nearest

STEP_KEYS = ("stage", "inputs", "config", "resources", "foreach")
RECIPE_KEYS = ("params", "steps", "rounds", "finally", "description")
ROUND_KEYS = ("count", "init", "steps")
MAX_ROUNDS = 3
MAX_FOREACH = 1000

Resolve = Callable[[Any, Mapping[str, Any], str, list[str]], Any]


@dataclasses.dataclass(frozen=True)
class Ref:
    """A reference to a step by its unrolled name."""

    step: str


@dataclasses.dataclass
class Step:
    """One node of the unrolled graph. `inputs` holds, per slot, a Ref, a mapping (external), or a list of those."""

    name: str
    template: str
    stage: str
    inputs: dict[str, Any]
    config: dict[str, Any]
    resources: dict[str, Any]
    binding: dict[str, Any] = dataclasses.field(default_factory=dict)
    round: int | None = None
    guards: list[str] = dataclasses.field(default_factory=list)

    def refs(self) -> Iterator[str]:
        """The names of the steps this one waits for."""
        for value in self.inputs.values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Ref):
                    yield item.step
                yield from (m["step"] for m in models_in(item) if "step" in m and "path" not in m)
        yield from self.guards


def templates(recipe: Mapping) -> dict[str, dict]:
    """Every step of a recipe before unrolling, by name."""
    return {**(recipe.get("steps") or {}), **((recipe.get("rounds") or {}).get("steps") or {}), **(recipe.get("finally") or {})}


def unroll(recipe: Mapping, resolve: Resolve, errors: list[str]) -> list[Step]:
    """The steps of a recipe in an order in which they can run.

    `resolve(value, binding, key, errors)` resolves the interpolations in a piece of the recipe. Mistakes (unknown keys,
    references to unknown steps, a cycle) are appended to `errors`, each with its full key.
    """
    before = len(errors)
    check_shape(recipe, errors)
    if len(errors) > before:
        return []
    scopes = list(_scopes(recipe, resolve, errors))
    steps: dict[str, Step] = {}
    for scope in scopes:
        for name, body in scope.bodies.items():
            for step in _expand(name, body, scope, resolve, errors):
                steps[step.name] = step
    linker = _Linker(steps, recipe, scopes[0].count, errors)
    for step in steps.values():
        linker.link(step)
    _guard(steps)
    return _ordered(steps, errors)


@dataclasses.dataclass
class _Scope:
    bodies: Mapping[str, Mapping]
    round: int | None
    count: int


def _scopes(recipe: Mapping, resolve: Resolve, errors: list[str]) -> Iterator[_Scope]:
    rounds = recipe.get("rounds") or {}
    count = resolve(rounds.get("count", 0), {}, "rounds.count", errors) if rounds else 0
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_ROUNDS:
        errors.append(f"rounds.count: {count!r} is not possible; a whole number from 0 to {MAX_ROUNDS}")
        count = 0
    yield _Scope(recipe.get("steps") or {}, None, count)
    for number in range(1, count + 1):
        yield _Scope(rounds["steps"], number, count)
    yield _Scope(recipe.get("finally") or {}, None, count)


def check_shape(recipe: Any, errors: list[str]) -> None:
    """Append what is wrong with the outline of a recipe: sections and steps of other types, unknown keys, names used twice."""
    if not isinstance(recipe, Mapping):
        errors.append(f"recipe: expected a mapping with `steps`, got {recipe!r}")
        return
    rounds = recipe.get("rounds") or {}
    sections = {"params": recipe.get("params"), "steps": recipe.get("steps"), "rounds": rounds, "finally": recipe.get("finally")}
    if isinstance(rounds, Mapping):
        sections |= {"rounds.steps": rounds.get("steps"), "rounds.init": rounds.get("init")}
    wrong = [name for name, value in sections.items() if value is not None and not isinstance(value, Mapping)]
    errors.extend(f"{name}: expected a mapping, got {sections[name]!r}" for name in wrong)
    if wrong:
        return
    _known(recipe, RECIPE_KEYS, "", errors)
    _known(rounds, ROUND_KEYS, "rounds.", errors)
    if rounds and not rounds.get("steps"):
        errors.append("rounds.steps: missing; name the steps of a round")
    found = [(name, body) for section in ("steps", "rounds.steps", "finally") for name, body in (sections.get(section) or {}).items()]
    if not found:
        errors.append("steps: the recipe has no steps")
    names = [name for name, _ in found]
    errors.extend(f"steps.{name}: two steps have this name; rename one" for name in sorted({str(n) for n in names if names.count(n) > 1}))
    for name, body in found:
        _check_step(name, body, errors)


def _check_step(name: Any, body: Any, errors: list[str]) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        errors.append(
            f"steps.{name}: a step's name is text made of letters, digits and underscores (YAML reads a bare `no` as false: quote it)"
        )
    if not isinstance(body, Mapping):
        errors.append(f"steps.{name}: expected a mapping with a `stage`, got {body!r}")
        return
    _known(body, STEP_KEYS, f"steps.{name}.", errors)
    if "stage" not in body:
        errors.append(f"steps.{name}.stage: missing; name the stage that does this step")
    for key in ("inputs", "config", "resources", "foreach"):
        if body.get(key) is not None and not isinstance(body[key], Mapping):
            errors.append(f"steps.{name}.{key}: expected a mapping, got {body[key]!r}")


def _known(mapping: Mapping, allowed: tuple[str, ...], prefix: str, errors: list[str]) -> None:
    errors.extend(f"{prefix}{key}: unknown key{nearest(key, allowed)}" for key in mapping if key not in allowed)


def _expand(name: str, body: Mapping, scope: _Scope, resolve: Resolve, errors: list[str]) -> Iterator[Step]:
    """One step, or one for each value of its `foreach`."""
    base = name if scope.round is None else f"{name}.r{scope.round}"
    key = f"steps.{name}"
    foreach = resolve(body.get("foreach") or {}, {}, f"{key}.foreach", errors)
    if len(foreach) > 1:
        errors.append(f"{key}.foreach: one variable at a time, got {', '.join(foreach)}")
    variable, values = next(iter(foreach.items()), (None, [None]))
    if not isinstance(values, list):
        errors.append(f"{key}.foreach.{variable}: expected a list, got {values!r}")
        return
    if len(values) > MAX_FOREACH:
        errors.append(f"{key}.foreach.{variable}: {len(values):,} values, at most {MAX_FOREACH:,}; take fewer, or several runs")
        return
    if len(set(map(str, values))) < len(values):
        errors.append(f"{key}.foreach.{variable}: a value stands there twice: {', '.join(map(str, values))}")
        return
    for value in values:
        binding = {} if variable is None else {variable: value}
        yield Step(
            name=base if variable is None else f"{base}[{value}]", template=name, stage=str(body["stage"]),
            inputs=resolve(dict(body.get("inputs") or {}), binding, f"{key}.inputs", errors) or {},
            config=resolve(dict(body.get("config") or {}), binding, f"{key}.config", errors) or {},
            resources=resolve(dict(body.get("resources") or {}), binding, f"{key}.resources", errors) or {},
            binding=binding, round=scope.round,
        )  # fmt: skip


@dataclasses.dataclass
class _Linker:
    """Turns the strings in `inputs` into references, by the rules of `rounds` and `foreach`."""

    steps: Mapping[str, Step]
    recipe: Mapping
    count: int
    errors: list[str]

    @property
    def rounds(self) -> Mapping:
        return self.recipe.get("rounds") or {}

    def link(self, step: Step) -> None:
        linked: dict[str, Any] = {}
        for slot, value in step.inputs.items():
            key = f"steps.{step.template}.inputs.{slot}"
            many = isinstance(value, list) or (isinstance(value, str) and "*" in value)
            items = value if isinstance(value, list) else [value]
            found = [ref for item in items for ref in self._refs(item, step.round, key)]
            if found or many:
                linked[slot] = found if many else found[0]
        step.inputs = linked

    def _refs(self, item: Any, number: int | None, key: str) -> list[Any]:
        if isinstance(item, Mapping):
            return [with_models(item, lambda model: self._model(model, number, key))]
        if not isinstance(item, str):
            self.errors.append(f"{key}: {item!r} is neither a step nor a mapping")
            return []
        if item == "*":
            return [Ref(name) for name, other in self.steps.items() if other.stage != "report"]
        where, _, rest = item.partition(".")
        name = self._of_round(where, rest, number, key) if where in ("previous", "initial") and rest else self._here(item, number)
        return [] if name is None else self._matching(name, item, key)

    def _model(self, model: Mapping, number: int | None, key: str) -> dict:
        """`{step: NAME}` within a scorer's settings, with the unrolled name of the step."""
        if "step" not in model:
            return dict(model)
        before = len(self.errors)
        found = self._refs(model["step"], number, key)
        if len(found) != 1 and len(self.errors) == before:
            self.errors.append(f"{key}: {model['step']!r} names {len(found) or 'no'} steps here, and a setting takes one model")
        return {**model, "step": found[0].step if found else ""}

    def _matching(self, name: str, item: str, key: str) -> list[Any]:
        if name.endswith("[*]"):
            matches = [n for n in self.steps if re.fullmatch(re.escape(name[:-3]) + r"\[.*\]", n)]
        else:
            matches = [name] if name in self.steps else []
        if not matches:
            self.errors.append(f"{key}: there is no step {item!r}{nearest(item, [*templates(self.recipe), *self.steps])}")
        return [Ref(match) for match in matches]

    def _of_round(self, where: str, rest: str, number: int | None, key: str) -> str | None:
        """What `previous.REST` or `initial.REST` means in round `number` (None: outside rounds); None if it means nothing there."""
        if number is None:
            self.errors.append(f"{key}: '{where}.{rest}' has a meaning only inside `rounds`")
            return None
        head, init = rest.partition("[")[0], self.rounds.get("init") or {}
        if head not in self.rounds["steps"] and head not in init:
            self.errors.append(f"{key}: there is no step {rest!r} in `rounds`{nearest(head, self.rounds['steps'])}")
            return None
        return _with_round(rest, number - 1) if where == "previous" and number > 1 else init.get(rest)

    def _here(self, item: str, number: int | None) -> str:
        """The unrolled name of a step: one of this round, seen from outside one of the last round."""
        of_round = item not in self.steps and item.partition("[")[0] in (self.rounds.get("steps") or {})
        return _with_round(item, number or self.count) if of_round and self.count else item


def _with_round(name: str, number: int) -> str:
    head, bracket, rest = name.partition("[")
    return f"{head}.r{number}{bracket}{rest}"


def _guard(steps: Mapping[str, Step]) -> None:
    """Steps of a round wait for, and obey, the guards of all earlier rounds."""
    guards = [s for s in steps.values() if s.stage == "select" and s.round]
    for step in steps.values():
        if step.round:
            step.guards = [g.name for g in guards if (g.round or 0) < step.round]


def _ordered(steps: Mapping[str, Step], errors: list[str]) -> list[Step]:
    graph = {name: [r for r in step.refs() if r in steps] for name, step in steps.items()}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        errors.append(f"steps: a cycle: {' -> '.join(reversed(error.args[1]))}; a step cannot wait for itself")
        return []
    return [steps[name] for name in order]
