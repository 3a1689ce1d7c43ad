"""Which model an engine or a scorer is to open. Opens nothing itself."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlalign.errors import UserError
from mlalign.models.weight_files import base_of


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as a stage gets it: a directory or hub id; `base` is set if and only if it is an adapter (on exactly that)."""

    path: str
    identity: str
    revision: str | None = None
    base: "Model | None" = None


def local_model(path: Path, identity: str) -> Model:
    """The model in a directory; an adapter names its base, in a directory relative to its own or under a hub id.

    Raises: UserError if the adapter names no base, or another adapter.
    """
    named = base_of(str(path))
    if named is None:
        return Model(str(path), identity)
    if not Path(named).is_dir():
        return Model(str(path), identity, base=Model(named, named))
    if base_of(named) is not None:
        raise UserError(f"{path}: its base {named} is an adapter itself; merge that one into its base first, adapters never stack")
    return Model(str(path), identity, base=Model(named, named))


def with_models(settings: Any, change: Callable[[Any], Any]) -> Any:
    """A scorer's settings with `change(value)` in the place of every model that they name, at any depth.

    A model in settings is `{step: NAME}` in a recipe, `{artifact: …, step: …}` in a planned step, `{path: …}` if it is external; a
    mapping with a `family` is a scorer of its own. Everything else stays as it is.
    """
    if isinstance(settings, list):
        return [with_models(value, change) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    if "family" not in settings and any(key in settings for key in ("step", "artifact", "path")):
        return change(settings)
    return {key: with_models(value, change) for key, value in settings.items()}


def models_in(settings: Any) -> Iterator[Any]:
    """Every model that a scorer's settings name, as `with_models` finds them."""
    found: list[Any] = []
    with_models(settings, found.append)
    yield from found
