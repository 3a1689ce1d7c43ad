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

    `needs` says what was missing where nothing is observed, in the languages that it `applies` to.
    """

    name: str
    by: str
    columns: np.ndarray  # I x K, nan where nothing is observed
    combine: Combine = ratios.ratio
    higher_is_better: bool = True
    broken_down: bool = False  # by origin, and by what metadata tells
    compared: bool = True  # between policies
    needs: str = ""
    applies: Callable[[str], bool] = lambda language: True


@dataclasses.dataclass(frozen=True)
class Columns:
    """The score columns that say whether an answer is right, right in any language, in the language
    asked for, and (their columns `.line_pass`, …) its lines and words; and the one that selects.
    """

    accuracy: str
    concept: str
    adherence: str
    words: str
    select: str = ""


def of_answers(answers: Answers, by: Columns, english: str) -> list[Measure]:
    """All measures of answers; those without any value say in `needs` what they lack."""
    right, adhering = answers.score(by.accuracy), _verdicts(answers, by.adherence)
    unknown, several = f"no value in column {by.accuracy!r}", (answers.present.sum(1) > 1).any()
    best = best_of_n.oracle(right) if several else np.full(len(right), np.nan)
    measures = [
        Measure(
            "accuracy", by.accuracy, accuracy.mean_columns(right), broken_down=True, needs=unknown
        ),
        Measure(
            "adherence",
            by.adherence,
            accuracy.mean_columns(adhering),
            broken_down=True,
            needs=_few(by.adherence),
        ),
        *_inside(answers, by.words),
        *_concept(answers, adhering, by, english),
        *_consistency(answers.items, accuracy.mean(right), by.accuracy, english),
        Measure(
            "oracle_accuracy",
            by.accuracy,
            accuracy.mean_columns(best),
            needs=unknown if several else "one answer to each prompt",
        ),
        *_lengths(answers, english),
    ]
    if by.select:
        chosen = best_of_n.selected(answers.score(by.select), right)
        needs = f"no answer with values in columns {by.select!r} and {by.accuracy!r}"
        measures.append(
            Measure("selected_accuracy", by.select, accuracy.mean_columns(chosen), needs=needs)
        )
    return measures


def _verdicts(answers: Answers, column: str) -> np.ndarray:
    return confusion.where_known(answers.items.language, answers.score(column), answers.present)


def _few(column: str) -> str:
    return f"values in column {column!r} for fewer than half of the answers"


def _inside(answers: Answers, by: str) -> list[Measure]:
    known = ~np.isnan(_verdicts(answers, by))
    names = ("line_share", "word_share", "line_pass", "word_pass")
    parts = {p: np.where(known, answers.score(f"{by}.{p}"), np.nan) for p in names}
    lines, words = parts["line_pass"], parts["word_pass"]
    inside = (
        f"no value in the columns of {by!r} on lines and words; score with `level: word`, by an"
        " identifier that knows the language"
    )
    lcpr = confusion.lcpr_columns(answers.items.language, lines, words)
    return [
        Measure("line_share", by, accuracy.mean_columns(parts["line_share"]), needs=inside),
        Measure("word_share", by, accuracy.mean_columns(parts["word_share"]), needs=inside),
        Measure("line_pass", by, confusion.line_columns(lines), needs=inside),
        Measure(
            "word_pass",
            by,
            confusion.word_columns(lines, words),
            needs=inside,
            applies=confusion.has_words,
        ),
        Measure("lcpr", by, lcpr, ratios.harmonic, needs=inside, applies=confusion.has_words),
    ]


def _concept(answers: Answers, adhering: np.ndarray, by: Columns, english: str) -> list[Measure]:
    right = answers.score(by.concept)
    needs = f"no answer with values in columns {by.concept!r} and {by.adherence!r}"
    shares = confusion.split_columns(right, adhering)
    ratio = confusion.coco_cola_columns(
        answers.items.language, right, adhering, answers.detected, english
    )
    return [
        *(
            Measure(name, by.concept, c, higher_is_better=name == "right_in_language", needs=needs)
            for name, c in shares.items()
        ),
        Measure(
            "adherence_of_right",
            by.concept,
            confusion.adherence_of_right_columns(right, adhering),
            needs=needs,
        ),
        Measure(
            "coco_cola",
            by.concept,
            ratio,
            needs=needs,
            applies=lambda language: language != english,
        ),
    ]


def _consistency(items: Items, right: np.ndarray, by: str, english: str) -> list[Measure]:
    cells = consistency.table_columns(right, counterparts(items, english))
    needs = (
        f"no item with values of {by!r} in {english} and in another language of the same group_id"
    )
    everywhere = f"no item with values of {by!r} in two languages of the same group_id"

    def foreign(language: str) -> bool:
        return language != english

    return [
        Measure("consistency", by, accuracy.on_diagonal(cells), needs=needs, applies=foreign),
        Measure("consistency_kappa", by, cells, ratios.kappa, needs=needs, applies=foreign),
        Measure("consistency_all", by, consistency.all_columns(items, right), needs=everywhere),
    ]


def _lengths(answers: Answers, english: str) -> list[Measure]:
    items, told = answers.items, answers.lengths
    premium = length.premium_columns(items.prompt_bytes, counterparts(items, english))
    content = length.content_columns(items.language, told["bytes"], premium)
    per_character = accuracy.sum_columns(told["tokens"], told["characters"])
    parallel, tokens = (
        f"no prompt in {english} and in another language of the same group_id",
        "the engine gave no numbers of tokens",
    )
    found = [
        Measure("tokens", "", accuracy.mean_columns(told["tokens"]), needs=tokens),
        Measure("characters", "", accuracy.mean_columns(told["characters"]), needs="no answer"),
        Measure("bytes", "", accuracy.mean_columns(told["bytes"]), needs="no answer"),
        Measure("content_bytes", "", content, ratios.ratio_of_ratios, needs=parallel),
        Measure("byte_premium", "prompts", premium, compared=False, needs=parallel),
        Measure("tokens_per_character", "", per_character, needs=tokens),
        Measure(
            "truncated",
            "",
            accuracy.mean_columns(told["truncated"]),
            needs="the engine did not say how answers ended",
        ),
    ]
    return [dataclasses.replace(measure, higher_is_better=False) for measure in found]


def of_preferences(preferences: Answers, column: str, english: str) -> list[Measure]:
    """What a reward model says of preference rows, and how its verdicts agree with its own on the
    English row of the same item.
    """
    verdicts = accuracy.verdict(preferences.score(column))
    cells = accuracy.agreement_columns(verdicts, counterparts(preferences.items, english))
    needs, parallel = (
        f"no value in column {column!r}",
        (
            f"no row with values of {column!r} in {english} and in another language of the same"
            " group_id"
        ),
    )
    return [
        Measure(
            "reward_accuracy",
            column,
            accuracy.mean_columns(verdicts),
            broken_down=True,
            needs=needs,
        ),
        Measure(
            "reward_ties",
            column,
            accuracy.mean_columns(accuracy.tie(verdicts)),
            higher_is_better=False,
            needs=needs,
        ),
        Measure(
            "reward_agreement",
            column,
            accuracy.on_diagonal(cells),
            needs=parallel,
            applies=lambda language: language != english,
        ),
        Measure(
            "reward_kappa",
            column,
            cells,
            ratios.kappa,
            needs=parallel,
            applies=lambda language: language != english,
        ),
    ]


def of_wins(ours: Answers, baseline: Answers, by: str) -> Measure:
    """The share of wins of each of our items over the same item of the baseline."""
    i, j = pairs(ours.items, baseline.items)
    share = np.full(len(ours.items), np.nan)
    share[i] = win_rate.raw(ours.score(by)[i], baseline.score(by)[j])
    return Measure(
        "win_rate",
        by,
        accuracy.mean_columns(share),
        broken_down=True,
        needs=f"no value in column {by!r}",
    )


def of_stored(ours: Answers, by: str) -> Measure:
    """The share of wins of each of our items over the answer that is stored for it."""
    return dataclasses.replace(of_wins(ours, stored(ours, by), by), name="stored_win_rate")
