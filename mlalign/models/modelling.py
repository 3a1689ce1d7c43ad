"""Models for training: loads full weights, adapters and new heads. `saving` writes them.

An adapter stands on exactly one full model. Training continues in that adapter, or merges it first;
adapters are never stacked.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from mlalign.core import adapters, weight_files
from mlalign.core.errors import UserError
from mlalign.core.model import Model
from mlalign.core.refusals import keys, refusals
from mlalign.models import opening
from mlalign.models.engine import chat

# Tokens that tokenizers commonly have for padding, or to spare.
PADDING = (
    "<|pad|>",
    "<pad>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|vision_pad|>",
    "<|endoftext|>",
    "<unk>",
    "[UNK]",
)
# Settings of a LoRA configuration that must agree if training continues in an adapter.
SHAPE = ("r", "lora_alpha", "use_rslora", "use_dora")
TASKS = {"causal": "CAUSAL_LM", "classifier": "SEQ_CLS"}
HEAD = "score"


@dataclass(frozen=True)
class Weights:
    """How weights are loaded.

    `deepspeed` is the trainer arguments' `hf_deepspeed_config`; `options` go to from_pretrained.
    """

    task: Literal["causal", "classifier"]
    dtype: str
    quantization: str | None = None
    deepspeed: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sharded(self) -> bool:
        """True if from_pretrained spreads the parameters over the ranks (ZeRO-3)."""
        return self.deepspeed is not None and self.deepspeed.is_zero3()


# --------------------------------------------------------------------------------------- tokenizers


def load_tokenizer(
    model: Model,
    chat_template: str | None,
    needs_template: bool = True,
    padding_is_read: bool = True,
) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding on the right.

    `chat_template` (a file or Jinja text) replaces its own. `padding_is_read`: whether the padding
    token must have a row in the embeddings already; otherwise `fit_vocabulary` adds one.

    Raises: UserError if there is no tokenizer, no chat template although one is needed, or a token
        without a row.
    """
    template = chat.read_template(chat_template)
    if needs_template or template:
        tokenizer = chat.load_tokenizer(model, template)
    else:
        source = chat.tokenizer_source(model)
        tokenizer = opening.tokenizer(source.path, source.revision)
    full = model.base or model
    n_rows = opening.configuration(full.path, full.revision).get_text_config().vocab_size
    opening.check_tokens(tokenizer, n_rows, model.path, padding_is_read=padding_is_read)
    tokenizer.padding_side = "right"
    # It would be saved, though it only says whether this process runs offline.
    tokenizer.init_kwargs.pop("local_files_only", None)
    return tokenizer


def ensure_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a padding token of its own, from its vocabulary if possible.

    If padding and end token were the same, a classifier would read its score too early.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    free = set(tokenizer.get_vocab()) - {tokenizer.eos_token, tokenizer.bos_token}
    spare = next((token for token in PADDING if token in free), PADDING[0])
    tokenizer.add_special_tokens({"pad_token": spare})


def fit_vocabulary(network: Any, tokenizer: PreTrainedTokenizerBase, frozen: bool) -> None:
    """Make room for tokens that were added to the tokenizer; most models have spare rows already.

    Raises: UserError if rows are missing and the embeddings are not trained (`frozen`).
    """
    n_rows = network.config.get_text_config().vocab_size
    if len(tokenizer) <= n_rows:
        return
    if frozen:
        raise UserError(
            "the tokenizer has no padding token of its own and the model no spare row for one"
            f" ({n_rows} rows); set tokenizer.pad_token to a token that texts never use and save it"
            " with the model, or train full weights (peft=null)"
        )
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)


# ------------------------------------------------------------------------------------------- models


def open_for_training(
    model: Model, weights: Weights, peft: Mapping | None, seed: int
) -> tuple[Any, Any]:
    """(network, LoraConfig or None for the trainer to wrap it with).

    A full model is trained as it is, or gets a new adapter. An adapter is trained further if `peft`
    is given, and merged into its base otherwise.

    Raises: UserError if weights are missing, or `peft` does not describe the adapter.
    """
    if model.base is None:
        # First, since peft refuses some combinations and loading takes long.
        config = lora_config(peft, weights.task)
        return load_full(model, weights, seed), config
    if peft is None:
        return load_merged(model, weights, seed), None

    _check_same_shape(Path(model.path), peft)
    loading: contextlib.AbstractContextManager = contextlib.nullcontext()
    if weights.task == "classifier":
        loading = whole_weights(weights)
    with loading:
        base = load_full(model.base, weights, seed)
        return _with_adapter(base, model, weights, trainable=True), None


def load_merged(model: Model, weights: Weights, seed: int = 0) -> Any:
    """Full weights of a model; an adapter is merged into its base."""
    if model.base is None:
        return load_full(model, weights, seed)
    with whole_weights(weights):
        base = load_full(model.base, weights, seed)
        adapted = _with_adapter(base, model, weights, trainable=False)
        merged = adapted.merge_and_unload()
    return merged.requires_grad_(True)


