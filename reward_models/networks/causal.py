"""Causal language models that score, opened from a directory or hub id.

Reads models as `save_pretrained` writes them, LoRA adapters too. Nothing is quantised; weights that a file lacks are refused.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlalign.engine import chat
from mlalign.engine.models import Model, local_model
from mlalign.errors import UserError


def find(path: str, revision: str | None = None, base: str | None = None) -> Model:
    """Which model a path or hub id means; `base` puts another base under an adapter.

    Raises: UserError if it is neither a directory nor a hub id.
    """
    if Path(path).expanduser().is_dir():
        model = local_model(Path(path).expanduser().resolve(), path)
    else:
        told = _hub_base(path, revision)
        model = Model(path, path, revision, base=Model(told, told) if told else None)
    return dataclasses.replace(model, base=Model(base, base)) if base and model.base else model


def tokenizer(model: Model, chat_template: str | None = None) -> Any:
    """The model's own tokenizer, with a chat template. Raises: UserError without one of the two."""
    try:
        return chat.load_tokenizer(model, chat_template)
    except (OSError, ValueError) as error:
        raise UserError(f"{model.path}: no tokenizer can be loaded from it ({first_line(error)}); save the model's own there") from None


def load(model: Model, dtype: str) -> Any:
    """The network, in evaluation mode on the GPU if there is one; an adapter stands unmerged on its base.

    Raises: UserError if nothing can be loaded, or weights are missing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    whole = model.base or model
    try:
        with quiet():
            network, told = auto.from_pretrained(whole.path, revision=whole.revision, dtype=getattr(torch, dtype), output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{whole.path}: no causal language model can be loaded from it ({first_line(error)})") from None
    missing = sorted(told["missing_keys"])
    if missing:
        raise UserError(f"{whole.path}: holds no weights for {', '.join(missing[:4])}{', …' if len(missing) > 4 else ''}: it cannot score")
    if model.base:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, model.path, revision=model.revision)
    return network.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What transformers would say about weights while loading is decided, and said, by the caller."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _hub_base(path: str, revision: str | None) -> str | None:
    """The base that a hub id's adapter names; None if it is a whole model."""
    from transformers.utils import cached_file

    try:
        found = cached_file(path, "adapter_config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise UserError(f"{path}: neither a directory here nor a hub id that can be reached ({first_line(error)})") from None
    if found is None:
        return None
    from peft import PeftConfig

    return PeftConfig.from_pretrained(path, revision=revision).base_model_name_or_path
