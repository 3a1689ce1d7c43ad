"""Plans of many variants -> one plan in which every artifact stands once.

A step that all variants share keeps its name; one that depends on swept keys is called after their values: `policy[beta=0.05]`. Its
fingerprint, configuration and manifest are those of a single run, so that such a run reuses it, and the other way round.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mlalign.core.errors import UserError, nearest
from mlalign.recipes import config, plan
from mlalign.recipes.plan import Node, Plan, Variant, groups_of
from mlalign.sweep.grid import Asked, Axis, Value, combinations, label

Point = Sequence[tuple[str, Value]]  # a variant: (key, value) for every swept key
Depends = Mapping[str, Sequence[str]]  # step of the recipe -> the swept keys that its artifact depends on


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
    """Plans the variants of what was asked for; files are composed once for each choice of them."""

    def __init__(self, asked: Asked, recipe: Mapping | None = None, *, to_look_at: bool = False):
        self.asked, self.recipe, self.to_look_at = asked, recipe, to_look_at
        heads = tuple(f"{c}=" for c in config.STEP_LISTS)
        self._shared = [a for a in asked.shared if not a.startswith(heads)]
        self.controls = {a.partition("=")[0]: config.step_names(a.partition("=")[2]) for a in asked.shared if a.startswith(heads)}
        self._composed: dict[tuple, dict] = {}

    def plan(self, point: Point) -> Planned:
        """Raises: UserError with every mistake of this variant."""
        overrides = [o for _, value in point for o in value.overrides]
        settings = config.load([*self._shared, *overrides], self.recipe, self._composed)
        return Planned({key: value.shown for key, value in point}, overrides, plan.build(settings, to_look_at=self.to_look_at))

    def plan_all(self, points: Iterable[Point]) -> list[Planned]:
        """All variants. Raises: UserError with the mistakes of all of them, each told once."""
        planned: list[Planned] = []
        told: dict[str, list[str]] = {}  # message -> the variants that have it
        keys: set[str] = set()
        points = list(points)
        for point in points:
            keys |= {o.partition("=")[0] for _, value in point for o in value.overrides}
            try:
                planned.append(self.plan(point))
            except UserError as error:
                for message in error.messages:
                    told.setdefault(message, []).append(label({key: value.shown for key, value in point}))
        if told:
            raise UserError(*(self._explained(message, where, keys, len(points)) for message, where in told.items()))
        return planned

    def _explained(self, message: str, where: Sequence[str], keys: Collection[str], n: int) -> str:
        about = message.partition(": ")[0]
        if self.asked.preset and any(key == about or key.startswith(f"{about}.") for key in keys):
            return f"sweep={self.asked.preset} does not fit this recipe: {message}"
        others = f" and {len(where) - 1} more" if len(where) > 1 else ""
        return message if len(where) == n else f"{message} (in the variant {where[0]}{others})"


def build(asked: Asked, recipe: Mapping | None = None, *, to_look_at: bool = False) -> Plan:
    """The united plan of a grid.

    Raises: UserError with the mistakes of all variants, and for a key that makes no difference to any step.
    """
    planner = Planner(asked, recipe, to_look_at=to_look_at)
    planned = planner.plan_all(combinations(asked.axes))
    depends = dependencies(planned)
    used = {key for keys in depends.values() for key in keys}
    if idle := [a.key for a in asked.axes if len(a.values) > 1 and a.key not in used]:
        raise UserError(*(f"{key}: makes no difference to any step; leave it out of the sweep" for key in idle))
    return unite(planned, depends, asked, planner.controls, "sweep")


def dependencies(planned: Sequence[Planned]) -> dict[str, list[str]]:
    """Step -> the keys it depends on: those that alone, between two variants, make another artifact of it."""
    found: dict[str, list[str]] = {}
    for key in planned[0].values:
        groups: dict[tuple, dict[str, set[str]]] = {}
        for one in planned:
            rest = tuple(str(v) for k, v in one.values.items() if k != key)
            steps = groups.setdefault(rest, {})
            for step, artifact in one.artifacts.items():
                steps.setdefault(step, set()).add(artifact)
        for step in dict.fromkeys(s for steps in groups.values() for s, artifacts in steps.items() if len(artifacts) > 1):
            found.setdefault(step, []).append(key)
    return found


def probes(axes: Sequence[Axis], ends: Mapping[str, Sequence[Value]]) -> list[Point]:
    """Variants that differ from the first in one key each: they tell what depends on what where there is no grid."""
    first = [(a.key, ends[a.key][0]) for a in axes]
    return [first, *([*first[:i], (a.key, ends[a.key][-1]), *first[i + 1 :]] for i, a in enumerate(axes))]


def unite(planned: Sequence[Planned], depends: Depends, asked: Asked, controls: Mapping, kind: str) -> Plan:
    """One plan of all variants: steps in an order in which they can run, those of the first variants first."""
    first = planned[0].plan
    keys, nodes, variants = list(planned[0].values), _Nodes(depends), []
    for one in planned:
        steps = {node.step.name: nodes.add(node, one.values) for node in one.plan.nodes}
        variants.append(Variant(label(one.values, keys), one.values, one.overrides, steps))
    recipe = ",".join(dict.fromkeys(p.plan.recipe for p in planned))
    named = first.settings.root["name"]
    name = first.name if named else f"{recipe}_{asked.preset or kind}"
    told = {"shared": asked.shared, "keys": keys, **asked.options}
    settings = dataclasses.replace(
        first.settings, root={**first.settings.root, kind: told}, controls={**first.settings.controls, **controls}
    )
    unknown = list(dict.fromkeys(message for one in planned for message in one.plan.unknown))
    united = Plan(name, recipe, settings, first.root, list(nodes.by_artifact.values()), kind, variants, unknown)
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
            own = {key: value for key, value in values.items() if key in self.depends.get(node.step.name, ())}
            new, n = dataclasses.replace(node, variant=label(own, values)), 1
            while new.name in self.names:  # values that read alike, such as two files of one name
                n += 1
                new = dataclasses.replace(node, variant=f"{label(own, values)}~{n}")
            self.by_artifact[node.artifact] = new
            self.names.add(new.name)
        return self.by_artifact[node.artifact].name


def _check_controls(united: Plan, controls: Mapping[str, Sequence[str]]) -> None:
    known = {name for n in united.nodes for name in (*groups_of(n.step), n.name)}
    unknown = [(control, name) for control, names in controls.items() for name in names if name not in known]
    if unknown:
        raise UserError(*(f"{control}: no variant has a step {name!r}{nearest(name, known)}" for control, name in unknown))


def counts(united: Plan) -> dict[str, int]:
    """How many steps the variants have together, how many different ones there are, and how many of these more than one needs."""
    uses: dict[str, int] = {}
    for variant in united.variants:
        for name in variant.steps.values():
            uses[name] = uses.get(name, 0) + 1
    return {"in_all": sum(uses.values()), "different": len(uses), "shared": sum(n > 1 for n in uses.values())}


def outline(united: Plan) -> str:
    """What the sweep is: its keys and values, and how many steps sharing spares."""
    values = {key: list(dict.fromkeys(str(v.values[key]) for v in united.variants)) for key in united.variants[0].values}
    told = counts(united)
    lines = [f"{united.kind} {united.name}: {len(united.variants)} variants of {' x '.join(f'{k} ({len(v)})' for k, v in values.items())}"]
    lines += [f"  {key}: {', '.join(v)}" for key, v in values.items()]
    own = told["different"] - told["shared"]
    lines.append(
        f"  {told['in_all']} steps in all variants, {told['different']} different ones: {told['shared']} shared, {own} of one variant alone"
    )
    return "\n".join(lines)
