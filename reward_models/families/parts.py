"""Scorers made of scorers: opening their parts, and what they tell of each.

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
    told: Sequence[Mapping], calibrate: str | None = None
) -> dict[str, "reward_models.Scorer"]:
    """The parts by name.

    With `calibrate` those that have a model are put on one scale for all languages by its card.

    Raises: UserError with every mistake, or naming the part whose card has no calibration.
    """
    opened = {str(settings.name_of(t)): reward_models.open_scorer(t) for t in told}
    if calibrate is None:
        return opened
    return {
        name: _calibrated(scorer, t, calibrate)
        for (name, scorer), t in zip(opened.items(), told, strict=True)
    }


def _calibrated(
    scorer: "reward_models.Scorer", told: Mapping, method: str
) -> "reward_models.Scorer":
    if not told.get("path"):
        return scorer
    card = calibration.card_of(None, told)
    if card is None:
        raise UserError(
            f"{scorer.name}: {told['path']} has no card with a calibration; measure it: rm-score"
            " calibrate"
        )
    return calibration.calibrated(scorer, card, method, told.get("output"))


def acceptor(told: Sequence[Mapping]) -> Callable[[Sequence[Item]], None]:
    """What raises a UserError for items that one of the parts would refuse."""
    acceptors = [found for part in told if (found := reward_models.acceptor(part))]

    def accept(items: Sequence[Item]) -> None:
        for each in acceptors:
            each(items)

    return accept


def told_by(
    found: Mapping[str, Scores],
    values: Values,
    flags: dict[str, list[bool]],
    columns: dict[str, Values],
) -> Scores:
    """The scores of the whole, with everything that the parts tell under `PART` and `PART.WHAT`."""
    for name, scores in found.items():
        columns = {
            **columns,
            name: scores.values,
            **{f"{name}.{column}": v for column, v in scores.columns.items()},
        }
        flags = {**flags, **{f"{name}.{flag}": v for flag, v in scores.flags.items()}}
    texts = {
        f"{name}.{text}": v for name, scores in found.items() for text, v in scores.texts.items()
    }
    detected = next((s.detected for s in found.values() if s.detected is not None), None)
    return Scores(values, flags, columns, texts, detected, sum(s.tokens for s in found.values()))


def by_row(
    items: Sequence[Item],
    values: Mapping[str, Values],
    change: Callable[[dict[str, Values]], Values],
) -> Values:
    """`change` of the values of each row's answers in turn; an item without a row stands alone."""
    rows: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        rows.setdefault(f"row {item.row}" if item.row is not None else f"item {i}", []).append(i)
    out: Values = [None] * len(items)
    for places in rows.values():
        changed = change({name: [v[i] for i in places] for name, v in values.items()})
        for i, value in zip(places, changed, strict=True):
            out[i] = value
    return out
