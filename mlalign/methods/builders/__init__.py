"""Builders: the rows of an item in all its languages in, new rows out; one pure function to a file.

    def cross_lingual(group: Group[Demonstration], *, …) -> list[Demonstration] | str

The annotations say which rows a builder reads and which it makes: the classes of
`mlalign.methods.made`. It returns rows, or the reason why there are none, which is counted. Their
`prompt_lang` must be set; group and split are those of the item.

How builders are found, their options checked and their code hashed: `mlalign.methods`. The option
`seed` is filled by the stage, from its own seed and the group.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from mlalign import methods
from mlalign.core.errors import UserError
from mlalign.methods import made

T = TypeVar("T")
Builder = Callable[..., list[Any] | str]


@dataclasses.dataclass(frozen=True)
class Group(Generic[T]):
    """One item: language of the prompt -> its rows, in the order of the languages' codes.

    A language has several rows where the data bring several versions of the item in it.
    """

    id: str
    rows: Mapping[str, Sequence[T]]


def load(name: str, key: str = "builder") -> Builder:
    """The builder called `name`, as `mlalign.methods.load` finds it.

    Raises: UserError, also for a function whose annotations do not say what it reads and makes.
    """
    builder = methods.load(__name__, name, key)
    if len(methods.inputs(builder)) != 1 or not _reads(builder) or not _makes(builder):
        sample = "(group: Group[Demonstration], *, …) -> list[Demonstration] | str"
        raise UserError(
            f"{key}: {name} does not say what it reads and makes; write it as `def"
            f" {builder.__name__}{sample}`"
        )
    return builder


def reads(builder: Builder) -> str:
    """The kind of rows in a builder's groups."""
    cls = _reads(builder)
    assert cls is not None
    return cls.kind


def makes(builder: Builder) -> str:
    """The kind of rows that a builder makes."""
    cls = _makes(builder)
    assert cls is not None
    return cls.kind


def _reads(builder: Builder) -> Any:
    first = methods.inputs(builder)[0]
    cls = made.class_in(methods.hint_of(builder, first))
    return cls if cls in made.ROWS.values() else None


def _makes(builder: Builder) -> Any:
    cls = made.class_in(methods.hint_of(builder, "return"))
    return cls if cls in made.ROWS.values() else None
