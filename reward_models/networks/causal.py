"""Causal language models that score, opened from a directory or hub id.

Reads models as `save_pretrained` writes them, LoRA adapters too. Nothing is quantised; weights that
a file lacks are refused.
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
    directory = Path(path).expanduser()
    if directory.is_dir():
        model = local_model(directory.resolve(), path)
    else:
        base_path = weight_files.base_of(path, revision)
        own_base = Model(base_path, base_path) if base_path else None
        model = Model(path, path, revision, base=own_base)
    if base and model.base:
        return dataclasses.replace(model, base=Model(base, base))
    return model


def tokenizer(model: Model, chat_template: str | None = None) -> Any:
    """The model's own tokenizer, with a chat template. Raises: UserError if either is missing."""
    return chat.load_tokenizer(model, chat_template)


def load(model: Model, dtype: str) -> Any:
    """The network, in evaluation mode, on the GPU if there is one; an adapter is not merged.

    Raises: UserError if nothing can be loaded, or weights are missing.
    """
    import torch

    whole = model.base or model
    options = {"dtype": getattr(torch, dtype)}
    network, _ = opening.network(whole.path, "causal", whole.revision, options=options)
    if model.base:
        adapter = opening.adapter(model.path, model.revision)
        network = opening.attach(network, adapter, whole.path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return network.to(device).eval()
