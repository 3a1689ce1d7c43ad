"""A recipe unrolled: every round and every value of `foreach` is a step of its own.

`foreach: {lang: [a, b]}` gives `X[a]` and `X[b]`; with several variables every combination,
`X[a,100]`. A mapping stands for its keys. Rounds give `X.r1`, `X.r2`; `${round}` is the number, and
`${of_round:LIST}` the element of that round, or the last one.
"""

import dataclasses
import graphlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from mlalign.core.model import models_in
from mlalign.recipes import outline

MAX_FOREACH = 1000
# A comma separates the values of two variables, and a bracket ends a name.
IN_A_NAME = re.compile(r"[^,\[\]]+")

# resolve(value, binding, key, errors): the value with its interpolations resolved
Resolve = Callable[[Any, Mapping[str, Any], str, list[str]], Any]


@dataclasses.dataclass(frozen=True)
class Ref:
    """A reference to a step by its unrolled name.

    `name` is what a scorer is to be called. A `weak` reference comes from `*`: the step takes what
    is there, and runs without it.
    """

    step: str
    name: str | None = None
    weak: bool = False


@dataclasses.dataclass
class Step:
    """One node of the unrolled graph.

    `inputs` holds for each slot a Ref, a mapping (something external, or a scorer), or a list of
    those.
    """

    name: str
    template: str
    stage: str
    inputs: dict[str, Any]
    config: dict[str, Any]
    resources: dict[str, Any]
    binding: dict[str, Any] = dataclasses.field(default_factory=dict)
    round: int | None = None
    guards: list[str] = dataclasses.field(default_factory=list)
    # An inner step of a part: left out if nothing reads it.
    inner: bool = False
    # Slots whose references are wrong, which is reported: what they lack is not reported again.
    broken: set[str] = dataclasses.field(default_factory=set)
    # Whether something in it cannot be resolved, which is reported.
    unresolved: bool = False

    @property
    def scope(self) -> dict[str, Any]:
        """What `${…}` may refer to beside groups and parameters: loop variables and the round."""
        if self.round is None:
            return self.binding
        return {**self.binding, "round": self.round}

    def items(self) -> Iterator[Any]:
        """Every input, those in lists one by one."""
        for value in self.inputs.values():
            if isinstance(value, list):
                yield from value
            else:
                yield value

    def needs(self) -> Iterator[str]:
        """The names of the steps without which this one cannot run: inputs and guards."""
        for item in self.items():
            if isinstance(item, Ref) and not item.weak:
                yield item.step
            for model in models_in(item):
                if "step" in model and "path" not in model:
                    yield model["step"]
        yield from self.guards

    def refs(self) -> Iterator[str]:
        """The names of the steps this one waits for."""
        yield from self.needs()
        for item in self.items():
            if isinstance(item, Ref) and item.weak:
                yield item.step


def name_of(template: str, number: int | None, values: list[Any]) -> str:
    """The name of an unrolled step: `policy.r2[eng_Latn,100]`."""
    name = template if number is None else f"{template}.r{number}"
    if values:
        name += f"[{','.join(map(str, values))}]"
    return name


def unroll(
    recipe: Mapping, resolve: Resolve, errors: list[str], max_rounds: int = 20
) -> list[Step]:
    """The steps of a recipe whose parts are expanded, in an order in which they can run.

    Mistakes (unknown steps, a cycle) are appended to `errors`, each with its full key.
    """
    from mlalign.recipes.links import Linker

    count = _count(recipe, resolve, max_rounds, errors)
    steps: dict[str, Step] = {}
    for section, number in _passes(count):
        for name, body in outline.section(recipe, section).items():
            for step in _expanded(name, body, number, resolve, errors):
                steps[step.name] = step

    rounds = recipe.get("rounds") or {}
    init = resolve(rounds.get("init") or {}, {}, "rounds.init", errors)
    linker = Linker(steps, recipe, init or {}, count, errors)
    linker.check_rounds()
    for step in steps.values():
        linker.link(step)
    linker.guard()
    return ordered(_without_unread(steps), errors)


def _count(recipe: Mapping, resolve: Resolve, max_rounds: int, errors: list[str]) -> int:
    rounds = recipe.get("rounds") or {}
    if not rounds:
        return 0
    count = resolve(rounds.get("count", 0), {}, "rounds.count", errors)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        errors.append(f"rounds.count: expected a whole number from 0, got {count!r}")
        return 0
    if count > max_rounds:
        errors.append(
            f"rounds.count: {count} rounds are more than max_rounds={max_rounds}, which keeps a"
            f" typing error from queueing weeks of work; set max_rounds={count} if you mean it"
        )
        return 0
    return count


def _passes(count: int) -> Iterator[tuple[str, int | None]]:
    """The sections of a recipe in the order of running, each round with its number."""
    yield "steps", None
    for number in range(1, count + 1):
        yield "rounds.steps", number
    yield "finally", None


