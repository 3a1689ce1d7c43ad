r"""The family `verifier`: does the answer agree with the reference? 1.0 or 0.0; None where a row
has no reference.

A reference is JSON: `{"answer": …, "match": "numeric" | "exact" | "contains" | "multiple_choice",
"options": …}`.

numeric   the content of the last `\boxed{}` if there is one, else the last number in the response.
          Decimal digits of every script count. One separator followed by three digits ("1.234",
          "1,234", "1 234") means thousands in some languages and, except for the space, decimals in
          others, so the answer is right if any reading equals the reference. Numerals that are
          words or ideographs (三, XIV) are not read.
exact     the response, or the content of its last `\boxed{}`, is the answer apart from case, spaces
          and final punctuation
contains  the answer occurs in the response, in any case
multiple_choice
          the response names the option that is the answer, by its label or text (see `choices`);
          the answer is a label or a text too; `options` is {label: text}, or a list of texts for
          A, B, C, …
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlalign.core.errors import UserError, nearest
from mlalign.core.final_answers import boxed, folded, plain, readings
from reward_models.families import choices
from reward_models.items import Item, Scores


@dataclasses.dataclass(frozen=True)
class Settings:
    """No settings."""


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    return lambda items: Scores([_score(item) for item in items])


def _score(item: Item) -> float | None:
    reference = _reference(item)
    if reference is None:
        return None
    return verify(item.response, *reference)


def verify(
    response: str, answer: str, match: str, options: Mapping | Sequence[str] | None = None
) -> float:
    """1.0 if the response gives the answer, else 0.0.

    `options` are those of a multiple-choice question.
    """
    if match == CHOICE:
        return float(_choice(response, answer, choices.options_of(options)))
    return float(MATCHES[match](response, answer))


def _choice(response: str, answer: str, options: Mapping[str, str]) -> bool:
    right = choices.right_label(answer, options)
    if right is None:
        return False
    return choices.chosen(boxed(response) or response, options, right) == right


def _numeric(response: str, answer: str) -> bool:
    return not readings(answer).isdisjoint(readings(response))


def _exact(response: str, answer: str) -> bool:
    return plain(boxed(response) or response) == plain(answer)


def _contains(response: str, answer: str) -> bool:
    return folded(answer) in folded(response)


CHOICE = "multiple_choice"
MATCHES = {"numeric": _numeric, "exact": _exact, "contains": _contains}


def _reference(item: Item) -> tuple[str, str, Any] | None:
    """The answer, how it is matched, and the options; None without a reference.

    Raises: UserError for a reference that cannot be matched.
    """
    if item.reference is None:
        return None
    try:
        reference = json.loads(item.reference)
        answer = str(reference["answer"])
        match = reference["match"]
        options = reference.get("options")
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f'{item.id}: its reference must be JSON like {{"answer": "42", "match": "numeric"}}'
        ) from None
    known = (*MATCHES, CHOICE)
    if match not in known:
        hint = nearest(match, known)
        raise UserError(f"{item.id}: unknown match {match!r} in its reference{hint}")
    if match == "numeric" and not readings(answer):
        raise UserError(f"{item.id}: its reference is to be matched as a number but holds none")
    if match == CHOICE and choices.right_label(answer, choices.options_of(options)) is None:
        raise UserError(
            f"{item.id}: the answer {answer!r} of its reference is neither the label nor the text"
            " of one of its options"
        )
    return answer, match, options
