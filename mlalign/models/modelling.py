"""Models for training: loading full weights, adapters and new heads, and saving a plain Hugging
Face directory.

An adapter stands on exactly one full model: training goes on in that adapter, or merges it first.
Nothing is stacked.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from mlalign.core import adapters, weight_files
from mlalign.core.errors import UserError
from mlalign.core.model import Model
from mlalign.core.refusals import keys, refusals
from mlalign.core.store import read_json, write_json
from mlalign.models import opening
from mlalign.models.engine import chat
from mlalign.models.templates import ChatTemplate

# Names under which tokenizers commonly hold a padding token, or a spare one that may serve as one.
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
# What of a LoRA configuration must agree for an adapter to be trained on.
SHAPE = ("r", "lora_alpha", "use_rslora", "use_dora")
TASKS = {"causal": "CAUSAL_LM", "classifier": "SEQ_CLS"}
HEAD = "score"


@dataclass(frozen=True)
class Weights:
    """How weights are loaded: `deepspeed` is the trainer arguments' `hf_deepspeed_config`,
    `options` go to from_pretrained.
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
    """The model's tokenizer with `chat_template` (a file or Jinja text) installed if given, padding
    on the right.

    `padding_is_read`: whether the padding token needs a row in the embeddings as it is
        (`fit_vocabulary` makes one otherwise).
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
    tokenizer.init_kwargs.pop(
        "local_files_only", None
    )  # would be saved, and says only whether this process runs offline
    return tokenizer


def ensure_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a padding token of its own, from its vocabulary if possible: with pad =
    eos a classifier would read its score before the end of the text.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    vocabulary = tokenizer.get_vocab()
    spare = next(
        (
            t
            for t in PADDING
            if t in vocabulary and t not in (tokenizer.eos_token, tokenizer.bos_token)
        ),
        PADDING[0],
    )
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

    A full model is trained as it is or gets a new adapter; an adapter is trained on (`peft` given)
    or merged first.
    Raises: UserError if weights are missing, or `peft` does not describe the adapter.
    """
    if model.base is None:
        config = lora_config(
            peft, weights.task
        )  # before the weights are loaded: peft refuses some combinations
        return load_full(model, weights, seed), config
    if peft is None:
        return load_merged(model, weights, seed), None
    _check_same_shape(Path(model.path), peft)
    with whole_weights(weights) if weights.task == "classifier" else contextlib.nullcontext():
        return (
            _with_adapter(load_full(model.base, weights, seed), model, weights, trainable=True),
            None,
        )


def load_merged(model: Model, weights: Weights, seed: int = 0) -> Any:
    """Full weights of a model; an adapter is merged into its base."""
    if model.base is None:
        return load_full(model, weights, seed)
    with whole_weights(weights):
        merged = _with_adapter(
            load_full(model.base, weights, seed), model, weights, trainable=False
        ).merge_and_unload()
    return merged.requires_grad_(True)


def load_full(model: Model, weights: Weights, seed: int = 0) -> Any:
    """A full model; a classifier's missing head is drawn from N(0, 1/sqrt(d+1)) with d the hidden
    size (Hong et al. 2025).

    Raises: UserError if the directory lacks any other weights, which would be drawn at random.
    """
    head = f"{HEAD}.weight"
    n_outputs, may_lack = (1, [head]) if weights.task == "classifier" else (None, [])
    with whole_weights(
        weights
    ):  # the outline is never spread over the ranks, where transformers would not say what does not fit
        seen = opening.outline(model.path, weights.task, model.revision, n_outputs, may_lack)
    options = {**weights.options, "dtype": weights.dtype}
    if weights.quantization:
        options["quantization_config"] = _quantization(weights.quantization)
    network, lacking = opening.network(
        model.path, weights.task, model.revision, n_outputs=n_outputs, options=options, seen=seen
    )
    if head in lacking:
        draw_head(network, seed)
    return network


def draw_head(network: Any, seed: int) -> None:
    """Draw the score head from N(0, 1/sqrt(d+1)); the same seed gives the same head on every rank
    and machine.
    """
    head = getattr(network, HEAD).weight
    with _gathered(head):
        d = head.shape[-1]
        drawn = torch.normal(
            0.0, 1 / math.sqrt(d + 1), head.shape, generator=torch.Generator().manual_seed(seed)
        )
        head.data.copy_(drawn)


