"""Scores of answers by comparing those of one row, every pair in both orders.

After Zheng et al. 2023 (MT-Bench), section 3.4.
"""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from reward_models.items import Item, Scores, readable
from reward_models.judging import prompts
from reward_models.judging.asking import Answers, Asker, Question, Verdict
from reward_models.judging.grading import flags_of, mean, texts_of, tokens_of, with_rubrics

if TYPE_CHECKING:
    import jinja2

    from reward_models.families.judge import Settings

A, B, TIE = "A", "B", "C"
REFERENCE = "reference"
WORTH = {A: 1.0, TIE: 0.5, B: 0.0}  # to the answer that was shown first


class Comparison(NamedTuple):
    """What one pair came to: the share that goes to answer `i`, and whether the two orders said
    different things.
    """

    i: int
    j: int
    share: float | None
    disagree: bool
    verdicts: tuple[Sequence[Verdict], Sequence[Verdict]]  # i shown first, j shown first


class Pairwise:
    """Two questions for each pair of answers."""

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
        if self._settings.against == REFERENCE:
            return self._against_references(items)
        return self._within_rows(items, self._settings.against)

    def _against_references(self, items: Sequence[Item]) -> Scores:
        """Each answer compared with the one that is stored as its row's reference; None without
        one.
        """
        known = [place for place, item in enumerate(items) if item.reference is not None]
        both = [one for place in known for one in (_alone(items[place]), _stored(items[place]))]
        scores = self._within_rows(both, "all")
        # Every other score is that of a stored answer.
        ours = {place: 2 * number for number, place in enumerate(known)}
        out = _picked(scores, [ours.get(place) for place in range(len(items))])
        out.flags["no_reference"] = [item.reference is None for item in items]
        return out

    def _within_rows(self, items: Sequence[Item], against: str) -> Scores:
        codes = [self._texts.language_of(item) for item in items]
        paired = list(pairs_of(items, against))
        pairs = [(i, j) for i, j in paired if codes[i] is not None and codes[j] is not None]
        differing = [(i, j) for i, j in pairs if items[i].answer != items[j].answer]
        asked = [
            self._question(items[a], items[b], codes[a] or "")
            for i, j in differing
            for a, b in ((i, j), (j, i))
        ]
        found = iter(self._asker.ask(asked))
        told = {pair: (next(found), next(found)) for pair in differing}
        comparisons = [self._compared(pair, told.get(pair)) for pair in pairs]
        scores = self._scores(comparisons, items)
        accompanied = {k for pair in paired for k in pair}
        scores.flags["alone"] = [k not in accompanied for k in range(len(items))]
        return with_rubrics(scores, codes, self._settings)

    def _question(self, first: Item, second: Item, code: str) -> Question:
        text = self._texts.text(
            self._template,
            first,
            code,
            answer_a=readable(first.answer),
            answer_b=readable(second.answer),
        )
        if code not in self._answers:
            labels = (A, B, TIE) if self._settings.ties else (A, B)
            self._answers[code] = Answers(
                {label: (label,) for label in labels}, prompts.phrases(code)["verdict"]
            )
        return Question(f"{first.id}\x1f{second.id}", text, self._answers[code])

    def _compared(
        self, pair: tuple[int, int], told: tuple[Sequence[Verdict], Sequence[Verdict]] | None
    ) -> Comparison:
        if told is None:  # the same text twice
            return Comparison(*pair, 0.5, False, ((), ()))
        first, second = (mean([self._worth(v) for v in verdicts]) for verdicts in told)
        if first is None or second is None:
            return Comparison(*pair, None, False, told)
        second = 1.0 - second
        disagree = sign(first - 0.5) != sign(second - 0.5)
        return Comparison(*pair, self._share(first, second, disagree), disagree, told)

    def _worth(self, verdict: Verdict) -> float | None:
        if self._settings.expectation and verdict.probabilities:
            return math.fsum(WORTH[label] * p for label, p in verdict.probabilities.items())
        return None if verdict.label is None else WORTH[verdict.label]

    def _share(self, first: float, second: float, disagree: bool) -> float:
        if self._settings.expectation:
            return (first + second) / 2
        return 0.5 if disagree else 0.5 + sign(first - 0.5) / 2

    def _scores(self, comparisons: Sequence[Comparison], items: Sequence[Item]) -> Scores:
        per_item: list[list[Comparison]] = [[] for _ in items]
        for comparison in comparisons:
            per_item[comparison.i].append(comparison)
            per_item[comparison.j].append(comparison)
        counted = [[c for c in own if c.share is not None] for own in per_item]
        values = [mean([_of(c, k) for c in own]) for k, own in enumerate(counted)]
        verdicts = [
            [v for c in own for of_order in c.verdicts for v in of_order] for own in per_item
        ]
        flags = {
            **flags_of(verdicts),
            "positions_disagree": [any(c.disagree for c in own) for own in per_item],
        }
        columns: dict[str, list[float | None]] = {
            "position_disagreement": [mean([float(c.disagree) for c in own]) for own in counted],
            "comparisons": [float(len(own)) for own in counted],
        }
        texts = {
            **texts_of(verdicts, self._settings),
            "verdict": [_told(own, k, items) for k, own in enumerate(per_item)],
        }
        asked = [v for c in comparisons for of_order in c.verdicts for v in of_order]
        return Scores(values, flags, columns, texts, tokens=tokens_of([asked]))


def _alone(item: Item) -> Item:
    """The item in a row of its own, which it shares with the stored answer alone."""
    return dataclasses.replace(item, row=item.id)


def _stored(item: Item) -> Item:
    """The answer that is stored in the item's reference, as an item of the same row."""
    answer = str(json.loads(item.reference or "{}")["answer"])
    return dataclasses.replace(
        item, id=f"{item.id}:stored", response=answer, row=item.id, answer_extra={}
    )


def _picked(scores: Scores, places: Sequence[int | None]) -> Scores:
    """The scores at these places; None, and no flag, where there is no place."""

    def at(values: Sequence, absent: Any) -> list:
        return [absent if place is None else values[place] for place in places]

    return dataclasses.replace(
        scores,
        values=at(scores.values, None),
        flags={name: at(marks, False) for name, marks in scores.flags.items()},
        columns={name: at(values, None) for name, values in scores.columns.items()},
        texts={name: at(texts, None) for name, texts in scores.texts.items()},
    )


def pairs_of(items: Sequence[Item], against: str) -> Iterator[tuple[int, int]]:
    """The pairs to compare: positions of answers to one prompt in one row.

    `first`: the row's first answer with each other one.
    """
    rows: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        rows[item.row or item.id, json.dumps(item.prompt, sort_keys=True)].append(i)
    for places in rows.values():
        if against == "first":
            yield from ((places[0], other) for other in places[1:])
        else:
            yield from combinations(sorted(places, key=lambda i: items[i].id), 2)


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _of(comparison: Comparison, item: int) -> float | None:
    return (
        comparison.share
        if comparison.share is None or comparison.i == item
        else 1.0 - comparison.share
    )


def _told(comparisons: Sequence[Comparison], item: int, items: Sequence[Item]) -> str | None:
    """JSON: against which answer, and what was said where this one was shown first and second; `A`
    is the one shown first.
    """
    told = []
    for c in comparisons:
        own, other = c.verdicts if c.i == item else c.verdicts[::-1]
        against = items[c.j if c.i == item else c.i].id
        told.append(
            {
                "against": against,
                "shown_first": [v.raw for v in own],
                "shown_second": [v.raw for v in other],
            }
        )
    return json.dumps(told, ensure_ascii=False) if told else None
