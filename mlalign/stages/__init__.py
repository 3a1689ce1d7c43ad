"""The stages: one file each, found by its name. A stage never imports a stage.

`mlalign/core/stage.py` says what a stage declares (`SLOTS`, `SHARDED`, …). Importing a stage must
import nothing heavy.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from mlalign.core.errors import UserError, nearest


def names() -> list[str]:
    """All stages, by the files in this folder."""
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name for name in modules if not name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of a stage. Raises: UserError naming the nearest stage."""
    if name not in names():
        raise UserError(f"unknown stage {name!r}{nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


def imports(
    name: str,
    cfg: Any,
    inputs: Mapping[str, Any],
) -> list[str]:
    """The modules that a step will import and that take seconds."""
    module = load(name)
    return module.imports(cfg, inputs) if hasattr(module, "imports") else []
