"""Scores made comparable across languages: per language a location and scale, or a monotone quantile map. In `card.yaml`.

Two answers to one prompt compare without any of this. Numbers of two languages do not: a model may score everything in one
language lower. Both methods put a language's scores s on the scale of a standard normal, so that no language is the measure:

    location_scale   (s - mean) / std, population mean and standard deviation of the language's scores
    quantile         T(s), where T maps the language's p-quantile to the normal's, at p = (k + 1/2) / 101 for k = 0..100

T is linear between its knots and goes on with slope 1/std beyond them; quantiles that are equal (a judge's marks) are one knot,
at the mean of their normal scores. So T increases strictly: it never changes an order within a language. Outliers move mean and
std, hardly T. Calibration assumes that the languages' answers are equally good on average: fit it on translations of the same rows.
"""

import argparse
import bisect
import dataclasses
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlalign.core.errors import UserError
from reward_models import card as cards
from reward_models.families.together import Together
from reward_models.items import Item, Scores

if TYPE_CHECKING:
    from reward_models import Scorer

METHODS = ("location_scale", "quantile")
N_QUANTILES = 101
MIN_ANSWERS = 100  # of a language: the mean is then known to a tenth of the standard deviation
SIGNIFICANT = 9  # digits kept in the card
NORMAL = statistics.NormalDist()


def fit(values: Sequence[float]) -> dict[str, Any]:
    """`{n, mean, std, quantiles}` of one language's scores; their order changes nothing. `std` is the population's.

    The p-quantile is Hazen's (Hyndman and Fan 1996, type 5): position n * p - 1/2 among the sorted scores, linear between two.
    """
    ordered, n = sorted(values), len(values)
    mean = math.fsum(ordered) / n
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in ordered) / n)
    quantiles = itertools.accumulate((_quantile(ordered, p) for p in levels(N_QUANTILES)), max)
    return {"n": n, "mean": _short(mean), "std": _short(std), "quantiles": [_short(q) for q in quantiles]}


def levels(n: int) -> list[float]:
    """The p of n quantiles, (k + 1/2) / n: symmetrical, never 0 or 1."""
    return [(k + 0.5) / n for k in range(n)]


def transform(entry: Mapping, method: str) -> Callable[[float], float] | None:
    """What turns a language's score into a calibrated one; None where the entry cannot (no spread; for `quantile`: no quantiles)."""
    mean, std = entry["mean"], entry["std"]
    if std <= 0:
        return None
    if method == "location_scale":
        return lambda score: (score - mean) / std
    return _quantile_map(entry["quantiles"], std) if entry.get("quantiles") else None


def calibrated(scorer: "Scorer", card: cards.Card, method: str, output: str | int | None = None) -> "Scorer":
    """The scorer with its values on one scale for all languages; the value before that is the column `raw`.

    An answer in a language without calibration has None and the flag `uncalibrated`. `output` is the one of a model's several
    that is scored: calibration of another is not used. Raises: UserError if the card has no calibration that fits at all.
    """
    maps = {code: transform(e, method) for code, e in card.calibration.items() if e.get("output") == output}
    known = {code: change for code, change in maps.items() if change is not None}
    if not known:
        what = f"{method} calibration" + (f" of output {output!r}" if output is not None else "")
        raise UserError(f"{scorer.name}: its card has no {what} of any language; measure it: rm-score calibrate")

    def run(items: Sequence[Item]) -> Scores:
        found = scorer.score_items(items)
        changes = [known.get(item.language) if item.language else None for item in items]
        values = [None if v is None or change is None else change(v) for v, change in zip(found.values, changes, strict=True)]
        flag = [v is not None and change is None for v, change in zip(found.values, changes, strict=True)]
        return dataclasses.replace(
            found, values=values, columns={**found.columns, "raw": found.values}, flags={**found.flags, "uncalibrated": flag}
        )

    return dataclasses.replace(scorer, score_items=Together([scorer], run))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `wrap` reads."""
    parser.add_argument("--calibrated", choices=METHODS, help="scores on one scale for all languages, by the calibration in the card")
    parser.add_argument("--card", type=Path, metavar="FILE.yaml", help="card with the calibration, where it is not the model's own")


def wrap(scorer: "Scorer", options: argparse.Namespace, told: Mapping) -> "Scorer":
    """The scorer as `--calibrated` wants it; `told` are its settings. Raises: UserError if there is no card or no calibration."""
    if options.calibrated is None:
        return scorer
    card = card_of(options.card, told)
    if card is None:
        raise UserError(f"--calibrated: {options.card or told.get('path') or told['family']} has no card; measure: rm-score calibrate")
    return calibrated(scorer, card, options.calibrated, told.get("output"))


def card_of(file: Path | None, told: Mapping) -> cards.Card | None:
    """The card under `--card`, or else the model's own; None if there is none."""
    if file is not None:
        return cards.read(_yaml(file))
    return cards.read(told["path"], told.get("revision")) if told.get("path") else None


