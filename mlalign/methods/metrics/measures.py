"""The metrics of answers, of reward models and of wins, as what each item adds to their sums.

A measure is I x K numbers, one row for each item, and the function of their sums. In this form a
metric, its breakdowns and the paired difference of two policies are all the same computation
(`mlalign.methods.metrics.bootstrap`).
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from mlalign.methods.metrics import (
    accuracy,
    best_of_n,
    confusion,
    consistency,
    length,
    ratios,
    win_rate,
)
from mlalign.methods.metrics.answers import Answers, Items, counterparts, pairs, stored
from mlalign.methods.metrics.bootstrap import Combine


@dataclasses.dataclass(frozen=True)
class Measure:
    """A metric by a score column.

    Where nothing is observed in a language that it `applies` to, `needs` says what is missing.
    """

    name: str
    by: str
    columns: np.ndarray  # I x K, nan where nothing is observed
    combine: Combine = ratios.ratio
    higher_is_better: bool = True
    broken_down: bool = False  # by origin, and by keys of metadata
    compared: bool = True  # between policies
    needs: str = ""
    applies: Callable[[str], bool] = lambda language: True


@dataclasses.dataclass(frozen=True)
class Columns:
    """The names of score columns, by what they say of an answer."""

    accuracy: str  # whether it is right
    concept: str  # whether it is right in any language
    adherence: str  # whether it is in the language asked for
    words: str  # with `.line_pass`, `.word_pass` and so on: of its lines and words
    select: str = ""  # the score by which one of several answers is selected


def of_answers(answers: Answers, by: Columns, english: str) -> list[Measure]:
    """All measures of answers; those without any value say in `needs` what is missing."""
    right = answers.score(by.accuracy)
    adhering = _verdicts(answers, by.adherence)
    no_value = f"no value in column {by.accuracy!r}"
    accuracy_measure = Measure(
        "accuracy", by.accuracy, accuracy.mean_columns(right), broken_down=True, needs=no_value
    )
    adherence_measure = Measure(
        "adherence",
        by.adherence,
        accuracy.mean_columns(adhering),
        broken_down=True,
        needs=f"values in column {by.adherence!r} for fewer than half of the answers",
    )
    return [
        accuracy_measure,
        adherence_measure,
        *_inside(answers, by.words),
        *_concept(answers, adhering, by, english),
        *_consistency(answers.items, accuracy.mean(right), by.accuracy, english),
        _oracle(answers, right, by.accuracy, no_value),
        *_lengths(answers, english),
        *_selected(answers, right, by),
    ]


def _verdicts(answers: Answers, column: str) -> np.ndarray:
    return confusion.where_known(answers.items.language, answers.score(column), answers.present)


def _oracle(answers: Answers, right: np.ndarray, by: str, no_value: str) -> Measure:
    """The accuracy of a perfect selector, where there are several answers to a prompt."""
    if (answers.present.sum(1) > 1).any():
        best = best_of_n.oracle(right)
        needs = no_value
    else:
        best = np.full(len(right), np.nan)
        needs = "one answer to each prompt"
    return Measure("oracle_accuracy", by, accuracy.mean_columns(best), needs=needs)


def _selected(answers: Answers, right: np.ndarray, by: Columns) -> list[Measure]:
    """The accuracy of the answers that a score selects."""
    if not by.select:
        return []
    chosen = best_of_n.selected(answers.score(by.select), right)
    needs = f"no answer with values in columns {by.select!r} and {by.accuracy!r}"
    columns = accuracy.mean_columns(chosen)
    return [Measure("selected_accuracy", by.select, columns, needs=needs)]


def _inside(answers: Answers, by: str) -> list[Measure]:
    """Of the lines and words in answers: are they in the requested language?"""
    known = ~np.isnan(_verdicts(answers, by))

    def values(name: str) -> np.ndarray:
        return np.where(known, answers.score(f"{by}.{name}"), np.nan)

    lines = values("line_pass")
    words = values("word_pass")
    needs = (
        f"no value in the columns of {by!r} on lines and words; score with `level: word`, by an"
        " identifier that knows the language"
    )
    measures = [
        Measure("line_share", by, accuracy.mean_columns(values("line_share"))),
        Measure("word_share", by, accuracy.mean_columns(values("word_share"))),
        Measure("line_pass", by, confusion.line_columns(lines)),
        Measure("word_pass", by, confusion.word_columns(lines, words), applies=confusion.has_words),
        Measure(
            "lcpr",
            by,
            confusion.lcpr_columns(answers.items.language, lines, words),
            ratios.harmonic,
            applies=confusion.has_words,
        ),
    ]
    return [dataclasses.replace(measure, needs=needs) for measure in measures]


def _concept(answers: Answers, adhering: np.ndarray, by: Columns, english: str) -> list[Measure]:
    """Does a policy know the answer, and does it say it in the requested language?"""
    right = answers.score(by.concept)
    measures = []
    for name, columns in confusion.split_columns(right, adhering).items():
        is_good = name == "right_in_language"
        measures.append(Measure(name, by.concept, columns, higher_is_better=is_good))
    adherence_of_right = confusion.adherence_of_right_columns(right, adhering)
    measures.append(Measure("adherence_of_right", by.concept, adherence_of_right))
    coco_cola = confusion.coco_cola_columns(
        answers.items.language, right, adhering, answers.detected, english
    )
    measures.append(Measure("coco_cola", by.concept, coco_cola, applies=_all_but(english)))

    needs = f"no answer with values in columns {by.concept!r} and {by.adherence!r}"
    return [dataclasses.replace(measure, needs=needs) for measure in measures]


def _all_but(english: str) -> Callable[[str], bool]:
    return lambda language: language != english


def _consistency(items: Items, right: np.ndarray, by: str, english: str) -> list[Measure]:
    cells = consistency.table_columns(right, counterparts(items, english))
    everywhere = consistency.all_columns(items, right)
    foreign = _all_but(english)
    of_pairs = (
        f"no item with values of {by!r} in {english} and in another language of the same group_id"
    )
    of_all = f"no item with values of {by!r} in two languages of the same group_id"
    return [
        Measure("consistency", by, accuracy.on_diagonal(cells), needs=of_pairs, applies=foreign),
        Measure("consistency_kappa", by, cells, ratios.kappa, needs=of_pairs, applies=foreign),
        Measure("consistency_all", by, everywhere, needs=of_all),
    ]


def _lengths(answers: Answers, english: str) -> list[Measure]:
    items = answers.items
    lengths = answers.lengths
    premium = length.premium_columns(items.prompt_bytes, counterparts(items, english))
    content = length.content_columns(items.language, lengths["bytes"], premium)
    per_character = accuracy.sum_columns(lengths["tokens"], lengths["characters"])
    means = {name: accuracy.mean_columns(values) for name, values in lengths.items()}

    parallel = f"no prompt in {english} and in another language of the same group_id"
    no_tokens = "the engine gave no numbers of tokens"
    no_end = "the engine did not say how answers ended"
    measures = [
        Measure("tokens", "", means["tokens"], needs=no_tokens),
        Measure("characters", "", means["characters"], needs="no answer"),
        Measure("bytes", "", means["bytes"], needs="no answer"),
        Measure("content_bytes", "", content, ratios.ratio_of_ratios, needs=parallel),
        Measure("byte_premium", "prompts", premium, compared=False, needs=parallel),
        Measure("tokens_per_character", "", per_character, needs=no_tokens),
        Measure("truncated", "", means["truncated"], needs=no_end),
    ]
    return [dataclasses.replace(measure, higher_is_better=False) for measure in measures]


def of_preferences(preferences: Answers, column: str, english: str) -> list[Measure]:
    """What a reward model says of preference rows.

    Agreement is with its own verdict on the English row of the same item.
    """
    verdicts = accuracy.verdict(preferences.score(column))
    right = accuracy.mean_columns(verdicts)
    ties = accuracy.mean_columns(accuracy.tie(verdicts))
    cells = accuracy.agreement_columns(verdicts, counterparts(preferences.items, english))
    same = accuracy.on_diagonal(cells)

    foreign = _all_but(english)
    no_value = f"no value in column {column!r}"
    parallel = (
        f"no row with values of {column!r} in {english} and in another language of the same"
        " group_id"
    )
    return [
        Measure("reward_accuracy", column, right, broken_down=True, needs=no_value),
        Measure("reward_ties", column, ties, higher_is_better=False, needs=no_value),
        Measure("reward_agreement", column, same, needs=parallel, applies=foreign),
        Measure("reward_kappa", column, cells, ratios.kappa, needs=parallel, applies=foreign),
    ]


def of_wins(ours: Answers, baseline: Answers, by: str) -> Measure:
    """The share of wins of each of our items over the same item of the baseline."""
    i, j = pairs(ours.items, baseline.items)
    share = np.full(len(ours.items), np.nan)
    share[i] = win_rate.raw(ours.score(by)[i], baseline.score(by)[j])
    columns = accuracy.mean_columns(share)
    return Measure("win_rate", by, columns, broken_down=True, needs=f"no value in column {by!r}")


def of_stored(ours: Answers, by: str) -> Measure:
    """The share of wins of each of our items over the answer that is stored for it."""
    return dataclasses.replace(of_wins(ours, stored(ours, by), by), name="stored_win_rate")
