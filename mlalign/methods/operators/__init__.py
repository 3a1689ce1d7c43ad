"""Operators: they ask a model several things about one row, and make rows of its answers.

An operator is a generator function in a file of its own. It yields requests and receives the texts:

    def self_refine(candidate: Item, say: Say, *, rounds: int = 1) -> Steps[Candidate]:
        [critique] = yield [Ask(say("critique"))]
        …
        return [Candidate(refined)]

The name of its first parameter says what one item is: a `prompt` (of prompt, demonstration or
preference rows), a `candidate` (one response of candidates rows) or a `text`. `Steps[…]` says what
it makes: a class of `mlalign.methods.made`. `say(NAME, key=value, …)` is the text of the prompt
called NAME in the operator's template `conf/prompts/OPERATOR/LANGUAGE.j2`, or in that for English;
an operator without a template leaves this parameter out.

It returns a list of what it made, or the reason why it made nothing. A text in the list is the
reason why something was left out. Reasons are counted by language.

How operators are found, their options checked and their code hashed: `mlalign.methods`. The option
`seed` is filled by the stage, from the item and the number of the run.
"""

import dataclasses
import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from mlalign import methods
from mlalign.core.errors import UserError, nearest
from mlalign.methods import made
from mlalign.methods.made import Messages

READS = {
    "prompt": ("prompt", "demonstration", "preference"),
    "candidate": ("candidates",),
    "text": ("text",),
}


@dataclasses.dataclass(frozen=True)
class Item:
    """What an operator works on.

    `text` is the candidate's answer, or the text of a text row. `siblings` are the other answers
    to the same prompt, `pool` all prompts of the shard, this one's included.
    """

    id: str
    language: str  # that answers are asked for in
    prompt: Messages = ()
    text: str = ""
    reference: str | None = None
    siblings: Sequence[str] = ()
    pool: Sequence[Messages] = ()


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request: a prompt, as a text or as messages. Settings left open are those of the step."""

    prompt: str | Messages
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    stop: Sequence[str] | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that differ from those of the step."""
        fields = [field.name for field in dataclasses.fields(self) if field.name != "prompt"]
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}


T = TypeVar("T")
Say = Callable[..., str]
Steps = Generator[list[Ask], list[str], Sequence[T | str] | str]
Operator = Callable[..., Steps[Any]]


def load(name: str, key: str = "operator") -> Operator:
    """The operator called `name`, as `mlalign.methods.load` finds it.

    Raises: UserError, also for a function that does not say what it reads and makes.
    """
    operator = methods.load(__name__, name, key)
    taken = methods.inputs(operator)
    sample = f"def {operator.__name__}(prompt: Item, say: Say, *, …) -> Steps[Candidate]"
    if not inspect.isgeneratorfunction(operator):
        raise UserError(f"{key}: {name} yields no requests; write it as `{sample}` with `yield`")
    if taken and taken[0] in READS and taken[1:] not in ([], ["say"]):
        others = ", ".join(taken[1:])
        mend = "only `say` may follow the item, and options stand after `*`"
        raise UserError(f"{key}: {name} takes {others}; {mend}; write it as `{sample}`")
    if not taken or taken[0] not in READS:
        first = taken[0] if taken else "nothing"
        hint = nearest(first, READS)
        raise UserError(f"{key}: {name} reads {first}{hint}; write it as `{sample}`")
    if made.class_in(methods.hint_of(operator, "return")) is None:
        raise UserError(f"{key}: {name} does not say what it makes; write it as `{sample}`")
    return operator


def reads(operator: Operator) -> str:
    """What one item is: prompt, candidate or text."""
    return methods.inputs(operator)[0]


def makes(operator: Operator) -> Any:
    """The class of what an operator makes."""
    cls = made.class_in(methods.hint_of(operator, "return"))
    assert cls is not None
    return cls


def speaks(operator: Operator) -> bool:
    """Whether an operator has a template."""
    return "say" in methods.inputs(operator)
