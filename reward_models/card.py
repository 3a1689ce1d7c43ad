"""`card.yaml`: what a model directory says about its scores. `rm-score card show PATH` prints it.

Reads the file of a model directory, of a hub id, or a card under its own path; writes it whole or
not at all.
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
    """What whoever scores with a model must know about it."""

    family: str = "classifier"
    template_hash: str | None = (
        None  # of the chat template that it was trained with (`template_hash`)
    )
    direction: Literal["higher_is_better", "lower_is_better"] = "higher_is_better"
    scale: str = "logit"  # unit of the raw output, in words
    outputs: list[str] = dataclasses.field(
        default_factory=list
    )  # names of the head's outputs, in their order
    max_length: int | None = None  # tokens; longer conversations are cut at their beginning
    date: str | None = None  # that its chat template wrote in training, if it writes the date
    training_languages: list[str] = dataclasses.field(default_factory=list)
    accuracy: dict = dataclasses.field(
        default_factory=dict
    )  # language -> share of held-out pairs ordered rightly, or {n, accuracy}
    # language -> {n, mean, std, quantiles} of the scorer's values, where higher is better
    # (`calibration.fit`); {mean, std} at least
    calibration: dict = dataclasses.field(default_factory=dict)
    licence: str | None = None
    training: dict = dataclasses.field(
        default_factory=dict
    )  # what else the training step wants to tell


def template_hash(chat_template: str) -> str:
    """16 hex digits that identify a chat template's text."""
    return hashlib.sha256(chat_template.encode()).hexdigest()[:16]


def read(path: str | Path, revision: str | None = None) -> Card | None:
    """The card of a model directory, of a hub id, or under its own path (`….yaml`); None if there
    is none.

    Raises: UserError naming the file and the key.
    """
    found = place(path, revision)
    if found is None:
        return None
    told = read_yaml(found)
    wrong = _shape_problems(told, str(found))
    if wrong:
        raise UserError(*wrong)
    return Card(**told)


def place(path: str | Path, revision: str | None = None) -> Path | None:
    """The file that holds a model's card; None if there is none.

    Raises: UserError for a hub id that cannot be reached.
    """
    if Path(path).suffix == ".yaml":
        return Path(path) if Path(path).is_file() else None
    file = Path(path) / FILE if Path(path).is_dir() else _from_hub(str(path), revision)
    return file if file is not None and file.is_file() else None


def read_yaml(file: Path) -> dict:
    """What a card's file says, unchecked. Raises: UserError if it is no YAML mapping."""
    told = settings.plain(yaml_files.read(file))
    if not isinstance(told, dict):
        raise UserError(f"{file}: expected a mapping with `family`, `template_hash`, …")
    return told


def write(path: Path, card: Card) -> Path:
    """Write `card.yaml` into a model directory, or a card under its own path (`….yaml`), whole or
    not at all. Returns its path.

    Raises: UserError if a value in it is wrong, or the place is in a finished artifact or cannot be
        written.
    """
    file = Path(path) if Path(path).suffix == ".yaml" else Path(path) / FILE
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
    """The card as YAML; lists of numbers on a line."""
    return yaml.safe_dump(
        dataclasses.asdict(card),
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=140,
    )


def problems(told: Mapping, key: str) -> list[str]:
    """Everything wrong with what a card says: names, types, values, and codes of languages."""
    found = _shape_problems(told, key)
    if found:
        return found
    found += [
        p
        for i, code in enumerate(told.get("training_languages", ()))
        for p in _language(code, f"{key}.training_languages[{i}]")
    ]
    for name in ("accuracy", "calibration"):
        found += [p for code in told.get(name, {}) for p in _language(code, f"{key}.{name}")]
    return found


def _shape_problems(told: Mapping, key: str) -> list[str]:
    """What keeps a card from being used: wrong names, types and values.

    An old code of a language does not.
    """
    found = settings.problems(Card, told, key)
    if found:
        return found
    max_length = told.get("max_length")
    if max_length is not None and max_length < 1:
        found.append(f"{key}.max_length: expected a number of tokens, got {max_length}")
    if told.get("date") is not None:
        found += date_problems(told["date"], f"{key}.date")
    for name in ("outputs", "training_languages"):
        wrong = [value for value in told.get(name, ()) if not isinstance(value, str)]
        found += [f"{key}.{name}: expected names, got {value!r}" for value in wrong]
    for name, check in (("accuracy", _accuracy), ("calibration", _calibration)):
        for code, value in told.get(name, {}).items():
            if not isinstance(code, str):
                found.append(f"{key}.{name}: expected codes of languages, got {code!r}")
            found += check(value, f"{key}.{name}.{code}")
    return found


def accuracy_of(value: Any) -> float:
    """The share in an entry of `accuracy`, which is a number or {n, accuracy}."""
    return float(value["accuracy"] if isinstance(value, Mapping) else value)


def _language(code: Any, key: str) -> list[str]:
    try:
        normal = languages.normalise(code)
    except UserError as error:
        return [f"{key}: {message}" for message in error.messages]
    return [] if normal == code else [f"{key}: write {normal} instead of {code!r}"]


def _accuracy(value: Any, key: str) -> list[str]:
    share = value.get("accuracy") if isinstance(value, Mapping) else value
    if isinstance(share, int | float) and 0 <= share <= 1:
        return []
    return [f"{key}: expected a share between 0 and 1, or {{n, accuracy}}, got {value!r}"]


def _calibration(value: Any, key: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{key}: expected {{n, mean, std, quantiles}}, got {value!r}"]
    allowed = ("n", "mean", "std", "quantiles", "output")
    found = [
        f"{key}.{name}: unknown key; allowed: {', '.join(allowed)}"
        for name in value
        if name not in allowed
    ]
    wrong = [name for name in ("mean", "std") if not _number(value.get(name))]
    found += [f"{key}.{name}: expected a finite number, got {value.get(name)!r}" for name in wrong]
    if not _number(value.get("n", 0)):
        found.append(f"{key}.n: expected a number, got {value['n']!r}")
    found += (
        [f"{key}.std: expected 0 or more, got {value['std']!r}"]
        if "std" not in wrong and value["std"] < 0
        else []
    )
    quantiles = value.get("quantiles", [])
    if (
        not isinstance(quantiles, list)
        or not all(map(_number, quantiles))
        or quantiles != sorted(quantiles)
        or len(quantiles) == 1
    ):
        found.append(f"{key}.quantiles: expected two or more finite numbers in ascending order")
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _from_hub(path: str, revision: str | None) -> Path | None:
    from transformers.utils import cached_file

    try:
        found = cached_file(
            path, FILE, revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        raise UserError(
            f"{path}: neither a directory here nor a hub id that can be reached"
            f" ({str(error).splitlines()[0]})"
        ) from None
    return Path(found) if found else None
