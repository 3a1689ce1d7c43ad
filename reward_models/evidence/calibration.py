"""Makes scores comparable across languages, by the calibration in a model's `card.yaml`.

Two answers to one prompt compare without it. Scores in two languages do not: a model may score
everything in one language lower. Both methods put a language's scores s on the scale of a standard
normal, so no language is the measure of the others:

    location_scale   (s - mean) / std, with the population's mean and standard deviation
    quantile         T(s), where T maps the language's p-quantile to the normal's,
                     at p = (k + 1/2) / 101 for k = 0..100

T is linear between its knots and continues with slope 1/std beyond them; quantiles that are equal
(a judge's marks) are one knot, at the mean of their normal scores. So T increases strictly: it
never changes an order within a language. Outliers move mean and std, but hardly T. Calibration
assumes that the languages' answers are equally good on average: fit it on translations of the same
rows.
"""

import argparse
import bisect
import dataclasses
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
MIN_ANSWERS = 100  # per language: the mean is then known to a tenth of the standard deviation
SIGNIFICANT = 9  # digits kept in the card
NORMAL = statistics.NormalDist()
SHOWN_CODES = 6  # in a message


def fit(values: Sequence[float]) -> dict[str, Any]:
    """`{n, mean, std, quantiles}` of one language's scores; their order does not matter.

    `std` is the population's. Quantiles are Hazen's (Hyndman and Fan 1996, type 5).
    """
    import numpy as np

    ordered = sorted(values)
    n = len(ordered)
    mean = math.fsum(ordered) / n
    variance = math.fsum((value - mean) ** 2 for value in ordered) / n
    std = math.sqrt(variance)
    quantiles = np.quantile(ordered, levels(N_QUANTILES), method="hazen")
    rounded = [_short(quantile) for quantile in np.maximum.accumulate(quantiles)]
    return {"n": n, "mean": _short(mean), "std": _short(std), "quantiles": rounded}


def levels(n: int) -> list[float]:
    """The p of n quantiles, (k + 1/2) / n: symmetrical, never 0 or 1."""
    return [(k + 0.5) / n for k in range(n)]


def transform(entry: Mapping, method: str) -> Callable[[float], float] | None:
    """A function that calibrates a language's scores.

    None if the entry cannot say: it has no spread, or (for `quantile`) no quantiles.
    """
    mean = entry["mean"]
    std = entry["std"]
    if std <= 0:
        return None
    if method == "location_scale":
        return lambda score: (score - mean) / std
    if not entry.get("quantiles"):
        return None
    return _quantile_map(entry["quantiles"], std)


def calibrated(
    scorer: "Scorer",
    card: cards.Card,
    method: str,
    output: str | int | None = None,
) -> "Scorer":
    """The scorer with its values on one scale for all languages.

    The column `raw` has the values before that. An answer in a language without calibration has
    None and the flag `uncalibrated`. `output` names the output that is scored, if the model has
    several: only calibration of that one is used.

    Raises: UserError if the card has no calibration of any language.
    """
    by_language: dict[str, Callable[[float], float]] = {}
    for code, entry in card.calibration.items():
        change = transform(entry, method) if entry.get("output") == output else None
        if change is not None:
            by_language[code] = change
    if not by_language:
        of_output = f" of output {output!r}" if output is not None else ""
        raise UserError(
            f"{scorer.name}: its card has no {method} calibration{of_output} of any language;"
            " measure it: rm-score calibrate"
        )

    def run(items: Sequence[Item]) -> Scores:
        scores = scorer.score_items(items)
        values: list[float | None] = []
        uncalibrated = []
        for item, raw in zip(items, scores.values, strict=True):
            calibrate = by_language.get(item.language or "")
            value = None
            if raw is not None and calibrate is not None:
                value = calibrate(raw)
            values.append(value)
            uncalibrated.append(raw is not None and calibrate is None)
        columns = {**scores.columns, "raw": scores.values}
        flags = {**scores.flags, "uncalibrated": uncalibrated}
        return dataclasses.replace(scores, values=values, columns=columns, flags=flags)

    return dataclasses.replace(scorer, score_items=Together([scorer], run))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `wrap` reads."""
    help_ = "scores on one scale for all languages, by the calibration in the card"
    parser.add_argument("--calibrated", choices=METHODS, help=help_)
    parser.add_argument(
        "--card",
        type=Path,
        metavar="FILE.yaml",
        help="card with the calibration, where it is not the model's own",
    )


def wrap(scorer: "Scorer", options: argparse.Namespace, settings: Mapping) -> "Scorer":
    """The scorer, calibrated as `--calibrated` asks; `settings` are the scorer's.

    Raises: UserError if there is no card or no calibration.
    """
    if options.calibrated is None:
        return scorer
    card = card_of(options.card, settings)
    if card is None:
        name = options.card or settings.get("path") or settings["family"]
        raise UserError(f"--calibrated: {name} has no card; measure: rm-score calibrate")
    return calibrated(scorer, card, options.calibrated, settings.get("output"))


def card_of(file: Path | None, settings: Mapping) -> cards.Card | None:
    """The card under `--card`, or else the model's own; None if there is none."""
    if file is not None:
        return cards.read(_yaml(file))
    if not settings.get("path"):
        return None
    return cards.read(settings["path"], settings.get("revision"))


def place(file: Path | None, settings: Mapping) -> Path:
    """Where a card with calibration is written.

    Raises: UserError if nothing says where, or the model is not a directory here.
    """
    if file is not None:
        return _yaml(file)
    path = settings.get("path")
    mend = "name a file with --card FILE.yaml"
    if not path:
        raise UserError(f"family {settings['family']} has no directory for its card: {mend}")
    if not Path(path).is_dir():
        raise UserError(f"{path}: no directory here to write a card into: {mend}")
    return Path(path) / cards.FILE


def warning(
    languages: Iterable[str | None],
    card: cards.Card | None,
    method: str | None = None,
) -> str | None:
    """A warning for whoever compares scores of these languages with one another, if needed.

    `method` is the calibration that was applied, None for raw scores. This is about values only:
    an order within a row needs no calibration.
    """
    codes = sorted({code for code in languages if code})
    calibration = card.calibration if card else {}
    needed = method or "location_scale"
    without = []
    for code in codes:
        if code not in calibration or transform(calibration[code], needed) is None:
            without.append(code)
    if len(codes) < 2 or (method and not without):
        return None

    problem = f"scores of {_some(codes)} are on scales of their own"
    if not without:
        return f"{problem}: compare them with --calibrated, or only within a language"
    have = "has" if len(without) == 1 else "have"
    mend = "compare them only within a language, or measure it: rm-score calibrate"
    return f"{problem}, and {_some(without)} {have} no calibration: {mend}"


def _some(codes: Sequence[str]) -> str:
    shown = ", ".join(codes[:SHOWN_CODES])
    n_more = len(codes) - SHOWN_CODES
    return f"{shown} and {n_more} more" if n_more > 0 else shown


def _yaml(file: Path) -> Path:
    if file.suffix != ".yaml":
        raise UserError(f"--card {file}: expected a name ending in .yaml")
    return file


def _quantile_map(quantiles: Sequence[float], std: float) -> Callable[[float], float]:
    """T of the module's docstring: strictly increasing, the normal score at every knot."""
    normal_scores: dict[float, list[float]] = defaultdict(list)
    for quantile, level in zip(quantiles, levels(len(quantiles)), strict=True):
        normal_scores[quantile].append(NORMAL.inv_cdf(level))
    knots = list(normal_scores)
    normal = [statistics.fmean(normal_scores[knot]) for knot in knots]

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
