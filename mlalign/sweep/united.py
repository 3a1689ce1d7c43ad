"""Plans of many variants -> one plan in which every artifact stands once.

A step that all variants share keeps its name; one that depends on swept keys is called after their
values: `policy[beta=0.05]`. Its fingerprint, configuration and manifest are those of a single run,
so that such a run reuses it, and the other way round.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mlalign.core.errors import UserError, nearest
from mlalign.recipes import command_line, config, plan
from mlalign.recipes.node import Node
from mlalign.recipes.plan import Plan, Variant
from mlalign.recipes.selection import groups_of
from mlalign.sweep.grid import Axis, Request, Value, combinations, label

Point = Sequence[tuple[str, Value]]  # a variant: (key, value) for every swept key
Depends = Mapping[str, Sequence[str]]  # step -> swept keys that its artifact depends on


@dataclasses.dataclass
class Planned:
    """A variant with its own plan."""

    values: dict[str, Any]
    overrides: list[str]
    plan: Plan

    @property
    def artifacts(self) -> dict[str, str]:
        return {n.step.name: n.artifact for n in self.plan.nodes}


class Planner:
    """Plans the variants of a request; files are composed once for each choice of them."""

    def __init__(
        self,
        request: Request,
        recipe: Mapping | None = None,
        *,
        to_look_at: bool = False,
    ):
        self.request = request
        self.recipe = recipe
        self.to_look_at = to_look_at
        self.controls: dict[str, list[str]] = {}
        self._shared: list[str] = []
        self._composed: dict[tuple, dict] = {}
        for argument in request.shared:
            key, equals, value = argument.partition("=")
            if equals and key in command_line.STEP_LISTS:
                self.controls[key] = command_line.step_names(value)
            else:
                self._shared.append(argument)

    def plan(self, point: Point) -> Planned:
        """Raises: UserError with every mistake of this variant."""
        overrides = [o for _, value in point for o in value.overrides]
        settings = config.load([*self._shared, *overrides], self.recipe, self._composed)
        values = {key: value.shown for key, value in point}
        return Planned(values, overrides, plan.build(settings, to_look_at=self.to_look_at))

    def plan_all(self, points: Iterable[Point]) -> list[Planned]:
        """All variants. Raises: UserError with the mistakes of all of them, each only once."""
        planned: list[Planned] = []
        variants_with: dict[str, list[str]] = {}  # message -> the variants that have it
        points = list(points)
        for point in points:
            try:
                planned.append(self.plan(point))
            except UserError as error:
                name = label({key: value.shown for key, value in point})
                for message in error.messages:
                    variants_with.setdefault(message, []).append(name)
        if not variants_with:
            return planned

        overrides = {o for point in points for _, value in point for o in value.overrides}
        keys = {override.partition("=")[0] for override in overrides}
        messages = []
        for message, variants in variants_with.items():
            messages.append(self._explained(message, variants, keys, len(points)))
        raise UserError(*messages)

    def _explained(
        self,
        message: str,
        variants: Sequence[str],
        keys: Collection[str],
        n_variants: int,
    ) -> str:
        """A message that says whether the preset causes it, or else which variants have it."""
        about = message.partition(": ")[0]
        is_swept = any(key == about or key.startswith(f"{about}.") for key in keys)
        if self.request.preset and is_swept:
            return f"sweep={self.request.preset} does not fit this recipe: {message}"
        if len(variants) == n_variants:
            return message
        others = f" and {len(variants) - 1} more" if len(variants) > 1 else ""
        return f"{message} (in the variant {variants[0]}{others})"


def build(request: Request, recipe: Mapping | None = None, *, to_look_at: bool = False) -> Plan:
    """The united plan of a grid.

    Raises: UserError with the mistakes of all variants, and for a key that makes no difference to
    any step.
    """
    planner = Planner(request, recipe, to_look_at=to_look_at)
    planned = planner.plan_all(combinations(request.axes))
    depends = dependencies(planned)
    used = {key for keys in depends.values() for key in keys}
    idle = [axis.key for axis in request.axes if len(axis.values) > 1 and axis.key not in used]
    if idle:
        mend = "makes no difference to any step; leave it out of the sweep"
        raise UserError(*(f"{key}: {mend}" for key in idle))
    return unite(planned, depends, request, planner.controls, "sweep")


def dependencies(planned: Sequence[Planned]) -> dict[str, list[str]]:
    """Step -> the keys it depends on: a change in that key alone changes the step's artifact."""
    keys_of: dict[str, list[str]] = {}
    for key in planned[0].values:
        for step in _steps_changed_by(key, planned):
            keys_of.setdefault(step, []).append(key)
    return keys_of


