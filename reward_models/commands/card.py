"""`rm-score card`: what a model says about its scores.

    rm-score card show PATH_OR_HUB_ID [--json]
    rm-score card validate PATH_OR_HUB_ID
    rm-score card create DIRECTORY --licence apache-2.0 --training-languages en,sw --max-length 2048

`validate` compares the card with the files beside it: chat template, outputs, the base of an
adapter. `create` reads the template's hash and the names of the outputs from them.

Exit status: 0 fine, 1 `validate` has warnings, 2 a mistake.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    directions = ("higher_is_better", "lower_is_better")
    create.add_argument("--direction", choices=directions, default="higher_is_better")
    help_ = "unit of the raw output, in words (%(default)s)"
    create.add_argument("--scale", default="logit", help=help_)
    help_ = "tokens; longer conversations are cut at their beginning"
    create.add_argument("--max-length", type=int, help=help_)
    create.add_argument("--licence", help="of the model")
    help_ = "languages that it was trained in"
    create.add_argument("--training-languages", default="", metavar="CODE,CODE", help=help_)
    create.add_argument("--force", action="store_true", help="replace an existing card")


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
    values = dataclasses.asdict(card)
    del values["accuracy"], values["calibration"]
    style: dict[str, Any] = {"default_flow_style": None, "width": 120}
    yield yaml.safe_dump(values, sort_keys=False, allow_unicode=True, **style).rstrip()

    codes = sorted({*card.training_languages, *card.accuracy, *card.calibration})
    if codes:
        head = f"{'language':<12}{'trained':>9}{'accuracy':>10}{'n':>9}{'mean':>11}{'std':>11}"
        yield f"{head}  quantiles"
    for code in codes:
        yield _language_line(card, code)


def _language_line(card: Card, code: str) -> str:
    trained = "yes" if code in card.training_languages else "no"
    accuracy = "-"
    if code in card.accuracy:
        accuracy = f"{cards.accuracy_of(card.accuracy[code]):.3f}"
    entry = card.calibration.get(code, {})
    mean = f"{entry['mean']:.4g}" if "mean" in entry else "-"
    std = f"{entry['std']:.4g}" if "std" in entry else "-"
    n_quantiles = len(entry.get("quantiles", ())) or "-"
    numbers = f"{entry.get('n', '-'):>9}{mean:>11}{std:>11}  {n_quantiles}"
    return f"{code:<12}{trained:>9}{accuracy:>10}{numbers}"


def _validate(options: argparse.Namespace) -> int:
    file = cards.place(options.model)
    if file is None:
        raise UserError(f"{options.model}: has no {cards.FILE}; rm-score card create writes one")
    values = cards.read_yaml(file)
    wrong = cards.problems(values, str(file))
    family = values.get("family", Card.family)
    family_is_wrong = any(".family:" in message for message in wrong)
    if not family_is_wrong and family not in reward_models.FAMILIES:
        wrong.append(f"{file}.family: {_unknown(family)}")
    if wrong:
        raise UserError(*wrong)

    subject = preflight.of_model(_settings(options, family), Card(**values))
    findings = [finding for finding in subject.findings if finding.level != "note"]
    for finding in findings:
        say(f"{finding.level}: {file}: {finding.where}: {finding.text}", file=sys.stderr)
    if not findings:
        say(f"{file}: fits the model's files")
        return 0
    return 2 if any(finding.level == "error" for finding in findings) else 1


def _settings(options: argparse.Namespace, family: str) -> dict[str, Any]:
    return {"family": family, "path": options.model, "output": 0}


def _unknown(family: str) -> str:
    return f"unknown family {family!r}{nearest(family, reward_models.FAMILIES)}"


def _create(options: argparse.Namespace) -> int:
    directory = Path(options.model)
    file = directory / cards.FILE
    if not directory.is_dir():
        raise UserError(
            f"{options.model}: is not a directory; a card is written beside the model's files"
        )
    if file.exists() and not options.force:
        raise UserError(f"{file}: exists already; change it by hand, or replace it with --force")
    if options.family not in reward_models.FAMILIES:
        raise UserError(f"--family: {_unknown(options.family)}")
    codes = [word for word in options.training_languages.split(",") if word.strip()]
    training_languages = languages.resolve(codes, {})

    settings = _settings(options, options.family)
    subject = preflight.of_model(settings, None)
    errors = [finding for finding in subject.findings if finding.level == "error"]
    if errors:
        messages = [f"{options.model}: {error.where}: {error.text}" for error in errors]
        raise UserError(*messages)

    card = Card(
        options.family,
        direction=options.direction,
        scale=options.scale,
        template_hash=subject.facts["tokenizer"]["template_hash"],
        outputs=subject.facts.get("outputs", []),
        training_languages=training_languages,
        max_length=options.max_length,
        licence=options.licence,
    )
    statistics = score_statistics({"family": options.family, "path": options.model})
    if statistics:
        mean_and_std = {name: statistics[name] for name in ("mean", "std")}
        card.training = {"score_statistics": mean_and_std}
    say(cards.write(file, card).read_text(encoding="utf-8"), end="")
    return 0
