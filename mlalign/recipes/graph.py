"""A recipe unrolled: every round and every value of `foreach` is a step of its own.

`foreach: {lang: [a, b]}` gives `X[a]` and `X[b]`; with several variables every combination,
`X[a,100]`. A mapping stands for its keys. Rounds give `X.r1`, `X.r2`; `${round}` is the number, and
`${of_round:LIST}` the element of that round, or the last one.
"""

import dataclasses
import graphlib
import itertools
import re
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from mlalign.core.model import models_in
from mlalign.recipes import outline

MAX_FOREACH = 1000
# Two variables' values are told apart by the comma, and the brackets end the name.
IN_A_NAME = re.compile(r"[^,\[\]]+")

# resolve(value, binding, key, errors): the value with its interpolations resolved
Resolve = Callable[[Any, Mapping[str, Any], str, list[str]], Any]


@dataclasses.dataclass(frozen=True)
class Ref:
    """A reference to a step by its unrolled name.

    `name` is what a scorer is to be called. A `weak` one comes from `*`: it takes what is there and
    needs nothing.
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
        return self.binding if self.round is None else {**self.binding, "round": self.round}

    def items(self) -> Iterator[Any]:
        """Every input, those in lists one by one."""
        for value in self.inputs.values():
            yield from value if isinstance(value, list) else [value]

    def needs(self) -> Iterator[str]:
        """The names of the steps without which this one cannot run: inputs and guards."""
        for item in self.items():
            if isinstance(item, Ref) and not item.weak:
                yield item.step
            yield from (m["step"] for m in models_in(item) if "step" in m and "path" not in m)
        yield from self.guards

    def refs(self) -> Iterator[str]:
        """The names of the steps this one waits for."""
        yield from self.needs()
        yield from (item.step for item in self.items() if isinstance(item, Ref) and item.weak)


def name_of(template: str, number: int | None, values: list[Any]) -> str:
    """The name of an unrolled step: `policy.r2[eng_Latn,100]`."""
    of_round = template if number is None else f"{template}.r{number}"
    return f"{of_round}[{','.join(map(str, values))}]" if values else of_round


def unroll(
    recipe: Mapping, resolve: Resolve, errors: list[str], max_rounds: int = 20
) -> list[Step]:
    """The steps of a recipe without parts, in an order in which they can run.

    Mistakes (unknown steps, a cycle) are appended to `errors`, each with its full key.
    """
    from mlalign.recipes.links import Linker

    count = _count(recipe, resolve, max_rounds, errors)
    steps: dict[str, Step] = {}
    for section, number in _passes(count):
        for name, body in outline.section(recipe, section).items():
            for step in _expanded(name, body, number, resolve, errors):
                steps[step.name] = step

    init = resolve((recipe.get("rounds") or {}).get("init") or {}, {}, "rounds.init", errors)
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
        errors.append(f"rounds.count: {count!r} is not possible; a whole number, 0 or more")
        return 0
    if count > max_rounds:
        errors.append(
            f"rounds.count: {count} rounds, and max_rounds={max_rounds} stops a slip of the pen"
            f" from queueing weeks of work; set max_rounds={count} if you mean it"
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

    passed = body.get("passed") or {}
    for values in combinations:
        binding = dict(zip(lists, values, strict=True))
        scope = {**binding, **of_round}

        def resolved(section: str, scope: dict = scope) -> dict:
            seen = {**scope, **(passed.get("inputs" if section == "inputs" else "config") or {})}
            return resolve(body.get(section) or {}, seen, f"{key}.{section}", errors) or {}

        before = len(errors)
        step = Step(
            name=name_of(template, number, list(values)),
            template=template,
            stage=str(body["stage"]),
            inputs=dict(resolved("inputs")),
            config=dict(resolved("config")),
            resources=dict(resolved("resources")),
            binding=binding,
            round=number,
            inner=bool(body.get("inner")),
        )
        step.unresolved = len(errors) > before
        yield step


def _loops(
    foreach: Mapping, scope: Mapping, key: str, resolve: Resolve, errors: list[str]
) -> dict[str, list] | None:
    """The values of each loop variable; None, with a message, where they cannot be told."""
    lists: dict[str, list] = {}
    before = len(errors)
    resolved = resolve(foreach, scope, key, errors)
    if len(errors) > before:
        return None
    for variable, given in resolved.items():
        values = list(given) if isinstance(given, Mapping) else given
        if not isinstance(values, list):
            errors.append(
                f"{key}.{variable}: expected a list, or a mapping for its keys, got {values!r}"
            )
            return None
        if len(values) > MAX_FOREACH:
            errors.append(
                f"{key}.{variable}: {len(values):,} values, at most {MAX_FOREACH:,}; take fewer, or"
                " several runs"
            )
            return None
        texts = [str(value) for value in values]
        for text in sorted({text for text in texts if texts.count(text) > 1}):
            errors.append(f"{key}.{variable}: duplicate value {text}")
            return None
        for text in texts:
            if not IN_A_NAME.fullmatch(text):
                errors.append(
                    f"{key}.{variable}: {text!r} cannot be part of a step's name; leave out commas"
                    " and brackets"
                )
                return None
        lists[variable] = values
    return lists


def _without_unread(steps: Mapping[str, Step]) -> dict[str, Step]:
    """The steps without those inner steps of parts that no step needs."""
    kept = dict(steps)
    while True:
        needed = {name for step in kept.values() for name in step.needs()}
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
    return [
        item for item in value if not isinstance(item, Ref) or not item.weak or item.step in kept
    ]


def ordered(steps: Mapping[str, Step], errors: list[str]) -> list[Step]:
    """The steps so that each comes after those it waits for."""
    graph = {name: [r for r in step.refs() if r in steps] for name, step in steps.items()}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        errors.append(
            f"steps: a cycle: {' -> '.join(reversed(error.args[1]))}; a step cannot wait for itself"
        )
        return []
    return [steps[name] for name in order]
