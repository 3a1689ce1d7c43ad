"""`rm-score calibrate`: what each language's scores look like, written into the model's card.

    rm-score calibrate --model PATH --input rows.jsonl
    rm-score calibrate --family language_adherence --input rows.jsonl --card adherence.yaml

Every answer in the rows is scored. A language gets {n, mean, std, quantiles}; `score --calibrated` uses them. The card is written at
the end, whole or not at all. Languages that the card had and these rows have not stay as they are.

Exit status: 0 done, 1 done but some answers have no score or some language was left out, 2 nothing written.
"""

import argparse
import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import reward_models
from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from reward_models import card as cards
from reward_models import commands, files, inputs, items
from reward_models.evidence import calibration

HELP = "make scores of different languages comparable"


def arguments(parser: argparse.ArgumentParser) -> None:
    commands.add_scorer(parser)
    inputs.add_options(parser, "rows of any shape")
    parser.add_argument("--card", type=Path, metavar="FILE.yaml", help="card to write, where it is not the model's own")
    parser.add_argument(
        "--min-answers", type=int, default=calibration.MIN_ANSWERS, help="a language with fewer scored answers is left out (%(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")


def run(options: argparse.Namespace) -> int:
    told = commands.scorer_settings(options)
    place = calibration.place(options.card, told)
    card = cards.read(place) or cards.read(told.get("path", place)) or cards.Card(family=told["family"])
    if card.family != told["family"]:
        raise UserError(f"{place}: is the card of a {card.family}, not of a {told['family']}")
    counts: Counter = Counter()
    dropped: Counter = Counter()
    inputs.check(options, [told])
    scores = _scores(reward_models.open_scorer(told), inputs.kept(inputs.read(options, dropped), dropped), counts)
    fitted, left_out = _fitted(scores, max(options.min_answers, 2))
    if not fitted:
        raise UserError(*(f"left out: {why}" for why in left_out), "no language can be calibrated")
    output = {"output": told["output"]} if told.get("output") is not None else {}
    kept = [code for code in card.calibration if code not in fitted]
    card.calibration = {**card.calibration, **{code: {**entry, **output} for code, entry in fitted.items()}}
    _print(fitted)
    told_also = [f"left out: {why}" for why in left_out] + [f"not counted: {n} {what}" for what, n in sorted(counts.items()) if n]
    told_also += [f"kept as the card has them: {', '.join(kept)}"] if kept else []
    for line in inputs.dropped_lines(dropped) + told_also:
        say(line, file=sys.stderr)
    if not options.dry_run:
        say(f"{cards.write(place, card)}: calibration of {len(fitted)} languages written", file=sys.stderr)
    return 1 if left_out or any(counts.values()) else 0


def _scores(scorer: reward_models.Scorer, rows: Iterable[tuple[str, dict]], counts: Counter) -> dict[str, array]:
    """The scores of each language; `counts` gets what has none."""
    scores: dict[str, array] = defaultdict(lambda: array("d"))
    for window in files.windows(rows):
        answers = [item for where, row in window for item in items.of_row(row, where)]
        for item, value in zip(answers, scorer.score_items(answers).values, strict=True):
            if item.language is None:
                counts["answers without a language"] += 1
                continue
            scores[item.language].extend(() if value is None else (value,))
            counts[f"answers in {item.language} without a score"] += value is None
    return dict(scores)


def _fitted(scores: Mapping[str, Sequence[float]], least: int) -> tuple[dict[str, dict], list[str]]:
    """Language -> calibration, in the order of languages; and why others have none."""
    fitted, left_out = {}, []
    for code in sorted(scores):
        entry = calibration.fit(scores[code]) if len(scores[code]) >= least else None
        if entry is None:
            left_out.append(f"{code}: {len(scores[code])} scored answers, {least} are needed")
        elif entry["std"] == 0:
            left_out.append(f"{code}: all its {entry['n']} scores are {entry['mean']:g}")
        else:
            fitted[code] = entry
    return fitted, left_out


def _print(found: Mapping[str, Mapping]) -> None:
    middle = calibration.N_QUANTILES // 2
    say(f"{'language':<12}{'answers':>9}{'mean':>12}{'std':>12}{'5%':>12}{'median':>12}{'95%':>12}")
    for code, e in found.items():
        numbers = (e["mean"], e["std"], e["quantiles"][5], e["quantiles"][middle], e["quantiles"][-6])
        say(f"{code:<12}{e['n']:>9}" + "".join(f"{n:>12.5g}" for n in numbers))
