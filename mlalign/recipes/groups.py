"""What the files of each group may say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign import stages
from mlalign.core import secrecy
from mlalign.core.errors import nearest
from mlalign.recipes import device, launchers
from mlalign.recipes.conf_files import options

# `params` of a model or a data set replace the recipe's parameters of the same name. A data file
# also has roles: any name, with a list of sources.
GROUP_KEYS = {
    "model": ("path", "revision", "chat_template", "date", "params", "stages"),
    "data": ("root", "languages", "params"),
    "scale": ("stages", "resources", "engine_args", "device"),
    "engine": (
        "name",
        "args",
        "dtype",
        "batch_tokens",
        "served_model",
        "base_url",
        "api_key_env",
        "concurrency",
        "timeout_s",
        "max_retries",
    ),
}
# Sections whose keys are names of stages.
BY_STAGE = (
    ("scale", "stages"),
    ("scale", "resources"),
    ("model", "stages"),
    ("launcher", "resources"),
)


def check(root: Mapping[str, Any], folders: Sequence[Path], errors: list[str]) -> None:
    """Append what is wrong with the groups of a configuration, each mistake with its key."""
    for group in GROUP_KEYS:
        _check_keys(group, root[group] or {}, errors)
    device.of_scale(root["scale"].get("device"), errors)
    launchers.build(root["launcher"], errors)
    _check_environment(root["launcher"], errors)

    for group, section in BY_STAGE:
        _check_names(root, group, section, stages.names(), errors)
    _check_names(root, "scale", "engine_args", list(options("engine", folders)), errors)


def roles(data: Mapping[str, Any]) -> list[str]:
    """The roles of a data set: keys with sources, such as `prompts`."""
    return [name for name in data if name not in GROUP_KEYS["data"]]


def _check_keys(group: str, content: Mapping[str, Any], errors: list[str]) -> None:
    allowed = GROUP_KEYS[group]
    for key, value in content.items():
        is_role = group == "data" and (value is None or isinstance(value, list))
        if key not in allowed and not is_role:
            errors.append(f"{group}.{key}: unknown key{nearest(key, allowed)}")


def _check_environment(launcher: Mapping[str, Any], errors: list[str]) -> None:
    for name in launcher.get("environment") or {}:
        if secrecy.VARIABLE.search(str(name)):
            mend = "leave it out and export it in the shell that submits: Slurm passes that on"
            errors.append(
                f"launcher.environment.{name}: everybody could read it in the script of every job;"
                f" {mend}"
            )


def _check_names(
    root: Mapping[str, Any], group: str, section: str, allowed: Sequence[str], errors: list[str]
) -> None:
    for name in root[group].get(section) or {}:
        if name not in allowed:
            errors.append(f"{group}.{section}.{name}: unknown{nearest(name, allowed)}")
