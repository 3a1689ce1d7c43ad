"""Scores of answers by comparing those of one row, every pair in both orders.

After Zheng et al. 2023 (MT-Bench), section 3.4.
"""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from reward_models.items import Item, Scores, readable
from reward_models.judging import prompts
from reward_models.judging.asking import Answers, Asker, Question, Verdict
from reward_models.judging.grading import flags_of, mean, texts_of, tokens_of, with_rubrics

if TYPE_CHECKING:
    import jinja2

    from reward_models.families.judge import Settings

# Verdicts: the first answer is better, the second is, neither.
A = "A"
B = "B"
TIE = "C"
REFERENCE = "reference"
WORTH = {A: 1.0, TIE: 0.5, B: 0.0}  # to the answer that was shown first


class Comparison(NamedTuple):
    """The result of comparing answers `i` and `j` in both orders.

    `share` of the comparison goes to `i`, the rest to `j`; None if no verdict parsed.
    `disagree`: the two orders have different results.
    `verdicts`: with `i` shown first, and with `j` shown first.
    """

    i: int
    j: int
    share: float | None
    disagree: bool
    verdicts: tuple[Sequence[Verdict], Sequence[Verdict]]

    def share_of(self, item: int) -> float | None:
        """The share that goes to `item`, which is `i` or `j`."""
        if self.share is None or self.i == item:
            return self.share
        return 1.0 - self.share

    def all_verdicts(self) -> list[Verdict]:
        first_order, second_order = self.verdicts
        return [*first_order, *second_order]


class Pairwise:
    """Two questions for each pair of answers."""

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
        if self._settings.against == REFERENCE:
            return self._against_references(items)
        return self._within_rows(items, self._settings.against)

    def _against_references(self, items: Sequence[Item]) -> Scores:
        """Each answer compared with its row's reference; None without one."""
        compared: list[Item] = []
        places: list[int | None] = []  # of the items among those compared
        for item in items:
            if item.reference is None:
                places.append(None)
            else:
                places.append(len(compared))
                compared += [_alone(item), _reference_item(item)]

        scores = _picked(self._within_rows(compared, "all"), places)
        scores.flags["no_reference"] = [item.reference is None for item in items]
        return scores

    def _within_rows(self, items: Sequence[Item], against: str) -> Scores:
        codes = [self._texts.language_of(item) for item in items]
        pairs = list(pairs_of(items, against))
        comparisons = self._compare(items, pairs, codes)
        scores = self._scores(comparisons, items)

        in_pairs = set(chain.from_iterable(pairs))
        scores.flags["alone"] = [place not in in_pairs for place in range(len(items))]
        return with_rubrics(scores, codes, self._settings)

    def _compare(
        self,
        items: Sequence[Item],
        pairs: Sequence[tuple[int, int]],
        codes: Sequence[str | None],
    ) -> list[Comparison]:
        """Compare the pairs that have rubrics; equal answers tie without a question."""
        possible = []
        differing = []
        questions = []
        for i, j in pairs:
            code_i = codes[i]
            code_j = codes[j]
            if code_i is None or code_j is None:
                continue
            possible.append((i, j))
            if items[i].answer != items[j].answer:
                differing.append((i, j))
                questions.append(self._question(items[i], items[j], code_i))
                questions.append(self._question(items[j], items[i], code_j))

        verdicts = self._asker.ask(questions)
        of_both_orders = zip(verdicts[::2], verdicts[1::2], strict=True)
        verdicts_by_pair = dict(zip(differing, of_both_orders, strict=True))
        comparisons = []
        for i, j in possible:
            if (i, j) in verdicts_by_pair:
                i_first, j_first = verdicts_by_pair[i, j]
                comparisons.append(self._compared(i, j, i_first, j_first))
            else:
                comparisons.append(Comparison(i, j, 0.5, False, ((), ())))
        return comparisons

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
            forms = {label: (label,) for label in labels}
            self._answers[code] = Answers(forms, prompts.phrases(code)["verdict"])
        return Question(f"{first.id}\x1f{second.id}", text, self._answers[code])

    def _compared(
        self, i: int, j: int, i_first: Sequence[Verdict], j_first: Sequence[Verdict]
    ) -> Comparison:
        verdicts = (i_first, j_first)
        share_i_first = mean([self._worth(verdict) for verdict in i_first])
        share_j_first = mean([self._worth(verdict) for verdict in j_first])
        if share_i_first is None or share_j_first is None:
            return Comparison(i, j, None, False, verdicts)

        # Both as the share of answer i.
        share_i_second = 1.0 - share_j_first
        disagree = sign(share_i_first - 0.5) != sign(share_i_second - 0.5)
        share = self._share(share_i_first, share_i_second, disagree)
        return Comparison(i, j, share, disagree, verdicts)

    def _worth(self, verdict: Verdict) -> float | None:
        """The share that a verdict gives to the answer that was shown first."""
        if self._settings.expectation and verdict.probabilities:
            return math.fsum(WORTH[label] * p for label, p in verdict.probabilities.items())
        if verdict.label is None:
            return None
        return WORTH[verdict.label]

    def _share(self, shown_first: float, shown_second: float, disagree: bool) -> float:
        """One share from those of the two orders: their mean, or a win, a tie or a loss."""
        if self._settings.expectation:
            return (shown_first + shown_second) / 2
        if disagree:
            return 0.5
        return 0.5 + sign(shown_first - 0.5) / 2

    def _scores(self, comparisons: Sequence[Comparison], items: Sequence[Item]) -> Scores:
        by_item: list[list[Comparison]] = [[] for _ in items]
        for comparison in comparisons:
            by_item[comparison.i].append(comparison)
            by_item[comparison.j].append(comparison)

        values: list[float | None] = []
        disagreement: list[float | None] = []
        n_counted: list[float | None] = []
        positions_disagree = []
        verdicts = []
        for place, own in enumerate(by_item):
            counted = [comparison for comparison in own if comparison.share is not None]
            values.append(mean([comparison.share_of(place) for comparison in counted]))
            disagreement.append(mean([float(comparison.disagree) for comparison in counted]))
            n_counted.append(float(len(counted)))
            positions_disagree.append(any(comparison.disagree for comparison in own))
            verdicts.append(_verdicts_of(own))

        flags = flags_of(verdicts)
        flags["positions_disagree"] = positions_disagree
        columns = {"position_disagreement": disagreement, "comparisons": n_counted}
        texts = texts_of(verdicts, self._settings)
        texts["verdict"] = [_quoted(own, place, items) for place, own in enumerate(by_item)]
        n_tokens = tokens_of([_verdicts_of(comparisons)])
        return Scores(values, flags, columns, texts, tokens=n_tokens)