def _expanded(
    template: str, body: Mapping, number: int | None, resolve: Resolve, errors: list[str]
) -> Iterator[Step]:
    """One step, or one for each combination of the values of its `foreach`."""
    key = f"steps.{template}"
    of_round = {} if number is None else {"round": number}
    lists = _loops(body.get("foreach") or {}, of_round, f"{key}.foreach", resolve, errors)
    if lists is None:
        return
    combinations = list(itertools.islice(itertools.product(*lists.values()), MAX_FOREACH + 1))
    if len(combinations) > MAX_FOREACH:
        errors.append(
            f"{key}.foreach: more than {MAX_FOREACH:,} combinations; take fewer values, or several"
            " runs"
        )
        return

    for values in combinations:
        binding = dict(zip(lists, values, strict=True))
        name = name_of(template, number, list(values))
        yield _step(name, template, body, binding, of_round, resolve, errors)


def _step(
    name: str,
    template: str,
    body: Mapping,
    binding: dict[str, Any],
    of_round: dict[str, int],
    resolve: Resolve,
    errors: list[str],
) -> Step:
    """A step with the interpolations in it resolved for one combination of loop values."""
    scope = {**binding, **of_round}
    # What the caller of a part gave differs between `inputs` and the rest (`substitution.Value`).
    passed = body.get("passed") or {}
    config_scope = {**scope, **(passed.get("config") or {})}
    inputs_scope = {**scope, **(passed.get("inputs") or {})}

    n_before = len(errors)
    key = f"steps.{template}"
    inputs = resolve(body.get("inputs") or {}, inputs_scope, f"{key}.inputs", errors)
    config = resolve(body.get("config") or {}, config_scope, f"{key}.config", errors)
    resources = resolve(body.get("resources") or {}, config_scope, f"{key}.resources", errors)
    return Step(
        name=name,
        template=template,
        stage=str(body["stage"]),
        inputs=dict(inputs or {}),
        config=dict(config or {}),
        resources=dict(resources or {}),
        binding=binding,
        round=of_round.get("round"),
        inner=bool(body.get("inner")),
        unresolved=len(errors) > n_before,
    )


def _loops(
    foreach: Mapping, scope: Mapping, key: str, resolve: Resolve, errors: list[str]
) -> dict[str, list] | None:
    """The values of each loop variable; None, with a message, if something is wrong with them."""
    n_before = len(errors)
    resolved = resolve(foreach, scope, key, errors)
    if len(errors) > n_before:
        return None
    lists: dict[str, list] = {}
    for variable, content in resolved.items():
        values = list(content) if isinstance(content, Mapping) else content
        problem = _problem_of_values(values)
        if problem is not None:
            errors.append(f"{key}.{variable}: {problem}")
            return None
        lists[variable] = values
    return lists


def _problem_of_values(values: Any) -> str | None:
    """What is wrong with the values of a loop variable; None if nothing is."""
    if not isinstance(values, list):
        return f"expected a list, or a mapping for its keys, got {values!r}"
    if len(values) > MAX_FOREACH:
        size = f"{len(values):,} values, at most {MAX_FOREACH:,}"
        return f"{size}; take fewer, or several runs"
    counts = Counter(str(value) for value in values)
    repeated = sorted(text for text, count in counts.items() if count > 1)
    if repeated:
        return f"duplicate value {repeated[0]}"
    for text in counts:
        if not IN_A_NAME.fullmatch(text):
            return f"{text!r} cannot be part of a step's name; leave out commas and brackets"
    return None


def _without_unread(steps: Mapping[str, Step]) -> dict[str, Step]:
    """The steps without those inner steps of parts that no step needs."""
    kept = dict(steps)
    while True:
        needed: set[str] = set()
        for step in kept.values():
            needed.update(step.needs())
        unread = [name for name, step in kept.items() if step.inner and name not in needed]
        if not unread:
            break
        for name in unread:
            del kept[name]
    for step in kept.values():
        step.inputs = {slot: without(value, kept) for slot, value in step.inputs.items()}
    return kept


def without(value: Any, kept: Container[str]) -> Any:
    """An input without its weak references to steps that are not `kept`."""
    if not isinstance(value, list):
        return value
    remaining = []
    for item in value:
        is_weak = isinstance(item, Ref) and item.weak
        if not is_weak or item.step in kept:
            remaining.append(item)
    return remaining


def ordered(steps: Mapping[str, Step], errors: list[str]) -> list[Step]:
    """The steps in an order in which each comes after those it waits for."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for name, step in steps.items():
        before = [other for other in step.refs() if other in steps]
        sorter.add(name, *before)
    try:
        order = list(sorter.static_order())
    except graphlib.CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        errors.append(f"steps: a cycle: {cycle}; a step cannot wait for itself")
        return []
    return [steps[name] for name in order]
