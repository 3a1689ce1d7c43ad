"""A scorer of one's own: `family: package.module:function`, any function on Python's path.

    def shouting(response: str, *, weight: float = 1.0) -> float | None     one answer
    def fluency(items: Sequence[Item], *, path: str) -> list[float | None]  all answers of a batch

A function for one answer takes what its positional parameters name: `messages` (the conversation
with the answer last), `response`, `prompt`, `language`, `reference` and every other attribute of
`Item`. Parameters after `*` are the settings of the scorer, checked by name and type. It gives a
finite number, higher being better, or None where it cannot say. A score must depend on its item
alone: batches differ.

The function is hashed into what it scored, as `mlalign.methods` says. It is found by its name only
in what a person wrote: a model's card cannot name code.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign import methods
from mlalign.core.errors import UserError, nearest
from reward_models.items import Item, Scores

PACKAGE = __name__.rpartition(".")[0]
ATTRIBUTES = ("messages", "answer", *(field.name for field in dataclasses.fields(Item)))


def is_function(family: Any) -> bool:
    return isinstance(family, str) and ":" in family


@dataclasses.dataclass(frozen=True)
class Family:
    """What a module of a family has, made of a function."""

    name: str
    function: methods.Method
    Settings: type

    def prepare(self, settings: Any) -> Callable[[Sequence[Item]], Scores]:
        options = vars(settings)
        names = methods.inputs(self.function)

        def score(items: Sequence[Item]) -> Scores:
            if names == ["items"]:
                with methods.failures(self.function, f"scorer {self.name}"):
                    values = list(self.function(items, **options))
            else:
                values = [self._of_item(item, names, options) for item in items]
            return Scores(self._checked(items, values))

        return score

    def _of_item(self, item: Item, names: Sequence[str], options: Mapping[str, Any]) -> Any:
        arguments = [getattr(item, name) for name in names]
        with methods.failures(self.function, f"{item.id}: scorer {self.name}"):
            return self.function(*arguments, **options)

    def _checked(self, items: Sequence[Item], values: Sequence[Any]) -> list[float | None]:
        """The values as numbers. Raises: UserError if one is none, or they are not one an item."""
        if len(values) != len(items):
            n = f"{len(values)} values for {len(items)} items"
            raise UserError(f"scorer {self.name}: gave {n}; give one for each, None where unknown")
        checked: list[float | None] = []
        for item, value in zip(items, values, strict=True):
            if value is not None and not _is_number(value):
                mend = "give a finite number, or None where it cannot say"
                raise UserError(f"{item.id}: scorer {self.name} gave {value!r}; {mend}")
            checked.append(None if value is None else float(value))
        return checked


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def load(name: str, key: str = "family") -> Family:
    """The scorer of a function. Raises: UserError that begins with `key`."""
    function = methods.load(PACKAGE, name, key)
    unknown = [n for n in methods.inputs(function) if n not in ATTRIBUTES]
    if methods.inputs(function) != ["items"] and unknown:
        hint = nearest(unknown[0], ("items", *ATTRIBUTES))
        what = f"{unknown[0]!r}, which is no attribute of an item"
        raise UserError(f"{key}: {name} takes {what}{hint}")
    return Family(name, function, methods.options_class(function, filled=()))


def source(told: Mapping) -> dict[str, str]:
    """What a function adds to the identity of its scorer; nothing for families of this package."""
    family = told.get("family")
    if not is_function(family):
        return {}
    return {"family_source": methods.source_digest(PACKAGE, str(family), "family")}


def files(told: Mapping) -> list[Path]:
    """The files that `source` is the digest of."""
    family = told.get("family")
    if not is_function(family):
        return []
    return list(methods.source_files(PACKAGE, str(family), "family").values())
