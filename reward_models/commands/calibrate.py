"""`rm-score calibrate`: what each language's scores look like, written into the model's card.

    rm-score calibrate --model PATH --input rows.jsonl
    rm-score calibrate --family language_adherence --input rows.jsonl --card adherence.yaml

Every answer in the rows is scored. A language gets {n, mean, std, quantiles}, which
`score --calibrated` uses. The card is written at the end, whole or not at all. Its languages that
are not in these rows stay as they are.

Exit status: 0 done, 1 done but some answers have no score or some language was left out, 2 nothing
written.
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
    add = parser.add_argument
    help_ = "card to write, where it is not the model's own"
    add("--card", type=Path, metavar="FILE.yaml", help=help_)
    help_ = "a language with fewer scored answers is left out (%(default)s)"
    add("--min-answers", type=int, default=calibration.MIN_ANSWERS, help=help_)
    add("--dry-run", action="store_true", help="show what would be written, and write nothing")


def run(options: argparse.Namespace) -> int:
    settings = commands.scorer_settings(options)
    place = calibration.place(options.card, settings)
    card = _card(place, settings)
    inputs.check(options, [settings])

    counts: Counter = Counter()
    dropped: Counter = Counter()
    rows = inputs.kept(inputs.read(options, dropped), dropped)
    scores = _scores(reward_models.open_scorer(settings), rows, counts)
    fitted, left_out = _fitted(scores, max(options.min_answers, 2))
    if not fitted:
        reasons = [f"left out: {why}" for why in left_out]
        raise UserError(*reasons, "no language can be calibrated")

    unchanged = [code for code in card.calibration if code not in fitted]
    output = settings.get("output")
    for code, entry in fitted.items():
        card.calibration[code] = entry if output is None else {**entry, "output": output}

    _print(fitted)
    _report(inputs.dropped_lines(dropped), left_out, counts, unchanged)
    if not options.dry_run:
        written = cards.write(place, card)
        say(f"{written}: calibration of {len(fitted)} languages written", file=sys.stderr)
    return 1 if left_out or any(counts.values()) else 0


def _card(place: Path, settings: Mapping) -> cards.Card:
    """The card to extend: the one at `place`, else the model's own, else a new one."""
    family = settings["family"]
    card = cards.read(place) or cards.read(settings.get("path", place))
    if card is None:
        return cards.Card(family=family)
    if card.family != family:
        raise UserError(f"{place}: is the card of a {card.family}, not of a {family}")
    return card


def _report(
    dropped: Sequence[str],
    left_out: Sequence[str],
    counts: Mapping[str, int],
    unchanged: Sequence[str],
) -> None:
    """Say what was not used, and what stayed as it was."""
    lines = [*dropped, *(f"left out: {why}" for why in left_out)]
    lines += [f"not counted: {n} {reason}" for reason, n in sorted(counts.items()) if n]
    if unchanged:
        lines.append(f"kept as the card has them: {', '.join(unchanged)}")
    for line in lines:
        say(line, file=sys.stderr)


def _scores(
    scorer: reward_models.Scorer,
    rows: Iterable[tuple[str, dict]],
    counts: Counter,
) -> dict[str, array]:
    """The scores of each language; answers without a score or a language are counted."""
    scores: dict[str, array] = defaultdict(lambda: array("d"))
    for window in files.windows(rows):
        answers = items.of_rows(window)
        values = scorer.score_items(answers).values
        for item, value in zip(answers, values, strict=True):
            if item.language is None:
                counts["answers without a language"] += 1
                continue
            of_language = scores[item.language]
            if value is None:
                counts[f"answers in {item.language} without a score"] += 1
            else:
                of_language.append(value)
    return dict(scores)


def _fitted(
    scores: Mapping[str, Sequence[float]],
    least: int,
) -> tuple[dict[str, dict], list[str]]:
    """Language -> calibration, in the order of languages; and why others have none."""
    fitted = {}
    left_out = []
    for code in sorted(scores):
        n = len(scores[code])
        if n < least:
            left_out.append(f"{code}: {n} scored answers, {least} are needed")
            continue
        entry = calibration.fit(scores[code])
        if entry["std"] == 0:
            left_out.append(f"{code}: all its {n} scores are {entry['mean']:g}")
        else:
            fitted[code] = entry
    return fitted, left_out


def _print(fitted: Mapping[str, Mapping]) -> None:
    head = f"{'language':<12}{'answers':>9}{'mean':>12}{'std':>12}"
    say(f"{head}{'5%':>12}{'median':>12}{'95%':>12}")
    for code, entry in fitted.items():
        quantiles = entry["quantiles"]
        shown = [quantiles[5], quantiles[calibration.N_QUANTILES // 2], quantiles[-6]]
        numbers = [f"{n:>12.5g}" for n in (entry["mean"], entry["std"], *shown)]
        say(f"{code:<12}{entry['n']:>9}{''.join(numbers)}")
