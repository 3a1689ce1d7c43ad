"""Which model an engine or a scorer is to open. No model is opened here."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlalign.core import weight_files
from mlalign.core.errors import UserError

# The identity of something on the hub: REPOSITORY@COMMIT.
ON_THE_HUB = re.compile(r"([\w.-]+(?:/[\w.-]+)?)@([0-9a-f]{40})")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as a stage gets it: a directory or hub id. `base` is set only for an adapter."""

    path: str
    identity: str
    revision: str | None = None
    base: "Model | None" = None


def commit_of(identity: Any) -> str | None:
    """The commit in the identity of something on the hub; None for any other identity."""
    if not isinstance(identity, str):
        return None
    match = ON_THE_HUB.fullmatch(identity)
    return match[2] if match else None


def local_model(path: Path, identity: str) -> Model:
    """The model in a directory. An adapter names its base, a directory or a hub id.

    Raises: UserError if the adapter names no base, or another adapter.
    """
    base = weight_files.base_of(str(path))
    if base is None:
        return Model(str(path), identity)

    if not Path(base).is_dir():  # on the hub
        # `identity.of_external` gives an adapter's own identity and that of its base.
        base_identity = identity[1] if isinstance(identity, list) else base
        on_hub = Model(base, base_identity, commit_of(base_identity))
        return Model(str(path), identity, base=on_hub)

    if weight_files.base_of(base) is not None:
        raise UserError(
            f"{path}: its base {base} is an adapter itself;"
            " merge that one into its base first, adapters never stack"
        )
    return Model(str(path), identity, base=Model(base, base))


def with_models(settings: Any, change: Callable[[Any], Any]) -> Any:
    """A scorer's settings with every model that they name, at any depth, replaced by `change(it)`.

    A model is a mapping: `{step: NAME}` in a recipe, `{artifact: …, step: …}` in a planned step,
    `{path: …}` if it is external. A mapping with a `family` is not a model but another scorer.
    """
    if isinstance(settings, list):
        return [with_models(value, change) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    names_model = any(key in settings for key in ("step", "artifact", "path"))
    if names_model and "family" not in settings:
        return change(settings)
    return {key: with_models(value, change) for key, value in settings.items()}


def models_in(settings: Any) -> Iterator[Any]:
    """Every model that a scorer's settings name, in the order of `with_models`."""
    models: list[Any] = []
    with_models(settings, models.append)
    yield from models
