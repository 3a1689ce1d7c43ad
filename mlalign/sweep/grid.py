"""argv -> the variants that a person asked for: Hydra's sweep grammar, presets (`conf/sweep/NAME.yaml`) and the options of a sweep.

A preset has `grid` (key -> values, as on the command line), and may have `sets` (for a key of its own: what its values stand for, either
one list of arguments with `{value}` in them, or a list for each value), `metric`, and `search` (options of a search).
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError, nearest
from mlalign.recipes import config

FLAGS = ("-m", "--multirun")
OPTIONS = ("sweep", "metric", "direction", "search.trials", "search.seed", "search.pruner", "search.parallel")
PRESET_KEYS = ("grid", "sets", "metric", "direction", "search")
OF_ALL = ("name", "root", "conf_dir", "launcher", *config.STEP_LISTS)  # one value for the whole sweep
MAX_VARIANTS = 1000


@dataclasses.dataclass(frozen=True)
class Value:
    """One value of a swept key: what tables show, and the arguments that set it."""

    shown: Any
    overrides: tuple[str, ...]


@dataclasses.dataclass
class Axis:
    """A swept key: its values, or, in a search, the `space` that they come from (Hydra's own `Override`)."""

    key: str
    values: list[Value]
    space: Any = None
    sets: Any = None

    def value(self, shown: float) -> Value:
        """A number out of the space as a value."""
        return _value(self.key, shown, repr(shown), self.sets, [])


@dataclasses.dataclass
class Asked:
    """What a person asked for: arguments that all variants share, the swept keys, and the options of the sweep."""

    shared: list[str]
    axes: list[Axis]
    options: dict[str, Any]
    preset: str | None = None

    @property
    def searches(self) -> bool:
        return any(option.startswith("search.") for option in self.options)


def wanted(argv: Sequence[str]) -> bool:
    """Whether the arguments ask for a sweep or a search."""
    return any(a in FLAGS or a.startswith(("sweep=", "search.")) for a in argv)


def read(argv: Sequence[str], recipe: Mapping | None = None) -> Asked:
    """The sweep in the arguments of `run` and `plan`; `recipe` stands in for `recipe=NAME`.

    Raises: UserError with every mistake: grammar, unknown options and presets, values given twice, ranges that only a search can take.
    """
    errors: list[str] = []
    given: dict[str, Any] = dict(a.split("=", 1) for a in argv if "=" in a and _is_option(a))
    rest = [a for a in argv if a not in FLAGS and not _is_option(a)]
    folders = config.search_path(_of("conf_dir", rest), errors)
    asked = Asked([], [], {}, given.pop("sweep", None))
    preset = _preset(asked.preset, folders, errors) if asked.preset else {}
    options: dict[str, Any] = {**{k: preset[k] for k in ("metric", "direction") if k in preset}, **_flat_search(preset), **given}
    asked.options = {k: _option(k, v, errors) for k, v in options.items()}
    texts = {k: f"{k}={_resolved(k, v, rest, recipe)}" for k, v in (preset.get("grid") or {}).items() if _of(k, rest) is None}
    for argument in rest:  # of two with one key the later counts, in its own place
        key = argument.partition("=")[0]
        texts.pop(key, None)
        texts[key] = argument
    for key, text in texts.items():
        axis = _axis(key, text, asked, preset, folders, errors)
        if axis is None:
            asked.shared.append(text)
        else:
            asked.axes.append(axis)
    _check(asked, errors)
    if errors:
        raise UserError(*dict.fromkeys(errors))
    return asked


def combinations(axes: Sequence[Axis]) -> Iterator[list[tuple[str, Value]]]:
    """Every combination of the values, the last key changing fastest."""
    yield from ([*zip((a.key for a in axes), values, strict=True)] for values in itertools.product(*(a.values for a in axes)))


def _is_option(argument: str) -> bool:
    head = argument.partition("=")[0]
    return head in OPTIONS or head.startswith("search.")


def _of(key: str, argv: Sequence[str]) -> str | None:
    return next((a.partition("=")[2] for a in reversed(argv) if a.startswith(f"{key}=")), None)


# ------------------------------------------------------------------------------------------------------------------- presets


def _preset(name: str, folders: list[Path], errors: list[str]) -> dict[str, Any]:
    from mlalign.core import yaml_files

    known = config.options("sweep", folders)
    if name not in known:
        errors.append(f"sweep: there is no sweep {name!r}{nearest(name, known)}")
        return {}
    try:
        body = yaml_files.read(known[name])
    except UserError as error:
        errors.append(f"sweep: {error}")
        return {}
    if not isinstance(body, Mapping) or not isinstance(body.get("grid"), Mapping):
        errors.append(f"sweep: {known[name]} needs a mapping `grid` of keys and their values")
        return {}
    errors.extend(f"sweep: {known[name]}: unknown key {key!r}{nearest(key, PRESET_KEYS)}" for key in body if key not in PRESET_KEYS)
    return dict(body)


def _resolved(key: str, value: Any, argv: Sequence[str], recipe: Mapping | None) -> Any:
    """The values of a key in a preset; `${languages}` stands for those of this command.

    Raises: UserError with what is wrong with this command without the sweep.
    """
    if "${" not in str(value):
        return value
    from mlalign.recipes import plan

    settings = config.load(argv, recipe)
    errors = list(settings.errors)
    plan.normalise_languages(settings, errors)
    found = settings.resolve(value, {}, f"sweep: {key}", errors)
    if errors or not found:
        raise UserError(*(errors or [f"{key}: {value} gives no values; name them, {key}=a,b"]))
    return ",".join(map(str, found)) if isinstance(found, list) else found


def _flat_search(preset: Mapping) -> dict[str, Any]:
    return {f"search.{k}": v for k, v in (preset.get("search") or {}).items()}


def _option(key: str, value: Any, errors: list[str]) -> Any:
    """The value of an option of the sweep, checked."""
    if key not in OPTIONS:
        errors.append(f"{key}: unknown key{nearest(key, OPTIONS)}")
    elif key in ("search.trials", "search.parallel", "search.seed"):
        least = 0 if key == "search.seed" else 1
        if not re.fullmatch(r"[0-9]{1,6}", str(value)) or int(value) < least:
            errors.append(f"{key}: expected a whole number from {least}, got {value!r}")
            return least
        return int(value)
    elif key == "search.pruner" and value not in ("median", "halving", "none"):
        errors.append(f"{key}: {value!r} is not possible{nearest(str(value), ('median', 'halving', 'none'))}")
    elif key == "direction" and value not in ("maximize", "minimize"):
        errors.append(f"{key}: {value!r} is not possible{nearest(str(value), ('maximize', 'minimize'))}")
    return value


# ---------------------------------------------------------------------------------------------------------------------- axes


def _axis(key: str, text: str, asked: Asked, preset: Mapping, folders: list[Path], errors: list[str]) -> Axis | None:
    """The swept key that an argument is, or None where it has one value and belongs to no preset."""
    sets = (preset.get("sets") or {}).get(key)
    if key in config.STEP_LISTS or "=" not in text:
        return None
    if (override := config.by_grammar(f"use={text.partition('=')[2]}" if key.startswith("use.") else text, errors)) is None:
        return None
    if not override.is_sweep_override():
        return Axis(key, [_value(key, override.value(), _written(override.value()), sets, errors)]) if sets is not None else None
    if key in OF_ALL:
        errors.append(f"{key}: one value for the whole sweep, got {text.partition('=')[2]}")
        return None
    if override.is_interval_sweep():
        if not asked.searches:
            errors.append(f"{text}: a grid has no room for an interval; list values or a range(…), or search with search.trials=N")
        return Axis(key, [], override, sets)
    elements = _elements(override, key, folders, errors)
    if len(set(map(str, elements))) < len(elements):
        errors.append(f"{key}: a value stands there twice: {', '.join(map(str, elements))}")
    return Axis(
        key, [_value(key, config.plain(e), _written(e), sets, errors) for e in elements], override if asked.searches else None, sets
    )


def _elements(override: Any, key: str, folders: list[Path], errors: list[str]) -> list[Any]:
    """The values of a discrete sweep; `glob(…)` matches the files of a group."""
    told = override.value()
    if type(told).__name__ == "Glob":
        names = sorted(config.options(key, folders))
        found = told.filter(names)
        if not found:
            errors.append(f"{override.input_line}: matches no file of a group {key!r}{nearest(key, config.GROUPS) if not names else ''}")
        return found
    if getattr(told, "shuffle", False):
        errors.append(f"{override.input_line}: the order of variants means nothing; leave out shuffle")
        return []
    return list(itertools.islice(override.sweep_iterator(), MAX_VARIANTS + 1))


def _written(value: Any) -> str:
    """A value in Hydra's grammar, as one argument's right side."""
    from hydra.core.override_parser.types import Override

    return str(Override._get_value_element_as_str(value))


def _value(key: str, shown: Any, written: str, sets: Any, errors: list[str]) -> Value:
    if sets is None:
        return Value(shown, (f"{key}={written}",))
    told = sets.get(str(shown)) if isinstance(sets, Mapping) else sets
    if told is None:
        errors.append(f"{key}: {shown!r} is not possible{nearest(str(shown), map(str, sets))}")
        return Value(shown, ())
    return Value(shown, tuple(str(argument).replace("{value}", written) for argument in told))


def _check(asked: Asked, errors: list[str]) -> None:
    if not asked.axes and not errors:
        errors.append("-m: no key has several values; write key=a,b, or sweep=NAME for a ready grid")
    if not asked.searches:
        n = 1
        for axis in asked.axes:
            n *= max(len(axis.values), 1)
        if n > MAX_VARIANTS:
            errors.append(
                f"-m: {n} variants or more are above the {MAX_VARIANTS} allowed; take fewer values, or search with search.trials=N"
            )
        if "direction" in asked.options and "metric" not in asked.options:
            errors.append("direction: says which end of a metric is best; name it with metric=")


def label(values: Mapping[str, Any], among: Collection[str] = ()) -> str:
    """`beta=0.05,n=8`: settings as part of a name; no character that a path or a shell minds. `among`: all swept keys."""
    return ",".join(f"{short(key, among or values)}={_name(value)}" for key, value in values.items())


def short(key: str, keys: Collection[str]) -> str:
    """The last part of a key where that is unambiguous."""
    last = key.rpartition(".")[2]
    return last if sum(k.rpartition(".")[2] == last for k in keys) == 1 else key


def _name(value: Any) -> str:
    """A value as part of a name, of at most 32 characters."""
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, list):
        text = "+".join(map(str, value))
    elif value is None or isinstance(value, bool | Mapping):
        text = json.dumps(value)
    else:
        text = Path(value).name if isinstance(value, str) and "/" in value else str(value)
    cleaned = "".join(c if c.isalnum() or c in "._+-" else "_" for c in text)
    return cleaned if len(cleaned) <= 32 else f"{cleaned[:31]}…"
