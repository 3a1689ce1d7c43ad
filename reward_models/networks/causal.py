"""Causal language models that score, opened from a directory or hub id.

Reads models as `save_pretrained` writes them, LoRA adapters too. Nothing is quantised; weights that a file lacks are refused.
"""

import dataclasses
from pathlib import Path
from typing import Any

from mlalign.core import weight_files
from mlalign.core.model import Model, local_model
from mlalign.models import opening
from mlalign.models.engine import chat


def find(path: str, revision: str | None = None, base: str | None = None) -> Model:
    """Which model a path or hub id means; `base` puts another base under an adapter.

    Raises: UserError if it is neither a directory nor a hub id.
    """
    if Path(path).expanduser().is_dir():
        model = local_model(Path(path).expanduser().resolve(), path)
    else:
        told = weight_files.base_of(path, revision)
        model = Model(path, path, revision, base=Model(told, told) if told else None)
    return dataclasses.replace(model, base=Model(base, base)) if base and model.base else model


def tokenizer(model: Model, chat_template: str | None = None) -> Any:
    """The model's own tokenizer, with a chat template. Raises: UserError without one of the two."""
    return chat.load_tokenizer(model, chat_template)


def load(model: Model, dtype: str) -> Any:
    """The network, in evaluation mode on the GPU if there is one; an adapter stands unmerged on its base.

    Raises: UserError if nothing can be loaded, or weights are missing.
    """
    import torch

    whole = model.base or model
    network, _ = opening.network(whole.path, "causal", whole.revision, options={"dtype": getattr(torch, dtype)})
    if model.base:
        network = opening.attach(network, opening.adapter(model.path, model.revision), whole.path)
    return network.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()
