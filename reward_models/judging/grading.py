"""Scores of answers by themselves: `scalar` (and the additive scale), `reference`, `yes_no`."""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from reward_models.items import Item, Scores, readable
from reward_models.judging import prompts
from reward_models.judging.asking import Answers, Asker, Question, Verdict

if TYPE_CHECKING:
    import jinja2

    from reward_models.families.judge import Settings

YES, NO = "yes", "no"


class Grading:
    """One question for each answer."""

    def __init__(
        self,
        settings: "Settings",
        asker: Asker,
        texts: prompts.Prompts,
        template: "jinja2.Template",
    ):
        self._settings, self._asker, self._texts, self._template = settings, asker, texts, template
        self._answers: dict[str, Answers] = {}

    def __call__(self, items: Sequence[Item]) -> Scores:
        codes = [self._texts.language_of(item) for item in items]
        references = [reference_text(item) for item in items]
        wants = self._settings.mode == "reference"
        possible = [
            code is not None and not (wants and r is None)
            for code, r in zip(codes, references, strict=True)
        ]
        asked = [
            self._question(item, code or "", r)
            for item, code, r, ok in zip(items, codes, references, possible, strict=True)
            if ok
        ]
        found = iter(self._asker.ask(asked))
        verdicts = [next(found) if ok else [] for ok in possible]
        scores = scores_of(verdicts, self._number, self._settings)
        if wants:
            scores.flags["no_reference"] = [r is None for r in references]
        return with_rubrics(scores, codes, self._settings)

    def _question(self, item: Item, code: str, reference: str | None) -> Question:
        given = {"answer": readable(item.answer)} | (
            {"reference": reference} if self._settings.mode == "reference" and reference else {}
        )
        if code not in self._answers:
            self._answers[code] = (
                yes_or_no(code)
                if self._settings.mode == "yes_no"
                else on_scale(code, *self._settings.limits)
            )
        return Question(
            item.id, self._texts.text(self._template, item, code, **given), self._answers[code]
        )

    def _number(self, verdict: Verdict) -> float | None:
        if verdict.label is None:
            return None
        if self._settings.mode == "yes_no":
            return (
                log_odds(verdict) if self._settings.output == "logit" else probability(verdict, YES)
            )
        if self._settings.expectation and verdict.probabilities:
            return math.fsum(int(label) * p for label, p in verdict.probabilities.items())
        return float(verdict.label)


def on_scale(code: str, low: int, high: int) -> Answers:
    """The whole numbers from `low` to `high`."""
    return Answers(
        {str(n): (str(n),) for n in range(low, high + 1)}, prompts.phrases(code)["verdict"]
    )


def yes_or_no(code: str) -> Answers:
    """Yes and no in the rubric language, each in several forms."""
    words = prompts.phrases(code)
    return Answers({label: _forms(words[label]) for label in (YES, NO)}, words["verdict"])


def _forms(word: str) -> tuple[str, ...]:
    plain = [word, word.lower(), word.upper()]
    return tuple(dict.fromkeys([*plain, *(f" {form}" for form in plain)]))


def probability(verdict: Verdict, label: str) -> float:
    """Of an answer; where the engine tells none, 1 for the verdict and 0 for the others."""
    return verdict.probabilities[label] if verdict.probabilities else float(verdict.label == label)


def log_odds(verdict: Verdict) -> float:
    yes, no = (max(probability(verdict, label), sys.float_info.min) for label in (YES, NO))
    return math.log(yes) - math.log(no)


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that there are; None if there are none."""
    there = [v for v in values if v is not None]
    return math.fsum(there) / len(there) if there else None


def reference_text(item: Item) -> str | None:
    """The reference as text: the `answer` of a JSON object, a JSON string, or as it stands."""
    if item.reference is None:
        return None
    try:
        told = json.loads(item.reference)
    except ValueError:
        return item.reference
    if isinstance(told, Mapping) and "answer" in told:
        return str(told["answer"])
    return told if isinstance(told, str) else item.reference


def scores_of(
    verdicts: Sequence[Sequence[Verdict]],
    number: Callable[[Verdict], float | None],
    settings: "Settings",
) -> Scores:
    """One score per item from its verdicts: the mean of those that say something."""
    values = [mean([number(v) for v in own]) for own in verdicts]
    return Scores(
        values,
        flags_of(verdicts),
        columns_of(verdicts, settings),
        texts_of(verdicts, settings),
        tokens=tokens_of(verdicts),
    )


def flags_of(verdicts: Sequence[Sequence[Verdict]]) -> dict[str, list[bool]]:
    """`unparsed`: some verdict about the item did not parse; the others: as said in
    `reward_models.families.judge`.
    """
    return {
        "unparsed": [
            any(v.label is None and not (v.too_long or v.not_finite) for v in own)
            for own in verdicts
        ],
        "too_long": [any(v.too_long for v in own) for own in verdicts],
        "not_finite": [any(v.not_finite for v in own) for own in verdicts],
        "special_tokens": [any(v.special for v in own) for own in verdicts],
    }


def columns_of(
    verdicts: Sequence[Sequence[Verdict]], settings: "Settings"
) -> dict[str, list[float | None]]:
    return (
        {"answer_mass": [mean([v.mass for v in own]) for own in verdicts]}
        if settings.tells_mass
        else {}
    )


def texts_of(
    verdicts: Sequence[Sequence[Verdict]], settings: "Settings"
) -> dict[str, list[str | None]]:
    told = {"verdict": [_joined([v.raw for v in own]) for own in verdicts]}
    return told | (
        {"explanation": [_joined([v.explanation for v in own]) for own in verdicts]}
        if settings.reasoning
        else {}
    )


def _joined(texts: Sequence[str | None]) -> str | None:
    there = [t for t in texts if t is not None]
    return "\n\n".join(there) if there else None


def tokens_of(verdicts: Sequence[Sequence[Verdict]]) -> int:
    return sum(v.tokens for own in verdicts for v in own)


def with_rubrics(scores: Scores, codes: Sequence[str | None], settings: "Settings") -> Scores:
    """Adds the flag `no_rubric` where the rubric is in the row's language: nobody was asked about
    those rows.
    """
    if settings.rubric == prompts.ROW:
        scores.flags["no_rubric"] = [code is None for code in codes]
    return scores
