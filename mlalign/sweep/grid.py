"""argv -> the variants that a person asks for: Hydra's sweep grammar, presets, and options of a
sweep.

A preset (`conf/sweep/NAME.yaml`) has `grid` (key -> values, as on the command line). It may have
`sets` (for a new key: what its values stand for, either one list of arguments with `{value}` in
them, or a list for each value), `metric`, `direction`, and `search` (options of a search).
"""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError, nearest
from mlalign.recipes import command_line, conf_files, config

FLAGS = ("-m", "--multirun")
NUMBERS = {"search.trials": 1, "search.parallel": 1, "search.seed": 0}  # with the least value
CHOICES = {
    "search.pruner": ("median", "halving", "none"),
    "direction": ("maximize", "minimize"),
}
OPTIONS = ("sweep", "metric", *NUMBERS, *CHOICES)
PRESET_KEYS = ("grid", "sets", "metric", "direction", "search")
# Keys with one value for the whole sweep.
OF_ALL = ("name", "root", "conf_dir", "launcher", *command_line.STEP_LISTS)
MAX_VARIANTS = 1000


@dataclasses.dataclass(frozen=True)
class Value:
    """One value of a swept key: what tables show, and the arguments that set it."""

    shown: Any
    overrides: tuple[str, ...]


@dataclasses.dataclass
class Axis:
    """A swept key: its values, and in a search the `space` they come from.

    That is Hydra's own `Override`.
    """

    key: str
    values: list[Value]
    space: Any = None
    sets: Any = None

    @property
    def is_interval(self) -> bool:
        return self.space is not None and self.space.is_interval_sweep()

    def value(self, shown: float) -> Value:
        """A number out of the space as a value."""
        return _value(self.key, shown, repr(shown), self.sets, [])


@dataclasses.dataclass
class Request:
    """Arguments that all variants share, the swept keys, and the options of the sweep."""

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


def read(argv: Sequence[str], recipe: Mapping | None = None) -> Request:
    """The sweep in the arguments of `run` and `plan`; `recipe` stands in for `recipe=NAME`.

    Raises: UserError with every mistake: grammar, unknown options and presets, duplicate values,
    intervals outside a search.
    """
    errors: list[str] = []
    given: dict[str, Any] = dict(a.split("=", 1) for a in argv if "=" in a and _is_option(a))
    rest = [a for a in argv if a not in FLAGS and not _is_option(a)]
    folders = conf_files.search_path(_of("conf_dir", rest), errors)
    request = Request([], [], {}, given.pop("sweep", None))
    preset = _preset(request.preset, folders, errors) if request.preset else {}
    for key, value in {**_preset_options(preset), **given}.items():
        request.options[key] = _option(key, value, errors)

    for key, text in _texts(preset, rest, recipe).items():
        axis = _axis(key, text, request, preset, folders, errors)
        if axis is None:
            request.shared.append(text)
        else:
            request.axes.append(axis)
    _check(request, errors)
    if errors:
        raise UserError(*dict.fromkeys(errors))
    return request


def _texts(preset: Mapping, argv: Sequence[str], recipe: Mapping | None) -> dict[str, str]:
    """Key -> argument: the preset's, then the command line's, which win."""
    texts = {}
    for key, value in (preset.get("grid") or {}).items():
        if _of(key, argv) is None:
            texts[key] = f"{key}={_resolved(key, value, argv, recipe)}"
    for argument in argv:
        key = argument.partition("=")[0]
        # The last argument of a key counts, in its own place.
        texts.pop(key, None)
        texts[key] = argument
    return texts


def combinations(axes: Sequence[Axis]) -> Iterator[list[tuple[str, Value]]]:
    """Every combination of the values, the last key changing fastest."""
    keys = [axis.key for axis in axes]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield list(zip(keys, values, strict=True))


def _is_option(argument: str) -> bool:
    head = argument.partition("=")[0]
    return head in OPTIONS or head.startswith("search.")


def _of(key: str, argv: Sequence[str]) -> str | None:
    return next((a.partition("=")[2] for a in reversed(argv) if a.startswith(f"{key}=")), None)


# -------------------------------------------------- presets


def _preset(name: str, folders: list[Path], errors: list[str]) -> dict[str, Any]:
    from mlalign.core import yaml_files

    known = conf_files.options("sweep", folders)
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
    for key in body:
        if key not in PRESET_KEYS:
            hint = nearest(key, PRESET_KEYS)
            errors.append(f"sweep: {known[name]}: unknown key {key!r}{hint}")
    return dict(body)


def _resolved(key: str, value: Any, argv: Sequence[str], recipe: Mapping | None) -> Any:
    """The values of a key in a preset; `${languages}` stands for those of this command.

    Raises: UserError with what is wrong with this command without the sweep.
    """
    if "${" not in str(value):
        return value
    from mlalign.recipes.settings import normalise_languages

    settings = config.load(argv, recipe)
    errors = list(settings.errors)
    normalise_languages(settings, errors)
    resolved = settings.resolve(value, {}, f"sweep: {key}", errors)
    if errors:
        raise UserError(*errors)
    if not resolved:
        raise UserError(f"{key}: {value} gives no values; name them, {key}=a,b")
    return ",".join(map(str, resolved)) if isinstance(resolved, list) else resolved


