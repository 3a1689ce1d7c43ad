"""`rm-score card`: what a model says about its scores.

    rm-score card show PATH_OR_HUB_ID [--json]
    rm-score card validate PATH_OR_HUB_ID
    rm-score card create DIRECTORY --licence apache-2.0 --training-languages en,sw --max-length 2048

`validate` compares the card with the files beside it: chat template, outputs, the base of an adapter. `create` reads the template's hash
and the names of the outputs from them.

Exit status: 0 fine, 1 `validate` has warnings, 2 a mistake.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

import reward_models
from mlalign.core import languages
from mlalign.core.errors import UserError, nearest
from mlalign.core.terminal import say
from reward_models import card as cards
from reward_models.card import Card
from reward_models.evidence import preflight
from reward_models.jobs.provenance import score_statistics

HELP = "what a model says about its scores"


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print the card")
    validate = actions.add_parser("validate", help="compare the card with the model's files")
    create = actions.add_parser("create", help="write a card for a model directory")
    for action, do in ((show, _show), (validate, _validate), (create, _create)):
        action.add_argument("model", help="model directory or hub id")
        action.set_defaults(action=do)
    show.add_argument("--json", action="store_true", help="the whole card as JSON")
    create.add_argument("--family", default="classifier", help="what scores (%(default)s)")
    create.add_argument("--direction", choices=("higher_is_better", "lower_is_better"), default="higher_is_better")
    create.add_argument("--scale", default="logit", help="unit of the raw output, in words (%(default)s)")
    create.add_argument("--max-length", type=int, help="tokens; longer conversations are cut at their beginning")
    create.add_argument("--licence", help="of the model")
    create.add_argument("--training-languages", default="", metavar="CODE,CODE", help="languages that it was trained in")
    create.add_argument("--force", action="store_true", help="replace a card that is there")


def run(options: argparse.Namespace) -> int:
    status: int = options.action(options)
    return status


def _show(options: argparse.Namespace) -> int:
    card = cards.read(options.model)
    if card is None:
        raise UserError(f"{options.model}: has no {cards.FILE}")
    if options.json:
        say(json.dumps(dataclasses.asdict(card), indent=1))
    else:
        say("\n".join(_lines(card)))
    return 0


def _lines(card: Card) -> Iterator[str]:
    """The card as YAML, and what it says of each language as a table."""
    told = {name: value for name, value in dataclasses.asdict(card).items() if name not in ("accuracy", "calibration")}
    yield yaml.safe_dump(told, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120).rstrip()
    codes = sorted({*card.training_languages, *card.accuracy, *card.calibration})
    if codes:
        yield f"{'language':<12}{'trained':>9}{'accuracy':>10}{'n':>9}{'mean':>11}{'std':>11}  quantiles"
    for code in codes:
        entry = card.calibration.get(code, {})
        accuracy = f"{cards.accuracy_of(card.accuracy[code]):.3f}" if code in card.accuracy else "-"
        numbers = "".join(f"{entry[name]:>11.4g}" if name in entry else f"{'-':>11}" for name in ("mean", "std"))
        trained = "yes" if code in card.training_languages else "no"
        yield f"{code:<12}{trained:>9}{accuracy:>10}{entry.get('n', '-'):>9}{numbers}  {len(entry.get('quantiles', ())) or '-'}"


def _validate(options: argparse.Namespace) -> int:
    file = cards.place(options.model)
    if file is None:
        raise UserError(f"{options.model}: has no {cards.FILE}; rm-score card create writes one")
    told = cards.read_yaml(file)
    wrong = cards.problems(told, str(file))
    family = told.get("family", Card.family)
    if not any(".family:" in message for message in wrong) and family not in reward_models.FAMILIES:
        wrong.append(f"{file}.family: unknown family {family!r}{nearest(family, reward_models.FAMILIES)}")
    if wrong:
        raise UserError(*wrong)
    subject = preflight.of_model({"family": family, "path": options.model, "output": 0}, Card(**told))
    found = [f for f in subject.findings if f.level != "note"]
    for finding in found:
        say(f"{finding.level}: {file}: {finding.where}: {finding.text}", file=sys.stderr)
    if not found:
        say(f"{file}: fits the model's files")
    return 2 if any(f.level == "error" for f in found) else 1 if found else 0


def _create(options: argparse.Namespace) -> int:
    file = Path(options.model) / cards.FILE
    if not Path(options.model).is_dir():
        raise UserError(f"{options.model}: is no directory; a card is written beside the model's files")
    if file.exists() and not options.force:
        raise UserError(f"{file}: exists already; change it by hand, or replace it with --force")
    if options.family not in reward_models.FAMILIES:
        raise UserError(f"--family: unknown family {options.family!r}{nearest(options.family, reward_models.FAMILIES)}")
    codes = [word for word in options.training_languages.split(",") if word.strip()]
    told = {"training_languages": languages.resolve(codes, {}), "max_length": options.max_length, "licence": options.licence}
    subject = preflight.of_model({"family": options.family, "path": options.model, "output": 0}, None)
    errors = [f"{options.model}: {f.where}: {f.text}" for f in subject.findings if f.level == "error"]
    if errors:
        raise UserError(*errors)
    template_hash = subject.facts["tokenizer"]["template_hash"]
    seen = {"template_hash": template_hash, "outputs": subject.facts.get("outputs", [])}
    statistics = score_statistics({"family": options.family, "path": options.model})
    if statistics:
        seen["training"] = {"score_statistics": {name: statistics[name] for name in ("mean", "std")}}
    written = cards.write(file, Card(options.family, direction=options.direction, scale=options.scale, **seen, **told))
    say(written.read_text(encoding="utf-8"), end="")
    return 0
