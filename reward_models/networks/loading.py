"""Opens a classifier: tokenizer, network with head and adapter, which output is the score.

Reads a directory or hub id as `save_pretrained` writes it. Weights that the files lack are refused:
drawn at random, they would score nothing. Nothing is quantised; a checkpoint that was saved
quantised is opened as it is, with a warning.
"""

import inspect
import logging
import re
from collections.abc import Mapping
from typing import Any

from mlalign.core import weight_files
from mlalign.core.errors import UserError, nearest
from mlalign.models import opening, templates
from mlalign.models.engine.chat import read_template
from reward_models import card as cards

# Tables of learned positions.
POSITIONS = re.compile(r"(^|\.)(position_embeddings|embed_positions|wpe)$")
SAVED_QUANTISED = "%s was saved quantised, and is loaded as saved"
log = logging.getLogger(__name__)


def tokenizer(
    path: str,
    revision: str | None,
    card: cards.Card,
    chat_template: str | None = None,
) -> Any:
    """The model's tokenizer with its chat template; `chat_template` names one of several.

    Raises: UserError if either is missing, or if the card names another template.
    """
    loaded = opening.tokenizer(path, revision)
    if not loaded.chat_template:
        raise UserError(
            f"{path}: its tokenizer has no chat template; a scorer needs the one it was trained"
            " with: save it there"
        )

    templates.install(loaded, read_template(chat_template))
    template_hash = cards.template_hash(templates.text_of(loaded))
    if card.template_hash not in (None, template_hash):
        raise UserError(
            f"{path}: {cards.FILE} says template_hash {card.template_hash}, "
            f"the tokenizer's chat template has {template_hash}: "
            "scores would not be those of the trained model; put the template of its training back"
        )
    return loaded


# ---------------------------------------------------------------------------------------- network


def network(path: str, revision: str | None, base: str | None, dtype: str, options: Mapping) -> Any:
    """The network, in evaluation mode, where `options` (for `from_pretrained`) put it.

    A LoRA adapter is merged into its base in float32 and the sum rounded to `dtype`, so all
    backends score with the same weights; on a quantised base it stays separate.

    Raises: UserError if the model is not what its files say.
    """
    import torch

    if opening.is_adapter(path, revision):
        return _with_adapter(path, revision, base, dtype, options)
    options = {**options, "dtype": getattr(torch, dtype)}
    model, _ = opening.network(path, "classifier", revision, options=options)
    if is_quantised(model.config):
        log.warning(SAVED_QUANTISED, path)
    return model.eval()


def outline(path: str, revision: str | None) -> Any:
    """A full model without its weights.

    Raises: UserError if it is not what its files say; of a quantised model, only the head counts.
    """
    outlined = opening.outline(path, "classifier", revision)
    if outlined.quantised:
        log.warning(SAVED_QUANTISED, path)
    return outlined.network


def is_quantised(config: Any) -> bool:
    """Whether a checkpoint was saved quantised."""
    return getattr(config, "quantization_config", None) is not None


def is_decoder(model: Any) -> bool:
    """Whether a network can continue from what it read before."""
    return "past_key_values" in inspect.signature(model.forward).parameters


def _with_adapter(
    path: str,
    revision: str | None,
    base: str | None,
    dtype: str,
    options: Mapping,
) -> Any:
    """An adapter on its base; the head comes from the adapter's file, or is the base's own."""
    import torch

    adapter = opening.adapter(path, revision)
    whole = base or weight_files.base_of(path, revision)
    assert whole is not None
    model, _ = opening.network(
        whole,
        "classifier",
        n_outputs=adapter.n_outputs,
        on_it=adapter,
        options={**options, "dtype": torch.float32},
    )
    adapted = opening.attach(model, adapter, whole)
    if is_quantised(model.config):
        log.warning(f"{SAVED_QUANTISED}; the adapter is not merged", f"{path}: its base")
        return adapted.eval()
    return adapted.merge_and_unload().to(getattr(torch, dtype)).eval()


# ------------------------------------------------------------------------------ outputs, lengths


def output_of(config: Any, path: str, wanted: str | int | None) -> int:
    """Which column of the outputs is the score. Raises: UserError naming the outputs."""
    labels = {str(name): int(i) for i, name in (config.id2label or {}).items()}
    if wanted is None:
        if config.num_labels != 1:
            raise UserError(
                f"{path}: the model has {config.num_labels} outputs ({', '.join(labels)});"
                " name one with `output`"
            )
        return 0
    if isinstance(wanted, int) and 0 <= wanted < config.num_labels:
        return wanted
    if wanted not in labels:
        raise UserError(f"{path}: has no output {wanted!r}{nearest(str(wanted), labels)}")
    return labels[str(wanted)]


def room(tokenizer: Any, model: Any, wanted: int | None, path: str) -> int:
    """The most tokens of a conversation: `wanted`, or else what tokenizer and model allow.

    Raises: UserError for more tokens than the model has positions for.
    """
    config = model.config.get_text_config()
    bound = learned_positions(model)
    rope = length_dependent_rope(config)
    if bound is None and rope and rope[0] == "dynamic":
        bound = rope[1]
    if wanted is not None:
        if bound is not None and wanted > bound:
            raise UserError(
                f"{path}: max_length {wanted} is more than its positions allow ({bound} tokens);"
                f" choose {bound} or less"
            )
        return wanted

    positions = getattr(config, "max_position_embeddings", None)
    limits = [tokenizer.model_max_length, positions, bound]
    return min(limit for limit in limits if limit is not None)


def learned_positions(model: Any) -> int | None:
    """How many positions a model has vectors for; None if it has none.

    RoBERTa's begin behind the padding token's.
    """
    from torch import nn

    sizes = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and POSITIONS.search(name):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            sizes.append(module.num_embeddings - unused)
    return min(sizes, default=None)


def length_dependent_rope(config: Any) -> tuple[str, int] | None:
    """(kind, tokens) if rotary embeddings change with the longest row of a batch.

    They change once it has more than so many tokens. `dynamic` ones even depend on the rows before,
    so conversations are kept below that; `longrope` has one set on each side.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in parameters.values() if isinstance(value, Mapping)]
    for rope in [parameters] if "rope_type" in parameters else by_layer_type:
        if rope.get("rope_type") in ("dynamic", "longrope"):
            original = rope.get("original_max_position_embeddings")
            return rope["rope_type"], original or config.max_position_embeddings
    return None
