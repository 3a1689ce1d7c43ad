"""`rm-score agree`: how far a scorer agrees with gold preferences by language, and in which languages it may be used.

    rm-score agree --model PATH --input gold.jsonl --output policy.yaml
    rm-score agree --model PATH --input xcopa/test.*.jsonl --format xcopa
    rm-score agree --family judge --set model=… --input gold.jsonl --fallback-model PATH --output policy.yaml
    rm-score score --family guarded --set scorer='{family: classifier, path: PATH}' --set policy=policy.yaml …

Rows have `chosen` and `rejected`, and `language`; `group_id` ties the forms of one item together. A language is `use` if the lower bound
of the accuracy's interval is above 0.5 + delta (and pairs and answers are enough), `fall_back` if only the fallback is that good there,
else `abstain`.

Exit status: 0 the scorer may be used in every language, 1 it may not in some (or rows without a language), 2 a mistake.
"""

import argparse
import dataclasses
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

import reward_models
from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from reward_models import commands, files, inputs, items
from reward_models.evidence import agreement
from reward_models.evidence.agreement import Pair, Rule

HELP = "agreement with gold preferences by language, and a policy from it"
OPTIONS = {
    "delta": "the accuracy's lower bound must be above 0.5 + delta",
    "min_pairs": "gold pairs that a language needs",
    "min_coverage": "share of the pairs that must have a verdict",
    "confidence": "of the intervals",
    "tie": "scores at most this far apart are the same",
    "resamples": "of the bootstrap over groups",
    "seed": "of the bootstrap",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    commands.add_scorer(parser)
    inputs.add_options(parser, "gold preference rows")
    parser.add_argument("--output", type=Path, metavar="POLICY.yaml", help="policy to write; must not exist")
    parser.add_argument("--fallback-model", help="model directory or hub id of the fallback")
    parser.add_argument("--fallback-family", help="family of the fallback, where its card does not say")
    parser.add_argument("--fallback-set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the fallback")
    parser.add_argument("--default", choices=agreement.POLICIES, default="use", help="policy of languages without gold rows (%(default)s)")
    parser.add_argument("--target", type=float, help="also show from which margin on verdicts are right this often, such as 0.9")
    for field in dataclasses.fields(Rule):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default, help=f"{OPTIONS[field.name]} (%(default)s)")


def run(options: argparse.Namespace) -> int:
    if options.output and (options.output.exists() or options.output.suffix != ".yaml"):
        raise UserError(f"{options.output}: exists already, or does not end in .yaml; choose another --output")
    rule = Rule(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Rule)})
    told, fallback_told = commands.scorer_settings(options), _fallback(options)
    if options.default == "fall_back" and fallback_told is None:
        raise UserError("--default fall_back: no fallback is given")
    inputs.check(options, [t for t in (told, fallback_told) if t], _check_pair)
    dropped: Counter = Counter()
    pairs = _pairs(reward_models.open_scorer(told), inputs.kept(inputs.read(options, dropped), dropped))
    fallback = {}
    if fallback_told:
        again = inputs.kept(inputs.read(options, Counter()), Counter())
        fallback = agreement.by_language(_pairs(reward_models.open_scorer(fallback_told), again), rule)
    to = fallback_told.get("name", fallback_told["family"]) if fallback_told else None
    policy = agreement.policy(agreement.by_language(pairs, rule), fallback, rule, to, options.default)
    _print(policy["languages"], pairs, options.target)
    n_nameless = sum(pair.language is None for pair in pairs)
    left_out = [f"left out: {n_nameless} rows without a language; if all are in one, say so with --language CODE"] if n_nameless else []
    for line in [*inputs.dropped_lines(dropped), *left_out]:
        say(line, file=sys.stderr)
    if options.output:
        text = yaml.safe_dump({"scorer": told, "rows": options.input, **policy}, sort_keys=False, allow_unicode=True)
        with files.whole(options.output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 1 if n_nameless or any(entry["policy"] != "use" for entry in policy["languages"].values()) else 0


def _fallback(options: argparse.Namespace) -> dict | None:
    if not (options.fallback_model or options.fallback_family):
        return None
    told = argparse.Namespace(model=options.fallback_model, family=options.fallback_family, set=options.fallback_set)
    return commands.scorer_settings(told)


def _check_pair(where: str, row: Mapping) -> None:
    """Raises: UserError for a row that is no pair."""
    read = items.read_row(row, where)
    if read.shape != "pair":
        has = "several answers on a side" if read.n_chosen is not None else "no sides"
        raise UserError(f"{where}: is no preference row: it needs one chosen and one rejected answer, and has {has}")


def _pairs(scorer: reward_models.Scorer, rows: Iterable[tuple[str, dict]]) -> list[Pair]:
    """The pairs of rows that were checked, with their scores."""
    pairs = []
    for window in files.windows(rows):
        answers = [item for where, row in window for item in items.of_row(row, where)]
        values = scorer.score_items(answers).values
        for i in range(0, len(answers), 2):
            chosen, rejected = answers[i : i + 2]
            first = agreement.is_first(items.readable(chosen.answer), items.readable(rejected.answer))
            pairs.append(Pair(chosen.group_id or str(chosen.row), chosen.language, values[i], values[i + 1], first))
    return pairs


def _print(entries: Mapping[str, Mapping], pairs: Sequence[Pair], target: float | None) -> None:
    by_language = defaultdict(list)
    for pair in pairs:
        by_language[pair.language].append(pair)
    say(f"{'language':<12}{'pairs':>7}{'tied':>6}{'none':>6}  {'accuracy':<22}{'kappa':<24}policy")
    for code, entry in entries.items():
        told = entry["evidence"]
        line = f"{code:<12}{told['pairs']:>7}{told['tied']:>6}{told['abstained']:>6}  {_with_interval(told, 'accuracy'):<22}"
        line += f"{_with_interval(told, 'kappa'):<24}{entry['policy']}" + (f" to {entry['to']}" if "to" in entry else "")
        say(line + (f" ({entry['why']})" if "why" in entry else ""))
        if target is not None:
            margin, share = agreement.margin_for(by_language[code], target)
            far = "no margin is enough" if margin is None else f"from margin {margin:.4g} on, {share:.0%} of the pairs"
            say(f"{'':<12}right {target:.0%} of the time: {far}")


def _with_interval(told: Mapping, measure: str) -> str:
    if told[measure] is None:
        return "-"
    return f"{told[measure]:.3f} [{told[f'{measure}_low']:.3f}, {told[f'{measure}_high']:.3f}]"
