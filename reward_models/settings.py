"""Checks a family's settings against its dataclass: names, types, what is missing."""

import dataclasses
import datetime
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlalign.core.errors import nearest

# Settings that change speed, or where something runs or is kept, but no score: a run that was
# killed for want of memory goes on with others, and a judge's checklists grow while it runs.
NOT_CONTENT = frozenset(
    "device_batch_tokens prefix_reuse checklists concurrency timeout_s max_retries base_url"
    " api_key_env gpu_memory_utilization tensor_parallel_size pipeline_parallel_size max_num_seqs"
    " max_num_batched_tokens".split()
)


def problems(cls: type, values: Mapping, key: str) -> list[str]:
    """Every mistake in `values` for dataclass `cls`, each naming the full key and the nearest valid
    one or value.

    What names and types do not say (scorers inside a scorer, settings that need each other) the
    class itself may check, in a static method `problems(values, key) -> list[str]`; it is asked
    when names and types are right.
    """
    hints = typing.get_type_hints(cls)
    found = [
        f"{key}.{name}: unknown key{nearest(name, hints)}" for name in values if name not in hints
    ]
    found += [
        f"{key}.{f.name}: missing"
        for f in dataclasses.fields(cls)
        if _required(f) and f.name not in values
    ]
    found += [
        p
        for name, value in values.items()
        if name in hints
        for p in _wrong(hints[name], value, f"{key}.{name}")
    ]
    own = getattr(cls, "problems", None)
    return found or (own(values, key) if own else [])


def of_scorers(told: Sequence[Any], key: str) -> list[str]:
    """Every mistake in a list of scorers inside a scorer: their own, and names that two of them
    share.
    """
    import reward_models

    names = [name_of(t) for t in told if isinstance(t, Mapping)]
    found = [] if told else [f"{key}: empty; name at least one scorer"]
    for i, inner in enumerate(told):
        here = f"{key}[{i}]"
        found += (
            reward_models.problems(inner, here)
            if isinstance(inner, Mapping)
            else [f"{here}: expected a mapping, got {inner!r}"]
        )
    return found + [
        f"{key}: two are named {n!r}; give one another `name`"
        for n in sorted({str(n) for n in names if names.count(n) > 1})
    ]


def plain(value: Any) -> Any:
    """What a YAML file says, with dates as the text that stands there: YAML reads `2024-07-26` as a
    value of its own kind.
    """
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value.isoformat() if isinstance(value, datetime.date) else value


def name_of(told: Mapping) -> str | None:
    """The name of a scorer that is described by its settings: its own, else its family or function."""
    family = told.get("family")
    return told.get("name", family.rpartition(":")[2] if isinstance(family, str) else family)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _wrong(hint: Any, value: Any, key: str) -> list[str]:
    if hint is Any:
        return []
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return (
            []
            if value in choices
            else [f"{key}: {value!r} is not possible{nearest(value, choices)}"]
        )
    kinds = tuple(
        typing.get_origin(h) or h
        for h in (typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,))
    )
    kinds += (int,) if float in kinds else ()
    if isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds):
        return []
    return [f"{key}: expected {' or '.join(k.__name__ for k in kinds)}, got {value!r}"]
