"""Which model an engine or a scorer is to open. Opens nothing itself."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlalign.core import weight_files
from mlalign.core.errors import UserError

ON_THE_HUB = re.compile(
    r"([\w.-]+(?:/[\w.-]+)?)@([0-9a-f]{40})"
)  # the identity of something on the hub


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as a stage gets it: a directory or hub id; `base` is set if and only if it is an
    adapter (on exactly that).
    """

    path: str
    identity: str
    revision: str | None = None
    base: "Model | None" = None


def commit_of(identity: Any) -> str | None:
    """The commit in the identity of something on the hub; None for any other."""
    match = ON_THE_HUB.fullmatch(identity) if isinstance(identity, str) else None
    return match[2] if match else None


def local_model(path: Path, identity: str) -> Model:
    """The model in a directory; an adapter names its base, a directory or a hub id.

    Raises: UserError if the adapter names no base, or another adapter.
    """
    base = weight_files.base_of(str(path))
    if base is None:
        return Model(str(path), identity)
    if not Path(base).is_dir():
        # `of_external` gives an adapter's own identity and its base's.
        base_identity = identity[1] if isinstance(identity, list) else base
        return Model(str(path), identity, base=Model(base, base_identity, commit_of(base_identity)))
    if weight_files.base_of(base) is not None:
        raise UserError(
            f"{path}: its base {base} is an adapter itself; merge that one into its base first,"
            " adapters never stack"
        )
    return Model(str(path), identity, base=Model(base, base))


def with_models(settings: Any, change: Callable[[Any], Any]) -> Any:
    """A scorer's settings with `change(value)` in the place of every model that they name, at any
    depth.

    A model in settings is `{step: NAME}` in a recipe, `{artifact: …, step: …}` in a planned step,
    `{path: …}` if it is external; a mapping with a `family` is a scorer of its own. Everything else
    stays as it is.
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