def _verdicts_of(comparisons: Sequence[Comparison]) -> list[Verdict]:
    return list(chain.from_iterable(comparison.all_verdicts() for comparison in comparisons))


def _alone(item: Item) -> Item:
    """The item in a row that it shares with its reference alone."""
    return dataclasses.replace(item, row=item.id)


def _reference_item(item: Item) -> Item:
    """The answer in an item's reference, as an item of the same row."""
    answer = str(json.loads(item.reference or "{}")["answer"])
    return dataclasses.replace(
        item, id=f"{item.id}:stored", response=answer, row=item.id, answer_extra={}
    )


def _picked(scores: Scores, places: Sequence[int | None]) -> Scores:
    """The scores at these places; None, and no flag, where there is no place."""

    def at_places(values: Sequence, absent: Any) -> list:
        picked = []
        for place in places:
            picked.append(absent if place is None else values[place])
        return picked

    return dataclasses.replace(
        scores,
        values=at_places(scores.values, None),
        flags={name: at_places(facts, False) for name, facts in scores.flags.items()},
        columns={name: at_places(values, None) for name, values in scores.columns.items()},
        texts={name: at_places(texts, None) for name, texts in scores.texts.items()},
    )


def pairs_of(items: Sequence[Item], against: str) -> Iterator[tuple[int, int]]:
    """The pairs to compare: places of answers to one prompt in one row.

    `first`: the row's first answer with each other one.
    """
    rows: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        prompt = json.dumps(item.prompt, sort_keys=True)
        rows[item.row or item.id, prompt].append(i)
    for places in rows.values():
        if against == "first":
            first, *others = places
            yield from ((first, other) for other in others)
        else:
            yield from combinations(sorted(places, key=lambda i: items[i].id), 2)


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _quoted(comparisons: Sequence[Comparison], item: int, items: Sequence[Item]) -> str | None:
    """JSON: the judge's words on each comparison of an item.

    They are by the order in which its answer was shown; `A` is the answer that was shown first.
    """
    entries = []
    for comparison in comparisons:
        i_first, j_first = comparison.verdicts
        if comparison.i == item:
            opponent = comparison.j
            shown_first = i_first
            shown_second = j_first
        else:
            opponent = comparison.i
            shown_first = j_first
            shown_second = i_first
        entry = {
            "against": items[opponent].id,
            "shown_first": [verdict.raw for verdict in shown_first],
            "shown_second": [verdict.raw for verdict in shown_second],
        }
        entries.append(entry)
    return json.dumps(entries, ensure_ascii=False) if entries else None
