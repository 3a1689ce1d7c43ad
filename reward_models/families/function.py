"""Your own scorer: `family: package.module:function`, any function on Python's path.

    def shouting(response: str, *, weight: float = 1.0) -> float | None     one answer
    def fluency(items: Sequence[Item], *, path: str) -> list[float | None]  all answers of a batch

A function for one answer takes what its positional parameters name: `messages` (the conversation
with the answer last), `response`, `prompt`, `language`, `reference` and every other attribute of
`Item`. Parameters after `*` are the settings of the scorer, checked by name and type. It returns a
finite number, higher being better, or None where it cannot say. A score must depend on its item
alone, because batches vary.

The source of the function is hashed into the identity of its scores, as `mlalign.methods` says.
Only settings that a person wrote may name a function; a model's card cannot.
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
    """A function with the interface of a family's module."""

    name: str
    function: methods.Method
    Settings: type

    def prepare(self, settings: Any) -> Callable[[Sequence[Item]], Scores]:
        options = vars(settings)
        inputs = methods.inputs(self.function)

        def score(items: Sequence[Item]) -> Scores:
            if inputs == ["items"]:
                with methods.failures(self.function, f"scorer {self.name}"):
                    values = list(self.function(items, **options))
            else:
                values = [self._score_item(item, inputs, options) for item in items]
            return Scores(self._checked(items, values))

        return score

    def _score_item(self, item: Item, inputs: Sequence[str], options: Mapping[str, Any]) -> Any:
        arguments = [getattr(item, name) for name in inputs]
        with methods.failures(self.function, f"{item.id}: scorer {self.name}"):
            return self.function(*arguments, **options)

    def _checked(self, items: Sequence[Item], values: Sequence[Any]) -> list[float | None]:
        """The values as floats.

        Raises: UserError if a value is no number, or their count is not that of the items.
        """
        if len(values) != len(items):
            raise UserError(
                f"scorer {self.name}: gave {len(values)} values for {len(items)} items;"
                " give one for each, None where unknown"
            )

        checked: list[float | None] = []
        for item, value in zip(items, values, strict=True):
            if value is None:
                checked.append(None)
            elif _is_number(value):
                checked.append(float(value))
            else:
                raise UserError(
                    f"{item.id}: scorer {self.name} gave {value!r};"
                    " give a finite number, or None where it cannot say"
                )
        return checked


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def load(name: str, key: str = "family") -> Family:
    """The family that a function implements. Raises: UserError that begins with `key`."""
    function = methods.load(PACKAGE, name, key)
    inputs = methods.inputs(function)
    unknown = [parameter for parameter in inputs if parameter not in ATTRIBUTES]
    if inputs != ["items"] and unknown:
        hint = nearest(unknown[0], ("items", *ATTRIBUTES))
        raise UserError(
            f"{key}: {name} takes {unknown[0]!r}, which is no attribute of an item{hint}"
        )
    return Family(name, function, methods.options_class(function, filled=()))


def source(spec: Mapping) -> dict[str, str]:
    """What a function adds to the identity of its scorer; nothing for families of this package."""
    family = spec.get("family")
    if not is_function(family):
        return {}
    return {"family_source": methods.source_digest(PACKAGE, str(family), "family")}


def files(spec: Mapping) -> list[Path]:
    """The files that `source` is the digest of."""
    family = spec.get("family")
    if not is_function(family):
        return []
    return list(methods.source_files(PACKAGE, str(family), "family").values())
