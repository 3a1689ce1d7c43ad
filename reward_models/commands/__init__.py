"""The commands of `rm-score`, one module each.

A module has `HELP` (one line), `arguments(parser)`, which adds the command's options, and
`run(options) -> int`, which returns its exit status. Nothing heavy is imported before `run`.
"""

import argparse
from pathlib import Path
from typing import Any

import reward_models
from mlalign.core import secrecy, yaml_files
from mlalign.core.errors import UserError
from reward_models import settings

NAMES = ("score", "calibrate", "agree", "evaluate", "check", "card")


def add_scorer(parser: argparse.ArgumentParser) -> None:
    """The options that name the scorer; `scorer_settings` reads them."""
    families = ", ".join(reward_models.FAMILIES)
    parser.add_argument("--model", help="model directory or hub id")
    parser.add_argument(
        "--family",
        help=f"what scores, where the model's card does not say: {families}, or module:function",
    )
    parser.add_argument(
        "--scorer",
        type=Path,
        metavar="FILE.yaml",
        help="what scores, as {family: …, settings}: a composite, a judge, …",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the family, such as max_length=512",
    )


def scorer_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The spec of the scorer for `reward_models.open_scorer`, with secrets by reference.

    Raises: UserError.
    """
    return secrecy.carry(_scorer_settings(options))


def _scorer_settings(options: argparse.Namespace) -> dict[str, Any]:
    own = dict(_setting(text) for text in options.set)
    file = getattr(options, "scorer", None)
    if file and (options.model or options.family):
        raise UserError(
            "--scorer: its file names model and family itself; leave out --model and --family"
        )
    if file:
        return {**read_scorer(file), **own}

    family = {"family": options.family} if options.family else {}
    if options.model:
        return reward_models.settings_of(options.model, **own, **family)
    if not family:
        raise UserError(
            "name what scores: --model PATH_OR_HUB_ID, --family NAME or --scorer FILE.yaml"
        )
    return {**family, **own}


def read_scorer(file: Path) -> dict[str, Any]:
    """The spec of a scorer in a YAML file. Raises: UserError naming the file."""
    spec = settings.plain(yaml_files.read(file))
    if not isinstance(spec, dict):
        raise UserError(f"{file}: expected {{family: NAME, …}}")
    return spec


def open_scorer(options: argparse.Namespace) -> reward_models.Scorer:
    return reward_models.open_scorer(scorer_settings(options))


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: expected KEY=VALUE")
    return name, settings.plain(yaml_files.load(value, f"--set {name}"))
