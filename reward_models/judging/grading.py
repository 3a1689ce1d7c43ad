"""Scores of answers by themselves: `scalar` (and the additive scale), `reference`, `yes_no`."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from reward_models.items import Item, Scores, readable
from reward_models.judging import prompts
from reward_models.judging.asking import Answers, Asker, Question, Verdict

if TYPE_CHECKING:
    import jinja2

    from reward_models.families.judge import Settings

YES = "yes"
NO = "no"


class Grading:
    """One question for each answer."""

    def __init__(
        self,
        settings: "Settings",
        asker: Asker,
        texts: prompts.Prompts,
        template: "jinja2.Template",
    ):
        self._settings = settings
        self._asker = asker
        self._texts = texts
        self._template = template
        self._answers: dict[str, Answers] = {}

    def __call__(self, items: Sequence[Item]) -> Scores:
        needs_reference = self._settings.mode == "reference"
        codes = [self._texts.language_of(item) for item in items]
        references = [reference_text(item) for item in items]
        places = []
        questions = []
        for place, item in enumerate(items):
            code = codes[place]
            reference = references[place]
            if code is None or (needs_reference and reference is None):
                continue
            places.append(place)
            questions.append(self._question(item, code, reference))

        verdicts: list[list[Verdict]] = [[] for _ in items]
        for place, samples in zip(places, self._asker.ask(questions), strict=True):
            verdicts[place] = samples
        scores = self._scores(verdicts)
        if needs_reference:
            scores.flags["no_reference"] = [reference is None for reference in references]
        return with_rubrics(scores, codes, self._settings)

    def _question(self, item: Item, code: str, reference: str | None) -> Question:
        judged_texts = {"answer": readable(item.answer)}
        if self._settings.mode == "reference" and reference:
            judged_texts["reference"] = reference
        text = self._texts.text(self._template, item, code, **judged_texts)
        return Question(item.id, text, self._answers_in(code))

    def _answers_in(self, code: str) -> Answers:
        """The allowed answers in a rubric language."""
        if code not in self._answers:
            if self._settings.mode == "yes_no":
                self._answers[code] = yes_or_no(code)
            else:
                self._answers[code] = on_scale(code, *self._settings.limits)
        return self._answers[code]

    def _scores(self, verdicts: Sequence[Sequence[Verdict]]) -> Scores:
        """One score per item: the mean of those of its verdicts that have a number."""
        values = []
        for own in verdicts:
            values.append(mean([self._number(verdict) for verdict in own]))
        columns = columns_of(verdicts, self._settings)
        texts = texts_of(verdicts, self._settings)
        return Scores(values, flags_of(verdicts), columns, texts, tokens=tokens_of(verdicts))

    def _number(self, verdict: Verdict) -> float | None:
        if verdict.label is None:
            return None
        if self._settings.mode == "yes_no":
            if self._settings.output == "logit":
                return log_odds(verdict)
            return probability(verdict, YES)
        if self._settings.expectation and verdict.probabilities:
            return math.fsum(int(label) * p for label, p in verdict.probabilities.items())
        return float(verdict.label)


def on_scale(code: str, low: int, high: int) -> Answers:
    """The whole numbers from `low` to `high`."""
    forms = {str(number): (str(number),) for number in range(low, high + 1)}
    return Answers(forms, prompts.phrases(code)["verdict"])


def yes_or_no(code: str) -> Answers:
    """Yes and no in the rubric language, each in several forms."""
    words = prompts.phrases(code)
    forms = {YES: _forms(words[YES]), NO: _forms(words[NO])}
    return Answers(forms, words["verdict"])


def _forms(word: str) -> tuple[str, ...]:
    """A word in lower and upper case too, without and with a space before it."""
    cases = [word, word.lower(), word.upper()]
    spaced = [f" {form}" for form in cases]
    return tuple(dict.fromkeys([*cases, *spaced]))


def probability(verdict: Verdict, label: str) -> float:
    """The probability of an answer; 1 for the verdict and 0 for others if the engine gives none."""
    if verdict.probabilities:
        return verdict.probabilities[label]
    return float(verdict.label == label)


def log_odds(verdict: Verdict) -> float:
    """log p(yes) - log p(no), finite where one of them is 0."""
    yes = max(probability(verdict, YES), sys.float_info.min)
    no = max(probability(verdict, NO), sys.float_info.min)
    return math.log(yes) - math.log(no)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def reference_text(item: Item) -> str | None:
    """The reference as text: the `answer` of a JSON object, a JSON string, or as it is."""
    if item.reference is None:
        return None
    try:
        reference = json.loads(item.reference)
    except ValueError:
        return item.reference
    if isinstance(reference, Mapping) and "answer" in reference:
        return str(reference["answer"])
    return reference if isinstance(reference, str) else item.reference


def flags_of(verdicts: Sequence[Sequence[Verdict]]) -> dict[str, list[bool]]:
    """Flags of items from their verdicts, as `reward_models.families.judge` explains them.

    `unparsed`: some verdict on the item did not parse.
    """
    flags: dict[str, list[bool]] = {
        "unparsed": [],
        "too_long": [],
        "not_finite": [],
        "special_tokens": [],
    }
    for own in verdicts:
        flags["unparsed"].append(any(verdict.is_unparsed for verdict in own))
        flags["too_long"].append(any(verdict.too_long for verdict in own))
        flags["not_finite"].append(any(verdict.not_finite for verdict in own))
        flags["special_tokens"].append(any(verdict.special for verdict in own))
    return flags


def columns_of(
    verdicts: Sequence[Sequence[Verdict]], settings: "Settings"
) -> dict[str, list[float | None]]:
    if not settings.tells_mass:
        return {}
    masses = []
    for own in verdicts:
        masses.append(mean([verdict.mass for verdict in own]))
    return {"answer_mass": masses}


def texts_of(
    verdicts: Sequence[Sequence[Verdict]], settings: "Settings"
) -> dict[str, list[str | None]]:
    raw = []
    explanations = []
    for own in verdicts:
        raw.append(_joined([verdict.raw for verdict in own]))
        explanations.append(_joined([verdict.explanation for verdict in own]))
    texts = {"verdict": raw}
    if settings.reasoning:
        texts["explanation"] = explanations
    return texts


def _joined(texts: Sequence[str | None]) -> str | None:
    present = [text for text in texts if text is not None]
    return "\n\n".join(present) if present else None


def tokens_of(verdicts: Sequence[Sequence[Verdict]]) -> int:
    return sum(verdict.tokens for verdict in chain.from_iterable(verdicts))


def with_rubrics(scores: Scores, codes: Sequence[str | None], settings: "Settings") -> Scores:
    """Adds the flag `no_rubric`, if the rubric is in the row's language.

    It is for the items without a rubric language, about which the judge was not asked.
    """
    if settings.rubric == prompts.ROW:
        scores.flags["no_rubric"] = [code is None for code in codes]
    return scores
