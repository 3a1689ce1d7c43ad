"""What a recipe may say, before anything in it is resolved: sections, keys and names.

params:  {beta: 0.1}                                    values that the command line may set
steps:   {NAME: {stage, inputs, config, resources, foreach}}
         {NAME: {part, with, foreach}}
measure: {policies: [STEP, {path, name}], reward_models: […], …}
evaluation: [NAME]                                      what `measure` does, by default held_out
rounds:  {count, init: {NAME: STEP}, guards: [STEP], steps: {…}, measure: {…}}
finally: {NAME: …}                                      sees the last round
tiny:    {KEY: VALUE}                                   overrides at scale=tiny
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlalign.core.errors import nearest

STAGE_KEYS = ("stage", "inputs", "config", "resources", "foreach")
PART_KEYS = ("part", "with", "foreach")
RECIPE_KEYS = ("params", "steps", "measure", "evaluation", "rounds", "finally", "tiny")
ROUND_KEYS = ("count", "init", "guards", "steps", "measure")
RESERVED_STEPS = ("previous", "initial")
RESERVED_INNER = ("config", "inputs", "resources")
NAME = re.compile(r"\w+")
INNER_ROUND = re.compile(r"r\d+")

# Where the steps of a recipe stand.
SECTIONS = ("steps", "rounds.steps", "finally")


def section(recipe: Mapping, name: str) -> Any:
    """The section `steps`, `rounds.steps` or `finally`; an empty mapping if the recipe has none."""
    place: Any = recipe
    for key in name.split("."):
        place = place.get(key) or {}
    return place


def templates(recipe: Mapping) -> dict[str, dict]:
    """Every step of a recipe as it is written, by name."""
    steps: dict[str, dict] = {}
    for name in SECTIONS:
        steps |= section(recipe, name)
    return steps


def check(recipe: Any, errors: list[str]) -> None:
    """Append what is wrong with a recipe's outline, each mistake with its key."""
    if not isinstance(recipe, Mapping):
        errors.append(f"recipe: expected a mapping with `steps`, got {recipe!r}")
        return
    if not _are_mappings(recipe, errors):
        return

    rounds = recipe.get("rounds") or {}
    check_keys(recipe, RECIPE_KEYS, "", errors)
    check_keys(rounds, ROUND_KEYS, "rounds.", errors)
    if rounds and not rounds.get("steps"):
        errors.append("rounds.steps: missing; name the steps of a round")

    steps: list[tuple[Any, Any]] = []
    for name in SECTIONS:
        steps += section(recipe, name).items()
    if not steps:
        errors.append("steps: the recipe has no steps")
    counts = Counter(str(name) for name, _ in steps)
    for name in sorted(counts):
        if counts[name] > 1:
            errors.append(f"steps.{name}: two steps have this name; rename one")
    for step_name, body in steps:
        _check_step(step_name, body, errors)


def check_keys(mapping: Mapping, allowed: Iterable[str], prefix: str, errors: list[str]) -> None:
    """Append a message for each key that is not allowed."""
    for key in mapping:
        if key not in allowed:
            errors.append(f"{prefix}{key}: unknown key{nearest(key, allowed)}")


def _are_mappings(recipe: Mapping, errors: list[str]) -> bool:
    """Whether every section that must be a mapping is one."""
    are_mappings = True
    for name, value in _sections(recipe):
        if not isinstance(value, Mapping):
            errors.append(f"{name}: expected a mapping, got {value!r}")
            are_mappings = False
    return are_mappings


def _sections(recipe: Mapping) -> Iterator[tuple[str, Any]]:
    """The sections that are given, each with its key."""
    for name in ("params", "steps", "measure", "rounds", "finally", "tiny"):
        if recipe.get(name) is not None:
            yield name, recipe[name]
    rounds = recipe.get("rounds")
    if not isinstance(rounds, Mapping):
        return
    for name in ("init", "steps", "measure"):
        if rounds.get(name) is not None:
            yield f"rounds.{name}", rounds[name]


def _check_step(name: Any, body: Any, errors: list[str]) -> None:
    key = f"steps.{name}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        errors.append(
            f"{key}: a step's name is text made of letters, digits and underscores (YAML reads a"
            " bare `no` as false: quote it)"
        )
    elif name in RESERVED_STEPS:
        errors.append(f"{key}: {name!r} means another round; give the step another name")

    if not isinstance(body, Mapping):
        errors.append(f"{key}: expected a mapping with a `stage` or a `part`, got {body!r}")
        return
    if "part" in body and "stage" not in body:
        check_keys(body, PART_KEYS, f"{key}.", errors)
    else:
        check_keys(body, STAGE_KEYS, f"{key}.", errors)
        if "stage" not in body:
            errors.append(f"{key}.stage: missing; name the stage, or the part, that does this step")
    for setting, value in body.items():
        if setting in ("stage", "part"):
            _check_name(f"{key}.{setting}", setting, value, errors)
        elif setting in (*STAGE_KEYS, *PART_KEYS):
            _check_mapping(f"{key}.{setting}", setting, value, errors)


def _check_name(key: str, kind: str, value: Any, errors: list[str]) -> None:
    """Check the name of a stage or a part."""
    if not isinstance(value, str) or "${" in value:
        errors.append(
            f"{key}: the name of a {kind}, got {value!r}; it cannot depend on a parameter"
        )


def _check_mapping(key: str, setting: str, value: Any, errors: list[str]) -> None:
    if value is None or isinstance(value, Mapping):
        return
    if setting == "config" and isinstance(value, str) and "${" in value:
        return  # a mapping once it is resolved
    errors.append(f"{key}: expected a mapping, got {value!r}")


def texts(value: Any) -> Iterator[str]:
    """Every text in a piece of a recipe, at any depth."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value
