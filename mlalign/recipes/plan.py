"""The plan: a recipe resolved, checked and unrolled into steps with fingerprints.

Nothing heavy is imported.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlalign.core import identity, store
from mlalign.core.digests import of_store
from mlalign.core.errors import UserError
from mlalign.recipes import adapters, selection
from mlalign.recipes.graph import Resolve, Step, unroll
from mlalign.recipes.mistakes import without_repetitions
from mlalign.recipes.node import Node
from mlalign.recipes.planning import Planner
from mlalign.recipes.settings import Settings, normalise_languages, resolve_languages

LONGEST_NAME = 200  # characters of a run's name


@dataclasses.dataclass
class Variant:
    """One variant of a sweep.

    `values` are its settings by swept key, `overrides` the arguments that give them, and `steps`
    maps its steps to their names in the united plan. A trial of a search also has its number. It
    has a state and a reason where its steps cannot tell them: pruned or failed, and why.
    """

    label: str
    values: dict[str, Any]
    overrides: list[str]
    steps: dict[str, str]
    trial: int | None = None
    state: str = ""
    why: str = ""


@dataclasses.dataclass
class Plan:
    """All steps of a run in an order in which they can run.

    Of a sweep, those of all variants, each artifact once.
    """

    name: str
    recipe: str
    settings: Settings
    root: Path
    nodes: list[Node]
    kind: str = "run"  # run, sweep or search
    variants: list[Variant] = dataclasses.field(default_factory=list)
    # Why fingerprints are not final: such a plan can be looked at, but not run.
    unknown: list[str] = dataclasses.field(default_factory=list)
    # Steps that equal an earlier one, with its name.
    same: list[tuple[Step, str]] = dataclasses.field(default_factory=list)

    @property
    def store(self) -> store.Store:
        return store.Store(self.root / "store")

    @property
    def run_dir(self) -> Path:
        return self.root / "runs" / self.name

    def check_name(self) -> None:
        """Raises: UserError if the run's directory is another recipe's or of another kind."""
        if not (self.run_dir / "plan.json").is_file():
            return
        earlier = store.read_json(self.run_dir / "plan.json", {"recipe": str})
        recipe = earlier["recipe"]
        if recipe != self.recipe:
            raise UserError(
                f"name: {self.run_dir} belongs to recipe {recipe!r}, not {self.recipe!r}; give this"
                " run another name="
            )
        kind = earlier.get("kind", "run")
        if kind != self.kind:
            raise UserError(
                f"name: {self.run_dir} belongs to a {kind}, and this is a {self.kind}; give it"
                " another name="
            )

    @property
    def names(self) -> dict[str, str]:
        """Artifact -> the name of its step; in a sweep this differs from `Node.sources()`."""
        return {node.artifact: node.name for node in self.nodes}

    def provisional(self) -> set[str]:
        """The artifacts whose fingerprint is not final: a model before them has no known commit."""
        artifacts: set[str] = set()
        for node in self.nodes:
            reads_unknown = any(_is_unknown(value) for value in node.inputs.values())
            reads_provisional = any(source["artifact"] in artifacts for source in node.sources())
            if reads_unknown or reads_provisional:
                artifacts.add(node.artifact)
        return artifacts

    def problems(self) -> list[str]:
        """What keeps a correct plan from running here and now."""
        messages: set[str] = set()
        for node in self.nodes:
            messages.update(node.missing)
        return sorted(messages)


def _is_unknown(value: Any) -> bool:
    """Whether an input, or a model in its settings, is a hub id without a known commit."""
    if isinstance(value, Mapping):
        return any(_is_unknown(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_is_unknown(item) for item in value)
    return isinstance(value, str) and value.endswith(f"@{identity.UNKNOWN}")


def build(settings: Settings, *, to_look_at: bool = False) -> Plan:
    """Plan a composed configuration.

    A plan `to_look_at` may have hub ids whose commit is not known; such a plan cannot run.

    Raises: UserError with every mistake in languages, recipe, step configurations and inputs.
    """
    errors = list(settings.errors)
    normalise_languages(settings, errors)
    max_rounds = _max_rounds(settings, errors)
    steps = unroll(settings.recipe, _resolver(settings), errors, max_rounds)
    selection.check(settings, steps, errors)
    steps = selection.stand_in(steps, settings.use)

    root = Path(str(settings.root["root"])).expanduser().absolute()
    digests = of_store(root / "store")
    planner = Planner(settings, digests, errors, to_look_at=to_look_at)
    for step in steps:
        planner.add(step)
    errors += adapters.problems(planner.nodes)
    if errors:
        raise UserError(*without_repetitions(errors))

    digests.save()
    recipe = settings.choices.get("recipe") or steps[0].stage
    return Plan(
        name=_run_name(settings.root["name"] or recipe),
        recipe=recipe,
        settings=settings,
        root=root,
        nodes=list(planner.by_artifact.values()),
        unknown=planner.inputs.unknown,
        same=planner.same,
    )


def _max_rounds(settings: Settings, errors: list[str]) -> int:
    value = settings.root["max_rounds"]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        errors.append(f"max_rounds: expected a whole number from 1, got {value!r}")
        return 1
    return value


def _resolver(settings: Settings) -> Resolve:
    """`Settings.resolve`, which also makes the languages of a `foreach` over `lang` canonical."""

    def resolve(value: Any, binding: Mapping[str, Any], key: str, errors: list[str]) -> Any:
        resolved = settings.resolve(value, binding, key, errors)
        if not key.endswith(".foreach") or not isinstance(resolved, Mapping):
            return resolved
        typed_languages = resolved.get("lang")
        if not isinstance(typed_languages, list):
            return resolved
        codes = resolve_languages(typed_languages, settings, f"{key}.lang", errors)
        return {**resolved, "lang": codes or []}

    return resolve


def _run_name(name: Any) -> str:
    """The name of a run, which is that of its directory. Raises: UserError if it cannot be."""
    name = str(name)
    is_folder = name in (".", "..") or any(char in name for char in "/\\\n\r\0")
    if is_folder or not name.strip() or len(name) > LONGEST_NAME:
        raise UserError(
            f"name: {name!r} cannot be a directory's name; leave out slashes and line ends"
        )
    return name
