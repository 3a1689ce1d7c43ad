"""`card.yaml`: what a model directory says about its scores. `python -m reward_models card show PATH` prints it."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import yaml

from mlalign.errors import UserError
from reward_models import settings

FILE = "card.yaml"


@dataclasses.dataclass
class Card:
    """What whoever scores with a model must know about it."""

    family: str = "classifier"
    template_hash: str | None = None  # of the chat template that it was trained with (`template_hash`)
    direction: Literal["higher_is_better", "lower_is_better"] = "higher_is_better"
    scale: str = "logit"  # unit of the raw output, in words
    max_length: int | None = None  # tokens; longer conversations are cut at their beginning
    training_languages: list[str] = dataclasses.field(default_factory=list)
    accuracy: dict = dataclasses.field(default_factory=dict)  # language -> share of held-out pairs ordered rightly
    calibration: dict = dataclasses.field(default_factory=dict)  # language -> {mean, std} of the raw output
    licence: str | None = None
    training: dict = dataclasses.field(default_factory=dict)  # what else the training step wants to tell


def template_hash(chat_template: str) -> str:
    """16 hex digits that identify a chat template's text."""
    return hashlib.sha256(chat_template.encode()).hexdigest()[:16]


def read(path: str | Path, revision: str | None = None) -> Card | None:
    """The card of a model directory or hub id; None if it has none. Raises: UserError naming the file and the key."""
    file = Path(path) / FILE if Path(path).is_dir() else _from_hub(str(path), revision)
    if file is None or not file.is_file():
        return None
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as YAML: {error}") from None
    if not isinstance(told, dict):
        raise UserError(f"{file}: expected a mapping with `family`, `template_hash`, …")
    wrong = settings.problems(Card, told, str(file))
    if wrong:
        raise UserError(*wrong)
    return Card(**told)


def write(path: Path, card: Card) -> None:
    """Write `card.yaml` into a model directory."""
    text = yaml.safe_dump(dataclasses.asdict(card), sort_keys=False, allow_unicode=True)
    (Path(path) / FILE).write_text(text, encoding="utf-8")


def _from_hub(path: str, revision: str | None) -> Path | None:
    from transformers.utils import cached_file

    try:
        found = cached_file(path, FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise UserError(f"{path}: neither a directory here nor a hub id that can be reached ({str(error).splitlines()[0]})") from None
    return Path(found) if found else None
