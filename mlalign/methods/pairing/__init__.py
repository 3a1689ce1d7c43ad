"""Methods that turn one prompt's scored candidates into training rows: one pure function per module, named after it.

    def best_worst(scored: Sequence[Scored], *, option: type = default, …) -> list[Pair] | list[Scored] | str

A method gets the candidates of one prompt in the order they were sampled and returns pairs (they become preference rows), single
candidates (they become demonstration rows), or the reason why there is nothing, which is counted. Its keyword parameters are
its options (`args` of the stage `pairs`), checked by name and type against its signature. Two parameter names have a meaning:
`seed` is filled by the stage (a function of its own seed and the prompt), and a method with `wrong_language` needs to know
each candidate's language unless the option is "off".

`load` finds a method by the name of its file here, or as `package.module:function` anywhere on Python's path.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlalign.core import schema
from mlalign.core.errors import UserError, nearest

WrongLanguage = Literal["never_chosen", "penalise", "off"]


@dataclasses.dataclass(frozen=True)
class Scored:
    """One candidate. `score` is what methods compare (normalised if the stage was asked to); `scores` holds every raw column."""

    candidate_id: str
    text: str
    score: float
    scores: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    language: str | None = None  # as detected; None: not known
    requested: str | None = None  # the language that was asked for
    in_language: bool | None = None  # answers in the requested language; None: not known
    choosable: bool = True  # passes every gate on the chosen side


@dataclasses.dataclass(frozen=True)
class Pair:
    """A preference: `margin` is the difference of the scores that were compared."""

    chosen: Scored
    rejected: Scored
    margin: float


Made = list[Pair] | list[Scored] | str
Method = Callable[..., Made]


def names() -> list[str]:
    """The methods that come with the package, by the files in this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def load(name: str) -> Method:
    """The function called `name`: a file in this folder, or `package.module:function`.

    Raises: UserError naming the nearest method, or the module or function that is not there.
    """
    module, _, function = name.partition(":")
    if not function and name not in names():
        raise UserError(f"method: {name!r} is no pairing method{nearest(name, names())} (one of your own: `module:function`)")
    found = _import(module) if function else importlib.import_module(f"{__name__}.{name}")
    functions = dict(inspect.getmembers(found, inspect.isfunction))
    if (function or name) not in functions:
        raise UserError(f"method: {found.__name__} has no function {function!r}{nearest(function, functions)}")
    return functions[function or name]


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"method: there is no module {module!r}; put its folder on PYTHONPATH") from None


def source_file(method: Method) -> Path:
    """The file that defines a method."""
    return Path(inspect.getfile(method))


def options(method: Method, given: Mapping[str, Any], key: str = "args") -> dict[str, Any]:
    """All options of a method but `seed`: the given ones, checked against its signature, and its defaults.

    Raises: UserError with a line for each unknown, missing or mistyped option.
    """
    hints = typing.get_type_hints(method)
    fields = []
    for p in inspect.signature(method).parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.name != "seed":
            default = schema.what() if p.default is p.empty else schema.what(p.default)
            fields.append((p.name, hints.get(p.name, Any), default))
    cls = dataclasses.make_dataclass(method.__name__, fields, kw_only=True)
    built = schema.build(cls, given, key)
    return {f.name: getattr(built, f.name) for f in dataclasses.fields(cls)}


def makes(method: Method) -> str | None:
    """The kind of rows that a method makes, by its annotation: preference for pairs, demonstration for candidates.

    None where the annotation does not tell.
    """
    made = typing.get_type_hints(method).get("return")
    possible = typing.get_args(made) if typing.get_origin(made) is types.UnionType else (made,)
    if list[Pair] in possible:
        return None if list[Scored] in possible else "preference"
    return "demonstration" if list[Scored] in possible else None


def takes_seed(method: Method) -> bool:
    return "seed" in inspect.signature(method).parameters


def accept(pairs: Sequence[Pair], min_margin: float, max_pairs: int | None) -> tuple[list[Pair], Counter[str]]:
    """The pairs worth training on, at most `max_pairs` in the method's order, and how many were dropped for which reason."""
    kept: list[Pair] = []
    dropped: Counter[str] = Counter()
    for pair in pairs:
        if reason := _refusal(pair, min_margin):
            dropped[reason] += 1
        elif max_pairs is not None and len(kept) >= max_pairs:
            dropped["over max_pairs_per_prompt"] += 1
        else:
            kept.append(pair)
    return kept, dropped


def _refusal(pair: Pair, min_margin: float) -> str | None:
    if pair.chosen.text == pair.rejected.text:
        return "equal text"
    if pair.margin == 0:
        return "tie"
    return "margin below min_margin" if pair.margin < min_margin else None


def penalise(scored: Sequence[Scored], penalty: float) -> list[Scored]:
    """The candidates, with `penalty` taken from the score of each that is not known to be in the requested language."""
    return [c if c.in_language else dataclasses.replace(c, score=c.score - penalty) for c in scored]


def may_be_chosen(scored: Sequence[Scored], wrong_language: WrongLanguage) -> list[Scored]:
    """Those that pass the gates on the chosen side and, under "never_chosen", are known to be in the requested language."""
    return [c for c in scored if c.choosable and (wrong_language != "never_chosen" or c.in_language)]
