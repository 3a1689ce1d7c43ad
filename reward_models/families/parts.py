"""Scorers made of scorers: opens their parts and reports the scores of each.

Used by `composite` and `ensemble`.
"""

from collections.abc import Callable, Mapping, Sequence

import reward_models
from mlalign.core.errors import UserError
from reward_models import settings
from reward_models.evidence import calibration
from reward_models.items import Item, Scores

Values = list[float | None]


def open_all(
    specs: Sequence[Mapping], calibrate: str | None = None
) -> dict[str, "reward_models.Scorer"]:
    """The parts by name.

    `calibrate` names a method of calibration: the card of each part that has a model then puts it
    on one scale for all languages.

    Raises: UserError with every mistake, or naming the part whose card has no calibration.
    """
    opened = {}
    for spec in specs:
        scorer = reward_models.open_scorer(spec)
        opened[str(settings.name_of(spec))] = scorer
    if calibrate is None:
        return opened

    calibrated = {}
    for (name, scorer), spec in zip(opened.items(), specs, strict=True):
        calibrated[name] = _calibrated(scorer, spec, calibrate)
    return calibrated


def _calibrated(
    scorer: "reward_models.Scorer", spec: Mapping, method: str
) -> "reward_models.Scorer":
    if not spec.get("path"):
        return scorer
    card = calibration.card_of(None, spec)
    if card is None:
        raise UserError(
            f"{scorer.name}: {spec['path']} has no card with a calibration;"
            " measure it: rm-score calibrate"
        )
    return calibration.calibrated(scorer, card, method, spec.get("output"))


def acceptor(specs: Sequence[Mapping]) -> Callable[[Sequence[Item]], None]:
    """A function that raises a UserError for items that one of the parts would refuse."""
    acceptors = []
    for spec in specs:
        accept_part = reward_models.acceptor(spec)
        if accept_part is not None:
            acceptors.append(accept_part)

    def accept(items: Sequence[Item]) -> None:
        for accept_part in acceptors:
            accept_part(items)

    return accept


def with_parts(
    scores_by_part: Mapping[str, Scores],
    values: Values,
    flags: dict[str, list[bool]],
    columns: dict[str, Values],
) -> Scores:
    """The scores of the whole, with those of its parts as `PART`, `PART.COLUMN` and `PART.FLAG`."""
    flags = dict(flags)
    columns = dict(columns)
    texts: dict[str, list[str | None]] = {}
    detected = None
    for part, scores in scores_by_part.items():
        columns[part] = scores.values
        for column, numbers in scores.columns.items():
            columns[f"{part}.{column}"] = numbers
        for flag, facts in scores.flags.items():
            flags[f"{part}.{flag}"] = facts
        for column, part_texts in scores.texts.items():
            texts[f"{part}.{column}"] = part_texts
        if detected is None:
            detected = scores.detected

    n_tokens = sum(scores.tokens for scores in scores_by_part.values())
    return Scores(values, flags, columns, texts, detected, n_tokens)


def by_row(
    items: Sequence[Item],
    values: Mapping[str, Values],
    change: Callable[[dict[str, Values]], Values],
) -> Values:
    """`change` of the values of each row's answers; an item without a row is a row of its own."""
    places_by_row: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        row = f"item {i}" if item.row is None else f"row {item.row}"
        places_by_row.setdefault(row, []).append(i)

    changed: Values = [None] * len(items)
    for places in places_by_row.values():
        row_values = {}
        for name, all_values in values.items():
            row_values[name] = [all_values[i] for i in places]
        for i, value in zip(places, change(row_values), strict=True):
            changed[i] = value
    return changed