def lora_config(peft: Mapping | None, task: str) -> Any:
    """peft's LoraConfig; under it a classifier's head is always trained and saved with the adapter."""
    if peft is None:
        return None
    from peft import LoraConfig

    saved = list(peft.get("modules_to_save") or [])
    if task == "classifier" and HEAD not in saved:
        saved.append(HEAD)
    with refusals(keys("peft", peft), "peft"):
        return LoraConfig(**{**peft, "task_type": TASKS[task], "modules_to_save": saved or None})


def _with_adapter(network: Any, model: Model, weights: Weights, trainable: bool) -> Any:
    """The adapter's weights on its base.

    A policy's adapter goes under a classifier too: the head is then new.
    """
    adapter = opening.adapter(model.path)
    adapter.config.task_type = TASKS[weights.task]
    if weights.task == "classifier":
        adapter.config.modules_to_save = sorted({*(adapter.config.modules_to_save or []), HEAD})
        adapter.weights.setdefault(
            f"base_model.model.{HEAD}.weight", getattr(network, HEAD).weight.detach().clone()
        )
    base = model.base.path if model.base else ""
    return opening.attach(network, adapter, base, trainable=trainable, autocast=not weights.sharded)


def _check_same_shape(path: Path, peft: Mapping) -> None:
    told = weight_files.read_object(path / adapters.CONFIG)
    if not adapters.is_plain(told):
        raise UserError(
            f"{path / adapters.CONFIG}: init_lora_weights is {told['init_lora_weights']}, with"
            " which the adapter changes its base; training does not go on in it: make it a full"
            " model first (peft=null trains full weights)"
        )
    differing = [
        f"{key}={told.get(key)}, not {peft[key]}"
        for key in SHAPE
        if key in peft and peft[key] != told.get(key)
    ]
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
    """Load unsharded weights although ZeRO-3 is on: to merge whole matrices (DeepSpeed shards them
    when training begins), or on one rank alone.
    """
    from transformers.integrations.deepspeed import (
        is_deepspeed_zero3_enabled,
        set_hf_deepspeed_config,
        unset_hf_deepspeed_config,
    )

    if (
        not weights.sharded or not is_deepspeed_zero3_enabled()
    ):  # off already: by a caller, who turns it on again
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
    sizes = [
        (p.ds_numel if hasattr(p, "ds_numel") else p.numel(), p.requires_grad)
        for p in network.parameters()
    ]
    return {
        "parameters": sum(n for n, _ in sizes),
        "trainable_parameters": sum(n for n, trained in sizes if trained),
    }


def drop_reference(trainer: Any) -> None:
    """Free the reference of a DPO or KTO trainer whose log-probabilities are in the data set
    already.
    """
    trainer.ref_model = None
    if "ref" in getattr(trainer.model, "peft_config", {}):
        trainer.model.delete_adapter("ref")


def scores(trainer: Any, sequences: Sequence[list[int]]) -> list[float]:
    """The score of each token sequence by the trainer's model in memory, one at a time in its own
    dtype; call it on every rank.
    """
    network = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
    device = trainer.args.device
    with torch.inference_mode():
        return [
            network(input_ids=torch.tensor([ids], device=device), use_cache=False)
            .logits[0, 0]
            .item()
            for ids in sequences
        ]


# ------------------------------------------------------------------------------------------- saving

# Generation settings that mean nothing without sampling, and without beams.
SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
BEAMS = ("early_stopping", "length_penalty")


