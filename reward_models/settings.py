"""Checks a family's settings against its dataclass: names, types and missing ones."""

import dataclasses
import datetime
import types
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlalign.core.errors import nearest

# Settings that change speed, or where something runs or is kept, but no score. A run that ran out
# of memory may resume with others, and a judge's checklists grow while it runs.
NOT_CONTENT = frozenset(
    "device_batch_tokens prefix_reuse checklists concurrency timeout_s max_retries base_url"
    " api_key_env gpu_memory_utilization tensor_parallel_size pipeline_parallel_size max_num_seqs"
    " max_num_batched_tokens".split()
)


def problems(cls: type, values: Mapping, key: str) -> list[str]:
    """Every mistake in `values` for dataclass `cls`, naming the full key and what is nearest to it.

    A class may check more than names and types (scorers inside a scorer, settings that need each
    other) in a static method `problems(values, key) -> list[str]`. It is called when names and
    types are right.
    """
    hints = typing.get_type_hints(cls)
    messages = []
    for name in values:
        if name not in hints:
            messages.append(f"{key}.{name}: unknown key{nearest(name, hints)}")
    for field in dataclasses.fields(cls):
        if _is_required(field) and field.name not in values:
            messages.append(f"{key}.{field.name}: missing")
    for name, value in values.items():
        if name in hints:
            messages += _type_problems(hints[name], value, f"{key}.{name}")

    check_class = getattr(cls, "problems", None)
    if messages or check_class is None:
        return messages
    return check_class(values, key)


def of_scorers(specs: Sequence[Any], key: str) -> list[str]:
    """Every mistake in a list of scorers inside a scorer: their own, and duplicate names."""
    import reward_models

    messages = []
    if not specs:
        messages.append(f"{key}: empty; name at least one scorer")
    names: Counter[str] = Counter()
    for i, spec in enumerate(specs):
        spec_key = f"{key}[{i}]"
        if isinstance(spec, Mapping):
            names[str(name_of(spec))] += 1
            messages += reward_models.problems(spec, spec_key)
        else:
            messages.append(f"{spec_key}: expected a mapping, got {spec!r}")

    for name, n in sorted(names.items()):
        if n > 1:
            messages.append(f"{key}: two are named {name!r}; give one another `name`")
    return messages


def plain(value: Any) -> Any:
    """The content of a YAML file, with dates as text: YAML reads `2024-07-26` as a date."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


def name_of(spec: Mapping) -> str | None:
    """The name of the scorer of a spec: its own, or else its family or function."""
    if "name" in spec:
        return spec["name"]
    family = spec.get("family")
    if isinstance(family, str):
        return family.rpartition(":")[2]
    return family


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _type_problems(hint: Any, value: Any, key: str) -> list[str]:
    if hint is Any:
        return []
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value in choices:
            return []
        return [f"{key}: {value!r} is not possible{nearest(value, choices)}"]

    alternatives = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = [typing.get_origin(alternative) or alternative for alternative in alternatives]
    if float in kinds:
        kinds.append(int)
    # True is an int to Python, but not to a person.
    is_stray_bool = isinstance(value, bool) and bool not in kinds
    if isinstance(value, tuple(kinds)) and not is_stray_bool:
        return []
    expected = " or ".join(kind.__name__ for kind in kinds)
    return [f"{key}: expected {expected}, got {value!r}"]