def load_full(model: Model, weights: Weights, seed: int = 0) -> Any:
    """A full model; a classifier's missing head is drawn at random (`draw_head`).

    Raises: UserError if the directory lacks any other weights, which would be drawn at random.
    """
    head = f"{HEAD}.weight"
    n_outputs = None
    may_lack = []
    if weights.task == "classifier":
        n_outputs = 1
        may_lack = [head]
    # Under ZeRO-3 transformers does not say which weights do not fit, so the outline is made whole.
    with whole_weights(weights):
        outline = opening.outline(model.path, weights.task, model.revision, n_outputs, may_lack)

    options = {**weights.options, "dtype": weights.dtype}
    if weights.quantization:
        options["quantization_config"] = _quantization(weights.quantization)
    network, lacking = opening.network(
        model.path,
        weights.task,
        model.revision,
        n_outputs=n_outputs,
        options=options,
        known=outline,
    )
    if head in lacking:
        draw_head(network, seed)
    return network


def draw_head(network: Any, seed: int) -> None:
    """Draw the score head from N(0, 1/sqrt(d+1)), with d the hidden size (Hong et al. 2025).

    The same seed gives the same head on every rank and machine.
    """
    head = getattr(network, HEAD).weight
    generator = torch.Generator().manual_seed(seed)
    with _gathered(head):
        deviation = 1 / math.sqrt(head.shape[-1] + 1)
        drawn = torch.normal(0.0, deviation, head.shape, generator=generator)
        head.data.copy_(drawn)


def lora_config(peft: Mapping | None, task: str) -> Any:
    """peft's LoraConfig; a classifier's head is always trained and saved with the adapter."""
    if peft is None:
        return None
    from peft import LoraConfig

    saved = list(peft.get("modules_to_save") or [])
    if task == "classifier" and HEAD not in saved:
        saved.append(HEAD)
    with refusals(keys("peft", peft), "peft"):
        return LoraConfig(**{**peft, "task_type": TASKS[task], "modules_to_save": saved or None})


def _with_adapter(network: Any, model: Model, weights: Weights, trainable: bool) -> Any:
    """The base `network` with the model's adapter on it.

    A classifier may stand on a policy's adapter: its head is then new.
    """
    adapter = opening.adapter(model.path)
    adapter.config.task_type = TASKS[weights.task]
    if weights.task == "classifier":
        saved = adapter.config.modules_to_save or []
        adapter.config.modules_to_save = sorted({*saved, HEAD})
        head = getattr(network, HEAD).weight.detach().clone()
        adapter.weights.setdefault(f"base_model.model.{HEAD}.weight", head)
    base = model.base.path if model.base else ""
    return opening.attach(network, adapter, base, trainable=trainable, autocast=not weights.sharded)


def _check_same_shape(path: Path, peft: Mapping) -> None:
    """Raises: UserError if training cannot continue in the adapter with these LoRA settings."""
    saved = weight_files.read_object(path / adapters.CONFIG)
    if not adapters.is_plain(saved):
        raise UserError(
            f"{path / adapters.CONFIG}: init_lora_weights is {saved['init_lora_weights']}, with"
            " which the adapter changes its base; training does not go on in it: make it a full"
            " model first (peft=null trains full weights)"
        )

    differing = []
    for key in SHAPE:
        if key in peft and peft[key] != saved.get(key):
            differing.append(f"{key}={saved.get(key)}, not {peft[key]}")
    if differing:
        raise UserError(
            f"peft: training goes on in the adapter {path}, which has {', '.join(differing)};"
            " adapters never stack: set the same values, or make it a full model first (peft=null"
            " trains full weights)"
        )


def _quantization(kind: str) -> Any:
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise UserError(
            f"quantization: {kind} needs a CUDA GPU, and this machine shows none; set"
            " quantization=null"
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


@contextlib.contextmanager
def whole_weights(weights: Weights) -> Iterator[None]:
    """Load unsharded weights although ZeRO-3 is on: to merge whole matrices, or on a single rank.

    DeepSpeed shards them when training begins.
    """
    from transformers.integrations.deepspeed import (
        is_deepspeed_zero3_enabled,
        set_hf_deepspeed_config,
        unset_hf_deepspeed_config,
    )

    # It may be off already because of a caller, who will turn it on again.
    if not weights.sharded or not is_deepspeed_zero3_enabled():
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(weights.deepspeed)


def _gathered(parameter: torch.nn.Parameter) -> contextlib.AbstractContextManager:
    """Within it a parameter that ZeRO-3 shards is whole; what the first rank writes goes to all."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def n_parameters(network: Any) -> dict[str, int]:
    """How many parameters there are, and how many of them are trained."""
    total = 0
    trained = 0
    for parameter in network.parameters():
        # Under ZeRO-3 `numel` counts only this rank's part.
        size = parameter.ds_numel if hasattr(parameter, "ds_numel") else parameter.numel()
        total += size
        if parameter.requires_grad:
            trained += size
    return {"parameters": total, "trainable_parameters": trained}


def drop_reference(trainer: Any) -> None:
    """Free a DPO or KTO trainer's reference once its log-probabilities are in the data set."""
    trainer.ref_model = None
    if "ref" in getattr(trainer.model, "peft_config", {}):
        trainer.model.delete_adapter("ref")


def scores(trainer: Any, sequences: Sequence[list[int]]) -> list[float]:
    """The score that the trainer's model gives each token sequence, one at a time in its own dtype.

    Call it on every rank.
    """
    network = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
    values = []
    with torch.inference_mode():
        for token_ids in sequences:
            inputs = torch.tensor([token_ids], device=trainer.args.device)
            logits = network(input_ids=inputs, use_cache=False).logits
            values.append(logits[0, 0].item())
    return values
