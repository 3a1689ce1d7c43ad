"""Packages that steps need and that may not be installed."""

import importlib.util
from collections.abc import Iterable
from types import ModuleType
from typing import Any

# Package -> what to do where it is missing.
INSTALL = {
    "vllm": (
        "pip install 'mlalign[vllm]' (on a GPU machine), `make install` (CPU), or choose"
        " engine=transformers"
    ),
    "openai": "pip install openai, or choose another engine",
    "bitsandbytes": "pip install bitsandbytes, or leave out `quantization`",
    "deepspeed": "pip install 'mlalign[train]', or leave out deepspeed=",
    "trl": "pip install 'mlalign[train]'",
    "lm_eval": "pip install 'mlalign[lm-eval]'",
    "optuna": "pip install 'mlalign[search]'",
}


def missing(module: ModuleType, cfg: Any, key: str) -> list[str]:
    """A message for each package that a stage needs for this configuration and does not find."""
    needed: Iterable[str] = module.packages(cfg) if hasattr(module, "packages") else ()
    messages = []
    for package in needed:
        if importlib.util.find_spec(package) is None:
            mend = INSTALL.get(package, f"pip install {package}")
            messages.append(f"{key}: the package {package!r} is not installed; {mend}")
    return messages