def _steps_changed_by(key: str, planned: Sequence[Planned]) -> list[str]:
    """Steps that have several artifacts among variants which agree in all other keys."""
    groups: dict[tuple, dict[str, set[str]]] = {}
    for variant in planned:
        rest = tuple(str(value) for name, value in variant.values.items() if name != key)
        artifacts_of = groups.setdefault(rest, {})
        for step, artifact in variant.artifacts.items():
            artifacts_of.setdefault(step, set()).add(artifact)

    changed: dict[str, None] = {}
    for artifacts_of in groups.values():
        changed |= dict.fromkeys(step for step, found in artifacts_of.items() if len(found) > 1)
    return list(changed)


def probes(axes: Sequence[Axis], ends: Mapping[str, Sequence[Value]]) -> list[Point]:
    """The first variant, and for each key one that differs from it in that key alone.

    Where there is no grid, they show what depends on what.
    """
    first = [(axis.key, ends[axis.key][0]) for axis in axes]
    points: list[Point] = [first]
    for i, axis in enumerate(axes):
        points.append([*first[:i], (axis.key, ends[axis.key][-1]), *first[i + 1 :]])
    return points


def unite(
    planned: Sequence[Planned],
    depends: Depends,
    request: Request,
    controls: Mapping,
    kind: str,
) -> Plan:
    """One plan of all variants: steps in a runnable order, those of the first variants first."""
    first = planned[0].plan
    keys = list(planned[0].values)
    nodes = _Nodes(depends)
    variants = []
    for variant in planned:
        steps = {node.step.name: nodes.add(node, variant.values) for node in variant.plan.nodes}
        name = label(variant.values, keys)
        variants.append(Variant(name, variant.values, variant.overrides, steps))

    recipe = ",".join(dict.fromkeys(p.plan.recipe for p in planned))
    has_name = first.settings.root["name"]
    options = {"shared": request.shared, "keys": keys, **request.options}
    settings = dataclasses.replace(
        first.settings,
        root={**first.settings.root, kind: options},
        controls={**first.settings.controls, **controls},
    )
    united = Plan(
        first.name if has_name else f"{recipe}_{request.preset or kind}",
        recipe,
        settings,
        first.root,
        list(nodes.by_artifact.values()),
        kind,
        variants,
        list(dict.fromkeys(message for p in planned for message in p.plan.unknown)),
    )
    _check_controls(united, controls)
    return united


@dataclasses.dataclass
class _Nodes:
    """Every artifact once, under a name that no other has."""

    depends: Depends
    by_artifact: dict[str, Node] = dataclasses.field(default_factory=dict)
    names: set[str] = dataclasses.field(default_factory=set)

    def add(self, node: Node, values: Mapping[str, Any]) -> str:
        """The name of a variant's node here."""
        if node.artifact not in self.by_artifact:
            named = self._named(node, values)
            self.by_artifact[node.artifact] = named
            self.names.add(named.name)
        return self.by_artifact[node.artifact].name

    def _named(self, node: Node, values: Mapping[str, Any]) -> Node:
        keys = self.depends.get(node.step.name, ())
        variant = label({key: value for key, value in values.items() if key in keys})
        named = dataclasses.replace(node, variant=variant)
        n = 1
        # Different values can read alike, such as two files of one name.
        while named.name in self.names:
            n += 1
            named = dataclasses.replace(node, variant=f"{variant}~{n}")
        return named


def _check_controls(united: Plan, controls: Mapping[str, Sequence[str]]) -> None:
    known = {name for node in united.nodes for name in (*groups_of(node.step), node.name)}
    errors = []
    for control, names in controls.items():
        for name in names:
            if name not in known:
                errors.append(f"{control}: no variant has a step {name!r}{nearest(name, known)}")
    if errors:
        raise UserError(*errors)


def counts(united: Plan) -> dict[str, int]:
    """How many steps the variants have together, how many differ, and how many variants share."""
    return step_counts(variant.steps for variant in united.variants)


def step_counts(steps_of_variants: Iterable[Mapping[str, str]]) -> dict[str, int]:
    uses = Counter(name for steps in steps_of_variants for name in steps.values())
    n_shared = sum(n > 1 for n in uses.values())
    return {"in_all": uses.total(), "different": len(uses), "shared": n_shared}


def outline(united: Plan) -> str:
    """What the sweep is: its keys and values, and how many steps sharing saves."""
    values: dict[str, list[str]] = {}
    for key in united.variants[0].values:
        values[key] = list(dict.fromkeys(str(v.values[key]) for v in united.variants))
    sizes = " x ".join(f"{key} ({len(levels)})" for key, levels in values.items())

    n = counts(united)
    steps = f"{n['in_all']} steps in all variants, {n['different']} different ones"
    single = n["different"] - n["shared"]
    lines = [
        f"{united.kind} {united.name}: {len(united.variants)} variants of {sizes}",
        *(f"  {key}: {', '.join(levels)}" for key, levels in values.items()),
        f"  {steps}: {n['shared']} shared, {single} of one variant alone",
    ]
    return "\n".join(lines)
