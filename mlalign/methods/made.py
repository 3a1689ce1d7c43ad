"""What operators and builders make, and what builders read: rows without their ids and groups.

Each class is a kind of row; its fields are columns of that row. `prompt`, `completion`, `chosen`
and `rejected` are messages: `[{"role": …, "content": …}, …]`. A language that is left open is that
of the row or the item that something is made from.
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

Messages = Sequence[Mapping[str, str]]
MESSAGES = ("prompt", "completion", "chosen", "rejected")  # fields that hold messages


class _WithMessages:
    """Refuses a text where messages belong, in the line of the method that gives it."""

    def __post_init__(self) -> None:
        for name in MESSAGES:
            if isinstance(getattr(self, name, None), str):
                role = "" if name == "prompt" else ', "assistant"'
                mend = f"write rows.messages(text{role}), from mlalign.core"
                raise TypeError(f"{type(self).__name__}.{name} is a text, not messages; {mend}")


@dataclasses.dataclass(frozen=True)
class Text:
    kind: ClassVar[str] = "text"
    text: str
    prompt_lang: str | None = None


@dataclasses.dataclass(frozen=True)
class Prompt(_WithMessages):
    kind: ClassVar[str] = "prompt"
    prompt: Messages
    prompt_lang: str | None = None
    reference: str | None = None
    metadata: str | None = None


@dataclasses.dataclass(frozen=True)
class Demonstration(_WithMessages):
    kind: ClassVar[str] = "demonstration"
    prompt: Messages
    completion: Messages
    prompt_lang: str | None = None
    response_lang: str | None = None
    metadata: str | None = None


@dataclasses.dataclass(frozen=True)
class Preference(_WithMessages):
    kind: ClassVar[str] = "preference"
    prompt: Messages
    chosen: Messages
    rejected: Messages
    prompt_lang: str | None = None
    chosen_lang: str | None = None
    rejected_lang: str | None = None
    margin: float | None = None
    metadata: str | None = None


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An answer to the prompt of the item that an operator works on."""

    kind: ClassVar[str] = "candidates"
    text: str


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A judge's words on a candidate, and the number in them (None if there is none)."""

    kind: ClassVar[str] = "judgement"
    raw: str
    value: float | None
    parse_status: str = "ok"


ROWS = {made.kind: made for made in (Text, Prompt, Demonstration, Preference)}
CLASSES = (*ROWS.values(), Candidate, Judgement)


def of_row(row: Mapping[str, Any], kind: str) -> Any:
    """A row's content, as the class of its kind."""
    cls: Any = ROWS[kind]
    return cls(**{field.name: row.get(field.name) for field in dataclasses.fields(cls)})


def columns(made: Any) -> dict[str, Any]:
    """The columns that something made fills."""
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}


def class_in(hint: Any) -> type | None:
    """The one class of this module that a type names: `list[Prompt] | str` names Prompt.

    None where it names none, or several.
    """
    named = set(_classes(hint))
    return named.pop() if len(named) == 1 else None


def _classes(hint: Any) -> list[type]:
    if hint in CLASSES:
        return [hint]
    found: list[type] = []
    for argument in typing.get_args(hint):
        found += _classes(argument)
    return found
