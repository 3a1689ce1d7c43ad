"""Opens a classifier: its tokenizer, its network with head and adapter, which of its outputs is the score, how much it takes.

Reads a directory or hub id as `save_pretrained` writes it. Weights that the files lack are refused: drawn at random they would
score nothing. Nothing is quantised; a checkpoint that was saved quantised is opened as it is, with a warning.
"""

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.engine.chat import TOKENIZER_FILES, read_template
from mlalign.errors import UserError, nearest
from mlalign.models import templates
from reward_models import card as cards
from reward_models.networks.causal import first_line, quiet

ADAPTER = "adapter_config.json"
HEAD = re.compile(r"(^|\.)(score|classifier|classification_head|out_proj)\.(weight|bias)$")  # names of heads in an adapter's file
POSITIONS = re.compile(r"(^|\.)(position_embeddings|embed_positions|wpe)$")  # tables of learned positions
SAVED_QUANTISED = "%s: was saved quantised, and is loaded as saved"
log = logging.getLogger(__name__)


def tokenizer(path: str, revision: str | None, told: cards.Card, chat_template: str | None = None) -> Any:
    """The model's tokenizer with its chat template, `chat_template` being the name of one of several.

    Raises: UserError without one of them, or if the card names another template.
    """
    from transformers import AutoTokenizer

    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{path}: has no tokenizer (tokenizer.json); save the model's own there")
    try:
        found = AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no tokenizer can be loaded from it ({first_line(error)}); save the model's own there") from None
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
    """The network, in evaluation mode where `options` (for `from_pretrained`) put it. Raises: UserError if its files lack weights.

    A LoRA adapter is merged into its base in float32 and the sum rounded to `dtype`, so that all backends score with the same
    weights; on a quantised base it stays apart.
    """
    if is_adapter(path, revision):
        return _with_adapter(path, revision, base, dtype, options)
    model, missing = _load(path, dtype, revision=revision, **options)
    if missing:
        raise UserError(_incomplete(path, missing))
    if is_quantised(model.config):
        log.warning(SAVED_QUANTISED, path)
    return model.eval()


def outline(path: str, revision: str | None) -> Any:
    """A full model without its weights. Raises: UserError naming what its files lack (of a quantised one: of its head)."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no sequence classifier can be loaded from it ({first_line(error)})") from None
    quantised = is_quantised(config)
    if quantised:
        log.warning(SAVED_QUANTISED, path)
        del config.quantization_config
    model, missing = _load(path, "float32", revision=revision, config=config, device_map="meta")
    if lost := [name for name in missing if not quantised or HEAD.search(name)]:
        raise UserError(_incomplete(path, lost))
    return model


def is_quantised(config: Any) -> bool:
    """Whether a checkpoint was saved quantised."""
    return getattr(config, "quantization_config", None) is not None


def is_decoder(model: Any) -> bool:
    """Whether a network can continue from what it read before."""
    return "past_key_values" in inspect.signature(model.forward).parameters


def is_adapter(path: str, revision: str | None) -> bool:
    """Whether a directory or hub id holds a LoRA adapter."""
    if Path(path).is_dir():
        return (Path(path) / ADAPTER).is_file()
    from transformers.utils import cached_file

    return cached_file(path, ADAPTER, revision=revision, _raise_exceptions_for_missing_entries=False) is not None


def _load(path: str, dtype: str, **options: Any) -> tuple[Any, list[str]]:
    """A classifier and the names of the weights that its files lack (transformers would draw them at random)."""
    import torch
    from transformers import AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification
    try:
        with quiet():  # what transformers would say about missing weights is decided, and said, here
            model, told = auto.from_pretrained(path, dtype=getattr(torch, dtype), output_loading_info=True, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no sequence classifier can be loaded from it ({first_line(error)})") from None
    except ImportError as error:
        raise UserError(f"{path}: needs a package to be loaded: {' '.join(str(error).split())}") from None
    return model, sorted(told["missing_keys"])


def _with_adapter(path: str, revision: str | None, base: str | None, dtype: str, options: Mapping) -> Any:
    """An adapter on its base; the head comes from the adapter's file, or is the base's own."""
    import torch
    from peft import PeftModel
    from peft.utils import load_peft_weights

    saved = load_peft_weights(path, device="cpu", revision=revision)
    heads = {name.removeprefix("base_model.model."): len(w) for name, w in saved.items() if HEAD.search(name)}
    outputs = {"num_labels": max(heads.values())} if heads else {}
    model, missing = _load(base or _base_of(path, revision), "float32", **outputs, **options)
    lost = [name for name in missing if name not in heads]
    if lost:
        raise UserError(_incomplete(path, lost))
    try:
        adapted = PeftModel.from_pretrained(model, path, revision=revision)
    except RuntimeError as error:
        raise UserError(f"{path}: the adapter does not fit its base {model.name_or_path} ({' '.join(str(error).split())})") from None
    if adapted.active_peft_config.is_prompt_learning:
        raise UserError(f"{path}: is no LoRA adapter but a learned prompt ({adapted.active_peft_config.peft_type}), which cannot be merged")
    if is_quantised(model.config):
        log.warning("%s: its base was saved quantised, and is loaded as saved; the adapter is not merged", path)
        return adapted.eval()
    return adapted.merge_and_unload().to(getattr(torch, dtype)).eval()


def _base_of(path: str, revision: str | None) -> str:
    """The base that an adapter names: a directory beside it or elsewhere, or a hub id."""
    from peft import PeftConfig

    told = PeftConfig.from_pretrained(path, revision=revision).base_model_name_or_path
    beside = Path(path) / str(told)
    return str(beside.resolve()) if beside.is_dir() else str(told)


def _incomplete(path: str, missing: Sequence[str]) -> str:
    return (
        f"{path}: holds no weights for {', '.join(missing[:4])}{', …' if len(missing) > 4 else ''}: newly initialised weights score "
        "nothing; give a model that was saved as a sequence classifier (for an adapter: with its head, modules_to_save=['score'])"
    )


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