def place(file: Path | None, told: Mapping) -> Path:
    """Where a card with calibration is written. Raises: UserError if nobody says, or the model is no directory here."""
    if file is not None:
        return _yaml(file)
    if not told.get("path"):
        raise UserError(f"family {told['family']} has no directory for its card: name a file with --card FILE.yaml")
    if not Path(told["path"]).is_dir():
        raise UserError(f"{told['path']}: no directory here to write a card into: name a file with --card FILE.yaml")
    return Path(told["path"]) / cards.FILE


def warning(languages: Iterable[str | None], card: cards.Card | None, method: str | None = None) -> str | None:
    """What to say before scores of these languages are compared with one another; None if nothing.

    `method` is the calibration that was applied, None for raw scores. For values only: an order within a row needs no calibration.
    """
    seen = sorted({code for code in languages if code})
    without = [code for code in seen if card is None or transform(card.calibration.get(code, {"mean": 0, "std": 0}), _any(method)) is None]
    if len(seen) < 2 or (method and not without):
        return None
    if not without:
        return f"scores of {_some(seen)} are on scales of their own: compare them with --calibrated, or only within a language"
    return (
        f"scores of {_some(seen)} are on scales of their own, and {_some(without)} {'has' if len(without) == 1 else 'have'} no "
        "calibration: compare them only within a language, or measure it: rm-score calibrate"
    )


def _any(method: str | None) -> str:
    return method or "location_scale"


def _some(codes: Sequence[str]) -> str:
    return ", ".join(codes[:6]) + (f" and {len(codes) - 6} more" if len(codes) > 6 else "")


def _yaml(file: Path) -> Path:
    if file.suffix != ".yaml":
        raise UserError(f"--card {file}: expected a name ending in .yaml")
    return file


def _quantile(ordered: Sequence[float], p: float) -> float:
    position = min(max(len(ordered) * p - 0.5, 0.0), len(ordered) - 1.0)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _quantile_map(quantiles: Sequence[float], std: float) -> Callable[[float], float]:
    """T of the module's text: strictly increasing, equal to the normal score at every knot."""
    at: dict[float, list[float]] = defaultdict(list)
    for q, p in zip(quantiles, levels(len(quantiles)), strict=True):
        at[q].append(NORMAL.inv_cdf(p))
    knots = list(at)
    normal = [statistics.fmean(at[q]) for q in knots]

    def change(score: float) -> float:
        i = bisect.bisect_right(knots, score) - 1
        if i < 0:
            return normal[0] + (score - knots[0]) / std
        if i == len(knots) - 1:
            return normal[-1] + (score - knots[-1]) / std
        share = (score - knots[i]) / (knots[i + 1] - knots[i])
        return min(normal[i] + share * (normal[i + 1] - normal[i]), normal[i + 1])

    return change


def _short(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")
