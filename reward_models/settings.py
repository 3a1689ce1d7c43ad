"""Checks a family's settings against its dataclass: names, types, what is missing."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from mlalign.errors import nearest


def problems(cls: type, values: Mapping, key: str) -> list[str]:
    """Every mistake in `values` for dataclass `cls`, each naming the full key and the nearest valid one or value."""
    hints = typing.get_type_hints(cls)
    found = [f"{key}.{name}: unknown key{nearest(name, hints)}" for name in values if name not in hints]
    found += [f"{key}.{f.name}: missing" for f in dataclasses.fields(cls) if _required(f) and f.name not in values]
    return found + [p for name, value in values.items() if name in hints for p in _wrong(hints[name], value, f"{key}.{name}")]


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _wrong(hint: Any, value: Any, key: str) -> list[str]:
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return [] if value in choices else [f"{key}: {value!r} is not possible{nearest(value, choices)}"]
    kinds = tuple(typing.get_origin(h) or h for h in (typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)))
    kinds += (int,) if float in kinds else ()
    if isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds):
        return []
    return [f"{key}: expected {' or '.join(k.__name__ for k in kinds)}, got {value!r}"]
