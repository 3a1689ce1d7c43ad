r"""The family `verifier`: does the answer agree with the reference? 1.0 or 0.0; None where a row
has no reference.

A reference is JSON: `{"answer": …, "match": "numeric" | "exact" | "contains" | "multiple_choice",
"options": …}`.

numeric   the content of the last `\boxed{}` if there is one, else the last number in the response. Decimal digits of every
          script count. One separator followed by three digits ("1.234", "1,234", "1 234") means
          thousands in some languages and, but for the space, decimals in others: the answer is
          right if any reading equals the reference. Numerals that are words or ideographs (三, XIV)
          are not read.
exact     the response, or the content of its last `\boxed{}`, is the answer but for case, spaces and final punctuation
contains  the answer occurs in the response, whatever the case
multiple_choice
          the option that the response names, by its label or its text (see `choices`), is the
          answer, also a label or a text; `options` is {label: text}, or a list of texts for A, B,
          C, …
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
    return lambda items: Scores(
        [
            verify(item.response, *reference) if (reference := _reference(item)) else None
            for item in items
        ]
    )


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
    return (
        right is not None and choices.chosen(boxed(response) or response, options, right) == right
    )


def _numeric(response: str, answer: str) -> bool:
    right, said = readings(answer), readings(response)
    return bool(right & said)


def _exact(response: str, answer: str) -> bool:
    return plain(boxed(response) or response) == plain(answer)


def _contains(response: str, answer: str) -> bool:
    return folded(answer) in folded(response)


CHOICE = "multiple_choice"
MATCHES = {"numeric": _numeric, "exact": _exact, "contains": _contains}


def _reference(item: Item) -> tuple[str, str, Any] | None:
    if item.reference is None:
        return None
    try:
        told = json.loads(item.reference)
        answer, match, options = str(told["answer"]), told["match"], told.get("options")
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f'{item.id}: its reference must be JSON like {{"answer": "42", "match": "numeric"}}'
        ) from None
    if match not in (*MATCHES, CHOICE):
        raise UserError(
            f"{item.id}: unknown match {match!r} in its"
            f" reference{nearest(match, (*MATCHES, CHOICE))}"
        )
    if match == "numeric" and not readings(answer):
        raise UserError(f"{item.id}: its reference is to be matched as a number but holds none")
    if match == CHOICE and choices.right_label(answer, choices.options_of(options)) is None:
        raise UserError(
            f"{item.id}: the answer {answer!r} of its reference is neither the label nor the text"
            " of one of its options"
        )
    return answer, match, options
