"""argv -> composed configuration.

Hydra chooses and reads the files; precedence and checks are ours.

All mistakes are collected and reported together, each with its full key and the nearest valid one.
Nothing heavy is imported.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core import secrecy
from mlalign.core.errors import UserError, nearest
from mlalign.recipes import composition, evaluations, groups, outline, overrides, parts
from mlalign.recipes.command_line import CONTROLS, GROUPS, VALUES, Override, check_hydra, parse
from mlalign.recipes.conf_files import language_sets, options, search_path
from mlalign.recipes.evaluations import Evaluation
from mlalign.recipes.settings import Settings

SHOWN = ("steps", "commands", "sbatch")  # what `show=` takes
MODEL_HINT = "; a directory (./my_model, /models/x) or a hub id (org/name) is possible too"


def load(
    argv: Sequence[str], recipe: Mapping | None = None, composed: dict[tuple, dict] | None = None
) -> Settings:
    """Compose the configuration that `key=value` arguments ask for.

    `recipe` stands in for `recipe=NAME`. Mistakes are left in `errors` of the result, so that the
    planner reports them together with its own.

    `composed` keeps what Hydra composed for each choice of files. The variants of a sweep share it.

    Raises: UserError if nothing can be composed: no recipe, no such folder, unreadable YAML.
    """
    check_hydra()
    errors: list[str] = []
    typed = parse(argv, errors)
    controls = _controls(typed)
    folders = search_path(controls.pop("conf_dir", None), errors)
    choices = _choices(typed, folders, errors, needs_recipe=recipe is None)
    if any(message.startswith(("recipe:", "conf_dir:")) for message in errors):
        raise UserError(*errors)
    _check_shown(controls.get("show"), errors)

    root = _composed(choices, folders, composed)
    _set_params(root, typed)
    content = recipe or root["recipe"] or {}
    tiny = _tiny(content) if choices.get("scale", "tiny") == "tiny" else []
    values = [*tiny, *typed]
    content = _without_parts(content, root, folders, values, errors)

    root = _with_params(root, content)
    settings = Settings(root, content, choices, controls, {}, folders, errors, {})
    overrides.apply(settings, values, errors)
    groups.check(settings.root, settings.folders, errors)
    composition.check_interpolations(settings.root)
    _carry_secrets(settings)
    return settings


def _controls(typed: Sequence[Override]) -> dict[str, Any]:
    """The values that control the command and are no part of the configuration."""
    controls = {}
    for override in typed:
        if override.key[0] in CONTROLS:
            controls[override.key[0]] = override.value
    return controls


def _choices(
    typed: Sequence[Override], folders: list[Path], errors: list[str], *, needs_recipe: bool
) -> dict[str, str]:
    """group -> file name, for the groups that the command line names.

    `model=` takes a directory or hub id too, which becomes `model.path`.
    """
    choices = {}
    for override in typed:
        group = override.key[0]
        if len(override.key) > 1 or group not in GROUPS:
            continue
        name = str(override.value)
        files = options(group, folders)
        if name in files:
            choices[group] = name
        elif group == "model" and _is_model(name):
            choices[group] = "custom"
            override.key.append("path")
            override.value = name
        else:
            hint = nearest(name, files)
            if group == "model":
                hint += MODEL_HINT
            errors.append(f"{group}: there is no {group} {name!r}{hint}")

    is_reported = any(message.startswith("recipe:") for message in errors)
    if needs_recipe and "recipe" not in choices and not is_reported:
        hint = nearest("", options("recipe", folders))
        errors.append(f"recipe: missing; say recipe=NAME{hint}")
    return choices


def _is_model(name: str) -> bool:
    return "/" in name or name.startswith((".", "~")) or os.path.isdir(name)


def _check_shown(shown: Any, errors: list[str]) -> None:
    if shown is not None and shown not in SHOWN:
        errors.append(f"show: {shown!r} cannot be shown{nearest(str(shown), SHOWN)}")


def _composed(
    choices: Mapping[str, str], folders: list[Path], composed: dict[tuple, dict] | None
) -> dict[str, Any]:
    """The content of the chosen files; `composed` has that of other choices, and gets this one."""
    cache = {} if composed is None else composed
    key = tuple(sorted(choices.items()))
    if key not in cache:
        cache[key] = composition.compose(choices, folders)
    return copy.deepcopy(cache[key])


def _tiny(recipe: Any) -> list[Override]:
    """What a recipe changes at scale=tiny, as if it were typed before everything else."""
    tiny = recipe.get("tiny") if isinstance(recipe, Mapping) else None
    if not isinstance(tiny, Mapping):
        return []  # what is wrong with it is reported with the rest of the outline
    overridden = []
    for key, value in tiny.items():
        overridden.append(Override(f"tiny: {key}={value}", str(key).split("."), value))
    return overridden


def _without_parts(
    recipe: Any,
    root: Mapping,
    folders: list[Path],
    values: Sequence[Override],
    errors: list[str],
) -> dict[str, Any]:
    """The recipe with its parts expanded.

    Parameters of parts that the recipe leaves open become its own: the command line, the chosen
    model and the data may set them by name.

    Raises: UserError with every mistake in the outline of recipe and parts.
    """
    n_before = len(errors)
    outline.check(recipe, errors)
    if len(errors) > n_before:
        raise UserError(*errors)

    own = recipe.get("params") or {}
    defaults = _replaced_params(root)
    for override in values:
        is_param = len(override.key) == 2 and override.key[0] == "params"
        name = override.key[-1]
        if (len(override.key) == 1 or is_param) and name not in own:
            defaults[name] = override.value
    library = parts.Library(options("part", folders), (*GROUPS, *VALUES), defaults, errors)
    library.evaluations = _evaluations(recipe, folders, values, errors)
    if len(errors) > n_before:
        raise UserError(*errors)

    expanded = parts.expand(recipe, library)
    if len(errors) > n_before:
        raise UserError(*errors)
    return {**expanded, "params": {**library.left, **own}}


def _evaluations(
    recipe: Mapping, folders: list[Path], values: Sequence[Override], errors: list[str]
) -> list[Evaluation]:
    """What the policies in the recipe's sections `measure` are measured on.

    The command line has the last word, then the recipe; by default it is the data's held-out rows.
    """
    names = recipe.get("evaluation") or evaluations.DEFAULT
    languages = None
    changes: list[tuple[list[str], Any]] = []
    for override in values:
        if override.key == ["languages"]:
            languages = override.value
        elif override.key == ["evaluation"]:
            names = override.value
        elif override.key[0] == "evaluation":
            changes.append((override.key[1:], override.value))

    rounds = recipe.get("rounds") or {}
    if "measure" not in recipe and "measure" not in rounds:
        if changes or names != evaluations.DEFAULT:
            mend = "run recipe=evaluate model=PATH, or give the recipe a section `measure`"
            errors.append(
                "evaluation: the recipe has no section `measure`, so there are no policies to"
                f" evaluate; {mend}"
            )
        return []
    request = evaluations.Request(names, changes, languages)
    files = options("evaluation", folders)
    return evaluations.chosen(request, files, language_sets(folders), errors)


def _set_params(root: dict, typed: Sequence[Override]) -> None:
    """Set `model.params.NAME` and `data.params.NAME`, before recipe and parts read them."""
    for override in typed:
        group, *path = override.key
        if group in ("data", "model") and len(path) == 2 and path[0] == "params":
            root[group].setdefault("params", {})[path[1]] = override.value


def _with_params(root: dict, recipe: Mapping) -> dict[str, Any]:
    """The groups and values, and beside them the recipe's `params`.

    Data and model may replace what the recipe has.
    """
    params = dict(recipe.get("params") or {})
    for name, value in _replaced_params(root).items():
        if name in params:
            params[name] = value
    groups_and_values = {name: value for name, value in root.items() if name != "recipe"}
    return {**groups_and_values, "params": params}


def _replaced_params(root: Mapping) -> dict[str, Any]:
    """The parameters that the chosen data and model set; the model has the last word."""
    of_data = root["data"].get("params") or {}
    of_model = root["model"].get("params") or {}
    return {**of_data, **of_model}


def _carry_secrets(settings: Settings) -> None:
    """Move secrets that were typed out of everything that will be written; see `core/secrecy`."""
    for name, value in settings.root.items():
        if name != "launcher":
            settings.root[name] = secrecy.carry(value, name)
    settings.recipe = secrecy.carry(settings.recipe)
    settings.typed = secrecy.carry(settings.typed)
