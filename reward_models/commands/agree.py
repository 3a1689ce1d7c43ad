"""`rm-score agree`: how far a scorer agrees with gold preferences, and where it may be used.

    rm-score agree --model PATH --input gold.jsonl --output policy.yaml
    rm-score agree --model PATH --input xcopa/test.*.jsonl --format xcopa
    rm-score agree --family judge --set model=… --input gold.jsonl --fallback-model PATH \\
        --output policy.yaml
    rm-score score --family guarded --set scorer='{family: classifier, path: PATH}' \\
        --set policy=policy.yaml …

Rows have `chosen` and `rejected`, and `language`; `group_id` links the forms of one item. A
language is `use` if the lower bound of the accuracy's interval is above 0.5 + delta (and pairs and
answers are enough), `fall_back` if only the fallback is that good there, else `abstain`.

Exit status: 0 the scorer may be used in every language, 1 it may not in some (or rows have no
language), 2 a mistake.
"""

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
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
    add = parser.add_argument
    help_ = "policy to write; must not exist"
    add("--output", type=Path, metavar="POLICY.yaml", help=help_)
    add("--fallback-model", help="model directory or hub id of the fallback")
    add("--fallback-family", help="family of the fallback, where its card does not say")
    help_ = "a setting of the fallback"
    add("--fallback-set", action="append", default=[], metavar="KEY=VALUE", help=help_)
    help_ = "policy of languages without gold rows (%(default)s)"
    add("--default", choices=agreement.POLICIES, default="use", help=help_)
    help_ = "also show from which margin on verdicts are right this often, such as 0.9"
    add("--target", type=float, help=help_)
    for field in dataclasses.fields(Rule):
        option = "--" + field.name.replace("_", "-")
        help_ = f"{OPTIONS[field.name]} (%(default)s)"
        add(option, type=type(field.default), default=field.default, help=help_)


def run(options: argparse.Namespace) -> int:
    output = options.output
    if output and (output.exists() or output.suffix != ".yaml"):
        raise UserError(
            f"{output}: exists already, or does not end in .yaml; choose another --output"
        )
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Rule)}
    rule = Rule(**values)
    scorer = commands.scorer_settings(options)
    fallback = _fallback(options)
    if options.default == "fall_back" and fallback is None:
        raise UserError("--default fall_back: no fallback is given")

    inputs.check(options, [spec for spec in (scorer, fallback) if spec], _check_pair)
    dropped: Counter = Counter()
    pairs = _pairs(scorer, options, dropped)
    fallback_name = None
    of_fallback = {}
    if fallback:
        fallback_name = fallback.get("name", fallback["family"])
        of_fallback = agreement.by_language(_pairs(fallback, options, Counter()), rule)
    of_scorer = agreement.by_language(pairs, rule)
    policy = agreement.policy(of_scorer, of_fallback, rule, fallback_name, options.default)

    _print(policy["languages"], pairs, options.target)
    for line in inputs.dropped_lines(dropped):
        say(line, file=sys.stderr)
    n_nameless = sum(pair.language is None for pair in pairs)
    if n_nameless:
        say(
            f"left out: {n_nameless} rows without a language;"
            " if all are in one, say so with --language CODE",
            file=sys.stderr,
        )
    if output:
        _write(output, {"scorer": scorer, "rows": options.input, **policy})
    all_in_use = all(entry["policy"] == "use" for entry in policy["languages"].values())
    return 0 if all_in_use and not n_nameless else 1


def _write(file: Path, policy: Mapping) -> None:
    text = yaml.safe_dump(policy, sort_keys=False, allow_unicode=True)
    with files.whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _fallback(options: argparse.Namespace) -> dict | None:
    """The spec of the fallback; None if there is none."""
    model = options.fallback_model
    family = options.fallback_family
    if not model and not family:
        return None
    fallback = argparse.Namespace(model=model, family=family, set=options.fallback_set)
    return commands.scorer_settings(fallback)


def _check_pair(where: str, row: Mapping) -> None:
    """Raises: UserError for a row that is no pair."""
    read = items.read_row(row, where)
    if read.shape == "pair":
        return
    content = "no sides" if read.n_chosen is None else "several answers on a side"
    raise UserError(
        f"{where}: is no preference row: it needs one chosen and one rejected answer,"
        f" and has {content}"
    )


def _pairs(spec: Mapping, options: argparse.Namespace, dropped: Counter) -> list[Pair]:
    """The pairs of the rows, which were checked, with their scores."""
    scorer = reward_models.open_scorer(spec)
    rows = inputs.kept(inputs.read(options, dropped), dropped)
    pairs = []
    for window in files.windows(rows):
        answers = items.of_rows(window)
        scores = scorer.score_items(answers).values
        for i in range(0, len(answers), 2):
            chosen, rejected = answers[i : i + 2]
            chosen_text = items.readable(chosen.answer)
            rejected_text = items.readable(rejected.answer)
            first = agreement.is_first(chosen_text, rejected_text)
            group = chosen.group_id or str(chosen.row)
            pairs.append(Pair(group, chosen.language, scores[i], scores[i + 1], first))
    return pairs


def _print(entries: Mapping[str, Mapping], pairs: Sequence[Pair], target: float | None) -> None:
    head = f"{'language':<12}{'pairs':>7}{'tied':>6}{'none':>6}  {'accuracy':<22}{'kappa':<24}"
    say(f"{head}policy")
    for code, entry in entries.items():
        say(_language_line(code, entry))
        if target is None:
            continue
        of_language = [pair for pair in pairs if pair.language == code]
        margin, share = agreement.margin_for(of_language, target)
        text = "no margin is enough"
        if margin is not None:
            text = f"from margin {margin:.4g} on, {share:.0%} of the pairs"
        say(f"{'':<12}right {target:.0%} of the time: {text}")


def _language_line(code: str, entry: Mapping) -> str:
    evidence = entry["evidence"]
    counts = f"{evidence['pairs']:>7}{evidence['tied']:>6}{evidence['abstained']:>6}"
    accuracy = _with_interval(evidence, "accuracy")
    kappa = _with_interval(evidence, "kappa")
    policy = entry["policy"]
    if "to" in entry:
        policy += f" to {entry['to']}"
    if "why" in entry:
        policy += f" ({entry['why']})"
    return f"{code:<12}{counts}  {accuracy:<22}{kappa:<24}{policy}"


def _with_interval(evidence: Mapping, measure: str) -> str:
    value = evidence[measure]
    if value is None:
        return "-"
    low = evidence[f"{measure}_low"]
    high = evidence[f"{measure}_high"]
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
