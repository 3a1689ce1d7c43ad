"""Writing what a caller gave into the steps of a part."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from mlalign.core.errors import UserError

# `${name}` or `${name.key.key}`.
REFERENCE = re.compile(r"\$\{(\w+)((?:\.\w+)*)\}")

Form = Literal["in_config", "in_inputs"]


@dataclasses.dataclass(frozen=True)
class Value:
    """What the caller gave for a parameter.

    The two forms differ within parts. A text in `inputs` that names one of the part's own steps has
    to be replaced by the name that the step gets in the recipe. In `config` it is just a text.
    """

    in_config: Any
    in_inputs: Any


def renamed(value: Any, rename: Callable[[str], str]) -> Any:
    """An input with `rename` applied to every text that names a step."""
    if isinstance(value, str):
        return rename(value)
    if isinstance(value, list):
        return [renamed(item, rename) for item in value]
    if not isinstance(value, Mapping):
        return value
    is_model_or_scorer = value.keys() & {"family", "path", "step"}
    if is_model_or_scorer:
        return _renamed_models(value, rename)
    return {name: renamed(item, rename) for name, item in value.items()}  # inputs by name


def _renamed_models(value: Any, rename: Callable[[str], str]) -> Any:
    """Settings of a scorer: in them only `{step: NAME}` names steps, at any depth."""
    if isinstance(value, list):
        return [_renamed_models(item, rename) for item in value]
    if not isinstance(value, Mapping):
        return value
    settings = {}
    for key, inner in value.items():
        is_name = key == "step" and isinstance(inner, str)
        settings[key] = rename(inner) if is_name else _renamed_models(inner, rename)
    return settings


def filled(value: Any, takes: Mapping[str, Value], form: Form) -> Any:
    """A value with `${name}` replaced by what was given for it.

    A list or a mapping may be given where `${name}` is the whole text. A text that contains it
    beside other words becomes null if null is given.
    """
    if isinstance(value, Mapping):
        return {key: filled(inner, takes, form) for key, inner in value.items()}
    if isinstance(value, list):
        return _filled_list(value, takes, form)
    return _filled_text(value, takes, form) if isinstance(value, str) else value


def _filled_list(values: list, takes: Mapping[str, Value], form: Form) -> list:
    items: list[Any] = []
    for value in values:
        item = filled(value, takes, form)
        # A list given for one element stands for its elements.
        if isinstance(value, str) and isinstance(item, list):
            items += item
        else:
            items.append(item)
    return items


def _filled_text(text: str, takes: Mapping[str, Value], form: Form) -> Any:
    whole = REFERENCE.fullmatch(text)
    if whole and whole[1] in takes:
        return _within(getattr(takes[whole[1]], form), whole[2])

    replacements: dict[str, Any] = {}
    for match in REFERENCE.finditer(text):
        if match[1] in takes:
            replacements[match[0]] = _within(getattr(takes[match[1]], form), match[2])
    if None in replacements.values():
        return None
    for reference, replacement in replacements.items():
        text = text.replace(reference, str(replacement))
    return text


def _within(value: Any, path: str) -> Any:
    """What `.key.key` leads to in a value; of an interpolation, `${name.key.key}`."""
    for key in path.split(".")[1:]:
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, str) and value.startswith("${") and value.endswith("}"):
            value = f"{value[:-1]}.{key}}}"
        else:
            raise UserError(f"${{…{path}}}: there is no {key!r} in {value!r}")
    return value
