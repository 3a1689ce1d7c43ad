"""Pairing methods: scored candidates in, training rows out; one pure function to a file.

    def best_worst(scored: Sequence[Scored], *, option: type = default, …) -> list[Pair] | str
    def best_of_n(scored: Sequence[Scored], *, …) -> list[Scored] | str
    def majority_vote(group: Group, *, …) -> list[Pair] | str

A method gets the candidates of one prompt, in the order in which they were sampled. If its only
positional parameter is called `group`, or is annotated as `Group`, it gets all languages of an item
at once instead. It returns pairs, which become preference rows, or single candidates, which become
demonstration rows, or the reason why there are none, which is counted.

How methods are found, their options checked and their code hashed: `mlalign.methods`. Two names of
options have a meaning here. `seed` is filled by the stage, from its own seed and the prompt or
group. A method with `wrong_language` needs the language of each candidate unless that is "off".
"""

import dataclasses
import types
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from mlalign import methods
from mlalign.core.errors import UserError

WrongLanguage = Literal["never_chosen", "penalise", "off"]


@dataclasses.dataclass(frozen=True)
class Scored:
    """One candidate.

    `score` is what methods compare, normalised if the stage is set to do so. `scores` holds every
    raw column.
    """

    candidate_id: str
    text: str
    score: float
    scores: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    language: str | None = None  # as detected; None: not known
    requested: str | None = None  # the language that was asked for
    in_language: bool | None = None  # answers in the requested language; None: not known
    choosable: bool = True  # passes every gate on the chosen side
    # The step that sampled it, where there are several; None: the only one.
    sampler: str | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """One item in all languages that have a usable candidate, in the order of their codes.

    `candidates`: language of the prompt -> its candidates, in the order in which they were sampled.
    `prompts` and `references` are those of each language, as the rows have them.
    """

    id: str
    candidates: Mapping[str, Sequence[Scored]]
    prompts: Mapping[str, Sequence[Mapping[str, str]]] = dataclasses.field(default_factory=dict)
    references: Mapping[str, str | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A preference. `margin` is the difference of the scores that were compared.

    `prompt_language`: of a pair across languages, the language whose prompt the row gets. None: the
    prompt that the chosen candidate answers.
    """

    chosen: Scored
    rejected: Scored
    margin: float
    prompt_language: str | None = None


Made = list[Pair] | list[Scored] | str
Method = Callable[..., Made]


def names() -> list[str]:
    """The pairing methods that come with mlalign."""
    return methods.names(__name__)


def load(name: str) -> Method:
    """The pairing method called `name`, as `mlalign.methods.load` finds it.

    Raises: UserError, also for a function that does not take one positional parameter.
    """
    method = methods.load(__name__, name)
    taken = methods.inputs(method)
    if len(taken) != 1:
        parameters = ", ".join(taken) or "none"
        raise UserError(
            f"method: {name} takes {parameters}; a pairing method takes one positional parameter, "
            "`scored` or `group`, and its options after `*`"
        )
    return method


def takes_group(method: Method) -> bool:
    """Whether a method works on all languages of an item, rather than on one prompt."""
    first = methods.inputs(method)[0]
    return first == "group" or methods.hint_of(method, first) is Group


def makes(method: Method) -> str | None:
    """The kind of rows that a method makes, by its annotation; None if that does not tell.

    Pairs become `preference` rows, candidates `demonstration` rows.
    """
    made = methods.hint_of(method, "return")
    possible = typing.get_args(made) if typing.get_origin(made) is types.UnionType else (made,)
    if list[Pair] in possible:
        return None if list[Scored] in possible else "preference"
    return "demonstration" if list[Scored] in possible else None


def accept(
    pairs: Sequence[Pair], min_margin: float, max_pairs: int | None
) -> tuple[list[Pair], Counter[str]]:
    """The pairs worth training on, and how many were dropped for each reason.

    At most `max_pairs` are kept, in the method's order.
    """
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
    """The candidates with lower scores where they may be in another language than requested.

    `penalty` is taken from the score of each that is not known to be in the requested language.
    """
    return [c if c.in_language else dataclasses.replace(c, score=c.score - penalty) for c in scored]


def may_be_chosen(scored: Sequence[Scored], wrong_language: WrongLanguage) -> list[Scored]:
    """Those that pass every gate on the chosen side.

    Under "never_chosen" they also have to be known to be in the requested language.
    """
    return [
        c for c in scored if c.choosable and (wrong_language != "never_chosen" or c.in_language)
    ]