def make_generation_savable(network: Any) -> str | None:
    """Unset generation settings without effect, with which transformers refuses to save a model;
    returns what was unset, as a warning.

    Raises: UserError for settings that contradict each other in other ways.
    """
    config = getattr(network, "generation_config", None)
    if config is None or _refuses(config) is None:
        return None
    idle = [
        *(SAMPLING if config.do_sample is not True else ()),
        *(BEAMS if (config.num_beams or 1) == 1 else ()),
    ]
    defaults = type(config)()
    given = {name: getattr(config, name, None) for name in idle}
    unset = {
        name: value
        for name, value in given.items()
        if value is not None and value != getattr(defaults, name)
    }
    for name in unset:
        setattr(config, name, None)

    place = f"{network.name_or_path}: generation_config.json"
    if reason := _refuses(config):
        raise UserError(
            f"{place} cannot be saved with a model that is trained from it ({reason}); mend it"
            " there"
        )
    told = ", ".join(f"{name}={value}" for name, value in unset.items())
    return (
        f"{place} sets {told}, which mean nothing without do_sample or num_beams; they are left out"
        " of the trained model's"
    )


def _refuses(config: Any) -> str | None:
    """Why transformers would not save these generation settings."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def head_norm(folder: Path) -> float:
    """The Euclidean norm of the score head in a saved model or adapter."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # no mapping
                if name.endswith(f"{HEAD}.weight"):
                    return float(weights.get_tensor(name).float().norm())
    raise UserError(f"{folder}: holds no head {HEAD}.weight")


def warn_of_no_end(out: Any, template: ChatTemplate, tokenizer: Any) -> None:
    """Warn, through a stage's `out`, of a template that ends an answer with nothing that could be
    learned.
    """
    if any(template.end_of_turn):
        return
    end = f" such as {tokenizer.eos_token}" if tokenizer.eos_token else ""
    out.warn(
        "chat_template: writes no end token after the last answer, so the model does not learn "
        "where an answer ends and may write on up to max_tokens; "
        f"set chat_template to one that ends it with a token{end}"
    )


def end_at(trainer: Any, template: ChatTemplate) -> None:
    """Let the saved model's generation end where the template ends a turn, whichever program serves
    it.

    The model's own end tokens stay.
    """
    token = template.end_of_turn.token
    if token is None:
        return
    config = trainer.accelerator.unwrap_model(trainer.model).generation_config
    own = config.eos_token_id
    known = own if isinstance(own, list) else [] if own is None else [own]
    if token not in known:
        config.eos_token_id = [token, *known]


def save(trainer: Any, path: Path) -> None:
    """Write the trainer's model, tokenizer and configurations as a plain directory; call it on
    every rank.

    Weights that ZeRO-3 shards are gathered. Only safetensors and text stay: what else transformers
    writes is removed.
    """
    trainer.accelerator.unwrap_model(trainer.model).config.use_cache = True
    if trainer.is_deepspeed_enabled:
        _save_gathered(trainer, path)
    else:
        trainer.save_model(str(path))
    if not trainer.is_world_process_zero():
        return
    for name in ("training_args.bin", "README.md"):
        (path / name).unlink(missing_ok=True)
    network = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(network, "peft_config") and getattr(network, "generation_config", None) is not None:
        network.generation_config.save_pretrained(
            str(path)
        )  # beside an adapter nobody else writes it
    adapter = path / "adapter_config.json"
    if adapter.is_file():  # peft writes sets, whose order changes from process to process
        told = read_json(adapter)
        write_json(
            adapter,
            {
                k: (
                    sorted(v)
                    if k in ("target_modules", "modules_to_save") and isinstance(v, list)
                    else v
                )
                for k, v in told.items()
            },
        )


def _save_gathered(trainer: Any, path: Path) -> None:
    """As `Trainer.save_model`, without the copies of tied weights that a state gathered by
    DeepSpeed has.
    """
    network, engine = trainer.accelerator.unwrap_model(trainer.model), trainer.deepspeed
    adapter_only = hasattr(network, "peft_config") and engine.zero_optimization_stage() == 3
    if adapter_only:
        state = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True)
    else:
        state = trainer.accelerator.get_state_dict(engine)
    if trainer.is_world_process_zero():
        tied = set(getattr(network, "all_tied_weights_keys", {}))
        network.save_pretrained(
            str(path), state_dict={k: v for k, v in state.items() if k not in tied}
        )
        trainer.processing_class.save_pretrained(str(path))


def rank_of(trainer: Any) -> int | None:
    """The rank of the adapter that is trained; None for full weights."""
    configs = getattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config", {})
    return configs["default"].r if configs else None
