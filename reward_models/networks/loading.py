"""Opens a classifier: its tokenizer, its network with head and adapter, which of its outputs is the score, how much it takes.

Reads a directory or hub id as `save_pretrained` writes it. Weights that the files lack are refused: drawn at random they would
score nothing. Nothing is quantised; a checkpoint that was saved quantised is opened as it is, with a warning.
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

POSITIONS = re.compile(r"(^|\.)(position_embeddings|embed_positions|wpe)$")  # tables of learned positions
SAVED_QUANTISED = "%s: was saved quantised, and is loaded as saved"
log = logging.getLogger(__name__)


def tokenizer(path: str, revision: str | None, told: cards.Card, chat_template: str | None = None) -> Any:
    """The model's tokenizer with its chat template, `chat_template` being the name of one of several.

    Raises: UserError without one of them, or if the card names another template.
    """
    found = opening.tokenizer(path, revision)
    if not found.chat_template:
        raise UserError(f"{path}: its tokenizer has no chat template; a scorer needs the one it was trained with: save it there")
    templates.install(found, read_template(chat_template))
    template = cards.template_hash(templates.text_of(found))
    if told.template_hash not in (None, template):
        raise UserError(
            f"{path}: {cards.FILE} says template_hash {told.template_hash}, the tokenizer's chat template has {template}: "
            "scores would not be those of the trained model; put the template of its training back"
        )
    return found


# --------------------------------------------------------------------------------------------------------------- network


def network(path: str, revision: str | None, base: str | None, dtype: str, options: Mapping) -> Any:
    """The network, in evaluation mode where `options` (for `from_pretrained`) put it. Raises: UserError if it is not what its files say.

    A LoRA adapter is merged into its base in float32 and the sum rounded to `dtype`, so that all backends score with the same
    weights; on a quantised base it stays apart.
    """
    import torch

    if opening.is_adapter(path, revision):
        return _with_adapter(path, revision, base, dtype, options)
    model, _ = opening.network(path, "classifier", revision, options={**options, "dtype": getattr(torch, dtype)})
    if is_quantised(model.config):
        log.warning(SAVED_QUANTISED, path)
    return model.eval()


def outline(path: str, revision: str | None) -> Any:
    """A full model without its weights. Raises: UserError if it is not what its files say (of a quantised one: in its head)."""
    seen = opening.outline(path, "classifier", revision)
    if seen.quantised:
        log.warning(SAVED_QUANTISED, path)
    return seen.network


def is_quantised(config: Any) -> bool:
    """Whether a checkpoint was saved quantised."""
    return getattr(config, "quantization_config", None) is not None


def is_decoder(model: Any) -> bool:
    """Whether a network can continue from what it read before."""
    return "past_key_values" in inspect.signature(model.forward).parameters


def _with_adapter(path: str, revision: str | None, base: str | None, dtype: str, options: Mapping) -> Any:
    """An adapter on its base; the head comes from the adapter's file, or is the base's own."""
    import torch

    adapter = opening.adapter(path, revision)
    whole = base or weight_files.base_of(path, revision)
    assert whole is not None
    model, _ = opening.network(whole, "classifier", n_outputs=adapter.n_outputs, on_it=adapter, options={**options, "dtype": torch.float32})
    adapted = opening.attach(model, adapter, whole)
    if is_quantised(model.config):
        log.warning("%s: its base was saved quantised, and is loaded as saved; the adapter is not merged", path)
        return adapted.eval()
    return adapted.merge_and_unload().to(getattr(torch, dtype)).eval()


# ------------------------------------------------------------------------------------------------------- what it says of itself


def output_of(config: Any, path: str, wanted: str | int | None) -> int:
    """Which column of the outputs is the score. Raises: UserError naming the outputs."""
    labels = {str(name): int(i) for i, name in (config.id2label or {}).items()}
    if wanted is None:
        if config.num_labels != 1:
            raise UserError(f"{path}: the model has {config.num_labels} outputs ({', '.join(labels)}); name one with `output`")
        return 0
    if isinstance(wanted, int) and 0 <= wanted < config.num_labels:
        return wanted
    if wanted not in labels:
        raise UserError(f"{path}: has no output {wanted!r}{nearest(str(wanted), labels)}")
    return labels[str(wanted)]


def room(found: Any, model: Any, wanted: int | None, path: str) -> int:
    """The most tokens of a conversation: `wanted`, or else what tokenizer and model allow.

    Raises: UserError for more tokens than the model has positions for.
    """
    config = model.config.get_text_config()
    told = [found.model_max_length, getattr(config, "max_position_embeddings", None), learned_positions(model)]
    rope = length_dependent_rope(config)
    bound = learned_positions(model) or (rope[1] if rope and rope[0] == "dynamic" else None)
    if wanted is not None and bound is not None and wanted > bound:
        raise UserError(f"{path}: max_length {wanted} is more than its positions allow ({bound} tokens); choose {bound} or less")
    return wanted or min(n for n in [*told, bound] if n is not None)


def learned_positions(model: Any) -> int | None:
    """How many positions a model has vectors for; None if it has none. RoBERTa's begin behind the padding token's."""
    from torch import nn

    tables = [m for name, m in model.named_modules() if isinstance(m, nn.Embedding) and POSITIONS.search(name)]
    return min((t.num_embeddings - (0 if t.padding_idx is None else t.padding_idx + 1) for t in tables), default=None)


def length_dependent_rope(config: Any) -> tuple[str, int] | None:
    """(kind, tokens) where rotary embeddings change once the longest row of a batch has more than so many tokens.

    `dynamic` ones even depend on the rows before, so conversations are kept below that; `longrope` has one set on each side.
    """
    told = getattr(config, "rope_parameters", None) or {}
    for rope in [told] if "rope_type" in told else [r for r in told.values() if isinstance(r, Mapping)]:
        if rope.get("rope_type") in ("dynamic", "longrope"):
            return rope["rope_type"], rope.get("original_max_position_embeddings") or config.max_position_embeddings
    return None