def _preset_options(preset: Mapping) -> dict[str, Any]:
    options = {key: preset[key] for key in ("metric", "direction") if key in preset}
    for key, value in (preset.get("search") or {}).items():
        options[f"search.{key}"] = value
    return options


def _option(key: str, value: Any, errors: list[str]) -> Any:
    """The value of an option of the sweep, checked."""
    if key not in OPTIONS:
        errors.append(f"{key}: unknown key{nearest(key, OPTIONS)}")
    if key in CHOICES and value not in CHOICES[key]:
        errors.append(f"{key}: {value!r} is not possible{nearest(str(value), CHOICES[key])}")
    if key not in NUMBERS:
        return value
    least = NUMBERS[key]
    if not re.fullmatch(r"[0-9]{1,6}", str(value)) or int(value) < least:
        errors.append(f"{key}: expected a whole number from {least}, got {value!r}")
        return least
    return int(value)


# -------------------------------------------------- axes


def _axis(
    key: str,
    text: str,
    request: Request,
    preset: Mapping,
    folders: list[Path],
    errors: list[str],
) -> Axis | None:
    """An argument as a swept key.

    None if it has one value and the preset has no `sets` for it.
    """
    sets = (preset.get("sets") or {}).get(key)
    if key in command_line.STEP_LISTS or "=" not in text:
        return None
    right_side = text.partition("=")[2]
    override = command_line.by_grammar(
        f"use={right_side}" if key.startswith("use.") else text, errors
    )
    if override is None:
        return None
    if not override.is_sweep_override():
        if sets is None:
            return None
        value = override.value()
        return Axis(key, [_value(key, value, _written(value), sets, errors)])
    if key in OF_ALL:
        errors.append(f"{key}: one value for the whole sweep, got {right_side}")
        return None
    if override.is_interval_sweep():
        if not request.searches:
            mend = "list values or a range(…), or search with search.trials=N"
            errors.append(f"{text}: a grid cannot take an interval; {mend}")
        return Axis(key, [], override, sets)

    elements = _elements(override, key, folders, errors)
    if len(set(map(str, elements))) < len(elements):
        errors.append(f"{key}: duplicate value: {', '.join(map(str, elements))}")
    values = [_value(key, command_line.plain(e), _written(e), sets, errors) for e in elements]
    return Axis(key, values, override if request.searches else None, sets)


def _elements(override: Any, key: str, folders: list[Path], errors: list[str]) -> list[Any]:
    """The values of a discrete sweep; `glob(…)` matches the files of a group."""
    sweep = override.value()
    if type(sweep).__name__ == "Glob":
        names = sorted(conf_files.options(key, folders))
        matching: list[Any] = sweep.filter(names)
        if not matching:
            hint = "" if names else nearest(key, command_line.GROUPS)
            errors.append(f"{override.input_line}: matches no file of a group {key!r}{hint}")
        return matching
    if getattr(sweep, "shuffle", False):
        problem = "the order of variants has no effect; leave out shuffle"
        errors.append(f"{override.input_line}: {problem}")
        return []
    return list(itertools.islice(override.sweep_iterator(), MAX_VARIANTS + 1))


def _written(value: Any) -> str:
    """A value in Hydra's grammar, as one argument's right side."""
    from hydra.core.override_parser.types import Override

    return str(Override._get_value_element_as_str(value))


def _value(key: str, shown: Any, written: str, sets: Any, errors: list[str]) -> Value:
    if sets is None:
        return Value(shown, (f"{key}={written}",))
    arguments = sets.get(str(shown)) if isinstance(sets, Mapping) else sets
    if arguments is None:
        errors.append(f"{key}: {shown!r} is not possible{nearest(str(shown), map(str, sets))}")
        return Value(shown, ())
    overrides = [str(argument).replace("{value}", written) for argument in arguments]
    return Value(shown, tuple(overrides))


def _check(request: Request, errors: list[str]) -> None:
    if not request.axes and not errors:
        mend = "write key=a,b, or sweep=NAME for a ready grid"
        errors.append(f"-m: no key has several values; {mend}")
    if request.searches:
        return
    n = math.prod(max(len(axis.values), 1) for axis in request.axes)
    if n > MAX_VARIANTS:
        mend = "take fewer values, or search with search.trials=N"
        errors.append(f"-m: {n} variants or more are above the {MAX_VARIANTS} allowed; {mend}")
    if "direction" in request.options and "metric" not in request.options:
        errors.append("direction: says which end of a metric is best; name it with metric=")


def label(values: Mapping[str, Any], among: Collection[str] = ()) -> str:
    """`beta=0.05,n=8`: settings as part of a name, without characters that paths or shells mind.

    `among`: all swept keys.
    """
    keys = among or values
    return ",".join(f"{short(key, keys)}={_name(value)}" for key, value in values.items())


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
