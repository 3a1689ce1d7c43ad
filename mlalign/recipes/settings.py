"""A composed configuration, and what the interpolations in it stand for."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mlalign.core import languages
from mlalign.core.errors import UserError, nearest
from mlalign.recipes import conf_files
from mlalign.recipes.composition import INTERPOLATION, resolved_key
from mlalign.recipes.groups import roles

# OmegaConf takes keys of mappings alone from an inner interpolation.
LIST_BY_ROUND = re.compile(r"\$\{([\w.]+)\.\$\{round\}\}")


@dataclasses.dataclass
class Settings:
    """A composed configuration, with what the command line asked for."""

    root: dict[str, Any]  # groups and values, interpolations unresolved
    recipe: dict[str, Any]
    choices: dict[str, str]  # group -> the file chosen for it
    controls: dict[str, Any]
    use: dict[str, str]  # step -> the path that stands in for it
    folders: list[Path]
    errors: list[str]
    typed: dict[str, Any]  # values of the command line that go into the steps' configurations

    @property
    def about(self) -> str:
        """The comment at the head of the recipe's file, "" where there is no file.

        It gives the title, paper, question, command and so on.
        """
        if "recipe" not in self.choices:
            return ""
        file = conf_files.options("recipe", self.folders)[self.choices["recipe"]]
        lines = file.read_text(encoding="utf-8").splitlines()
        return "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))

    @cached_property
    def language_sets(self) -> dict[str, list[str]]:
        return conf_files.language_sets(self.folders)

    @cached_property
    def _tree(self) -> Any:
        from omegaconf import OmegaConf

        return OmegaConf.create(self.root, flags={"allow_objects": True})

    def resolve(self, value: Any, binding: Mapping[str, Any], key: str, errors: list[str]) -> Any:
        """A piece of configuration with its interpolations resolved.

        They may refer to groups, values, `params`, and to the names in `binding` (loop variables).
        What cannot be resolved becomes None, with a message in `errors`.
        """
        if isinstance(value, Mapping):
            resolved = {}
            for name, inner in value.items():
                inner_key = f"{key}.{name}" if key else str(name)
                resolved[name] = self.resolve(inner, binding, inner_key, errors)
            return resolved
        if isinstance(value, list):
            items = enumerate(value)
            return [self.resolve(item, binding, f"{key}[{i}]", errors) for i, item in items]
        if not isinstance(value, str) or "${" not in value:
            return value
        return self._interpolate(value, binding, key, errors)

    def _interpolate(
        self, text: str, binding: Mapping[str, Any], key: str, errors: list[str]
    ) -> Any:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        # OmegaConf resolves a text only within a tree, so it stands there for a moment.
        added = {**binding, "__value__": text}
        tree = self._tree
        for name, value in added.items():
            tree[name] = value
        token = resolved_key.set(key)
        try:
            resolved = tree["__value__"]
            if OmegaConf.is_config(resolved):
                return OmegaConf.to_container(resolved, resolve=True, throw_on_missing=True)
            return resolved
        except OmegaConfBaseException as error:
            reason = self._missing_role(text) or _list_by_round(text)
            if reason is None:
                reason = f"cannot be resolved ({str(error).splitlines()[0]})"
            errors.append(f"{key}: {text} {reason}")
            return None
        finally:
            resolved_key.reset(token)
            for name in added:
                del tree[name]

    def _missing_role(self, text: str) -> str | None:
        """Why `${data.ROLE}` means nothing, if that is what is wrong."""
        data = self.root["data"]
        for name in INTERPOLATION.findall(text):
            group, _, role = name.partition(".")
            if group == "data" and role and role not in data:
                chosen = self.choices.get("data", "tiny_world")
                hint = nearest(role, roles(data))
                return f"means nothing: data={chosen} has no role {role!r}{hint}"
        return None


def _list_by_round(text: str) -> str | None:
    """What is wrong with `${params.betas.${round}}`."""
    match = LIST_BY_ROUND.search(text)
    if match is None:
        return None
    whole_list = f"${{{match[1]}}}"
    return f"takes no element of a list; write ${{of_round:{whole_list}}} for the one of this round"


def normalise_languages(settings: Settings, errors: list[str]) -> None:
    """Make `languages` of the settings canonical: those asked for, else those of the data."""
    root = settings.root
    value = root["languages"]
    if value is None:
        value = settings.resolve(root["data"].get("languages"), {}, "data.languages", errors)
    root["languages"] = resolve_languages(value, settings, "languages", errors)


def resolve_languages(
    value: Any, settings: Settings, key: str, errors: list[str]
) -> list[str] | None:
    """Canonical codes for what a person wrote under `key`; None, with messages, if it is wrong."""
    if value is None:
        return None
    try:
        return languages.resolve(value, settings.language_sets)
    except UserError as error:
        errors.extend(f"{key}: {message}" for message in error.messages)
        return None
