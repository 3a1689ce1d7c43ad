"""`card.yaml`: what a model directory says about its scores. `rm-score card show PATH` prints it.

A card is read from a model directory, a hub id or its own path, and written whole or not at all.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from mlalign.core import languages, yaml_files
from mlalign.core.errors import UserError
from mlalign.models.templates import date_problems
from reward_models import files, settings

FILE = "card.yaml"


@dataclasses.dataclass
class Card:
    """What a user must know about a model to score with it."""

    family: str = "classifier"
    # of the chat template that it was trained with (`template_hash`)
    template_hash: str | None = None
    direction: Literal["higher_is_better", "lower_is_better"] = "higher_is_better"
    scale: str = "logit"  # unit of the raw output, in words
    # names of the head's outputs, in their order
    outputs: list[str] = dataclasses.field(default_factory=list)
    max_length: int | None = None  # tokens; longer conversations are cut at their beginning
    date: str | None = None  # that its chat template wrote in training, if it writes the date
    training_languages: list[str] = dataclasses.field(default_factory=list)
    # language -> share of held-out pairs in the right order, or {n, accuracy}
    accuracy: dict = dataclasses.field(default_factory=dict)
    # language -> {n, mean, std, quantiles} of the scorer's values, where higher is better
    # (`calibration.fit`); {mean, std} at least
    calibration: dict = dataclasses.field(default_factory=dict)
    licence: str | None = None
    training: dict = dataclasses.field(default_factory=dict)  # further facts about the training


def template_hash(chat_template: str) -> str:
    """16 hex digits that identify a chat template's text."""
    return hashlib.sha256(chat_template.encode()).hexdigest()[:16]


def read(path: str | Path, revision: str | None = None) -> Card | None:
    """The card of a model directory, a hub id, or under its own path (`….yaml`), if there is one.

    Raises: UserError naming the file and the key.
    """
    file = place(path, revision)
    if file is None:
        return None
    values = read_yaml(file)
    wrong = _shape_problems(values, str(file))
    if wrong:
        raise UserError(*wrong)
    return Card(**values)


def place(path: str | Path, revision: str | None = None) -> Path | None:
    """The file that holds a model's card; None if there is none.

    Raises: UserError for a hub id that cannot be reached.
    """
    if Path(path).suffix == ".yaml":
        return Path(path) if Path(path).is_file() else None
    file = Path(path) / FILE if Path(path).is_dir() else _from_hub(str(path), revision)
    return file if file is not None and file.is_file() else None


def read_yaml(file: Path) -> dict:
    """The unchecked values of a card's file. Raises: UserError if it is no YAML mapping."""
    values = settings.plain(yaml_files.read(file))
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected a mapping with `family`, `template_hash`, …")
    return values


def write(path: Path, card: Card) -> Path:
    """Write a card whole or not at all. Returns the path of its file.

    `path` is a model directory, which gets a `card.yaml`, or a file (`….yaml`).
    Raises: UserError if a value is wrong, or the file is in a finished artifact or cannot be
    written.
    """
    path = Path(path)
    file = path if path.suffix == ".yaml" else path / FILE
    wrong = problems(dataclasses.asdict(card), str(file))
    if file.name == FILE and (file.absolute().parent.parent / "manifest.json").is_file():
        wrong.append(
            f"{file}: lies in a finished artifact, whose files never change; give another place"
            " with --card FILE.yaml"
        )
    if wrong:
        raise UserError(*wrong)
    try:
        with files.whole(file) as temporary:
            temporary.write_text(text_of(card), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written ({error.strerror}); give another place with --card"
            " FILE.yaml"
        ) from None
    return file


def text_of(card: Card) -> str:
    """The card as YAML, with each list of numbers on one line."""
    return yaml.safe_dump(
        dataclasses.asdict(card),
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=140,
    )


def problems(values: Mapping, key: str) -> list[str]:
    """Everything wrong with a card's values: names, types, values and language codes."""
    messages = _shape_problems(values, key)
    if messages:
        return messages
    for i, code in enumerate(values.get("training_languages", ())):
        messages += _code_problems(code, f"{key}.training_languages[{i}]")
    for name in ("accuracy", "calibration"):
        for code in values.get(name, {}):
            messages += _code_problems(code, f"{key}.{name}")
    return messages


def _shape_problems(values: Mapping, key: str) -> list[str]:
    """What keeps a card from being used: wrong names, types and values.

    An old language code does not.
    """
    messages = settings.problems(Card, values, key)
    if messages:
        return messages
    max_length = values.get("max_length")
    if max_length is not None and max_length < 1:
        messages.append(f"{key}.max_length: expected a number of tokens, got {max_length}")
    if values.get("date") is not None:
        messages += date_problems(values["date"], f"{key}.date")
    for name in ("outputs", "training_languages"):
        for value in values.get(name, ()):
            if not isinstance(value, str):
                messages.append(f"{key}.{name}: expected names, got {value!r}")
    for name, check in (("accuracy", _accuracy_problems), ("calibration", _calibration_problems)):
        for code, value in values.get(name, {}).items():
            if not isinstance(code, str):
                messages.append(f"{key}.{name}: expected codes of languages, got {code!r}")
            messages += check(value, f"{key}.{name}.{code}")
    return messages


def accuracy_of(value: Any) -> float:
    """The share in an entry of `accuracy`, which is a number or {n, accuracy}."""
    return float(value["accuracy"] if isinstance(value, Mapping) else value)


def _code_problems(code: Any, key: str) -> list[str]:
    try:
        normal = languages.normalise(code)
    except UserError as error:
        return [f"{key}: {message}" for message in error.messages]
    if normal == code:
        return []
    return [f"{key}: write {normal} instead of {code!r}"]


def _accuracy_problems(value: Any, key: str) -> list[str]:
    share = value.get("accuracy") if isinstance(value, Mapping) else value
    if isinstance(share, int | float) and 0 <= share <= 1:
        return []
    return [f"{key}: expected a share between 0 and 1, or {{n, accuracy}}, got {value!r}"]


def _calibration_problems(value: Any, key: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{key}: expected {{n, mean, std, quantiles}}, got {value!r}"]
    allowed = ("n", "mean", "std", "quantiles", "output")
    messages = []
    for name in value:
        if name not in allowed:
            messages.append(f"{key}.{name}: unknown key; allowed: {', '.join(allowed)}")
    for name in ("mean", "std"):
        if not _is_number(value.get(name)):
            messages.append(f"{key}.{name}: expected a finite number, got {value.get(name)!r}")
    if not _is_number(value.get("n", 0)):
        messages.append(f"{key}.n: expected a number, got {value['n']!r}")
    std = value.get("std", 0)
    if _is_number(std) and std < 0:
        messages.append(f"{key}.std: expected 0 or more, got {std!r}")
    if not _are_quantiles(value.get("quantiles", [])):
        messages.append(f"{key}.quantiles: expected two or more finite numbers in ascending order")
    return messages


def _are_quantiles(values: Any) -> bool:
    """Whether they are finite numbers in ascending order; none at all is right too."""
    if not isinstance(values, list) or not all(map(_is_number, values)):
        return False
    return len(values) != 1 and values == sorted(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _from_hub(path: str, revision: str | None) -> Path | None:
    from transformers.utils import cached_file

    try:
        file = cached_file(
            path, FILE, revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: neither a directory here nor a hub id that can be reached ({reason})"
        ) from None
    return Path(file) if file else None
