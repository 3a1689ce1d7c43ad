"""The configuration that every training stage has, and the arithmetic of batches.

Light: imports nothing of torch.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlalign.core.alarms import Dropped, Share
from mlalign.core.errors import UserError
from mlalign.core.schema import how, verbatim, what
from mlalign.models.engine.chat import read_template
from mlalign.models.templates import DATE, date_problems, option_problems
from mlalign.models.training import arguments

# Keys of a TRL configuration that a person sets elsewhere, with where.
RESERVED_TRAINER = {
    "output_dir": "mlalign keeps checkpoints with the step",
    "gradient_accumulation_steps": (
        "follows from batch_size, device_batch_size and the number of devices"
    ),
    "per_device_train_batch_size": "set device_batch_size on the step",
    "per_device_eval_batch_size": "set device_batch_size on the step",
    "seed": "set seed on the step",
    "data_seed": "set seed on the step",
    "full_determinism": "set seed on the step",
    "max_length": "set max_length on the step",
    "deepspeed": "set deepspeed on the step",
    "save_strategy": "set checkpoint_every on the step",
    "save_steps": "set checkpoint_every on the step",
    "save_total_limit": "one complete checkpoint is kept",
    "save_only_model": "a checkpoint holds all that a run needs to go on",
    "resume_from_checkpoint": "a step goes on from its own checkpoint",
    "load_best_model_at_end": "compare models with the stages evaluate and select",
    "eval_strategy": "evaluation is the stage evaluate",
    "eval_steps": "evaluation is the stage evaluate",
    "do_eval": "evaluation is the stage evaluate",
    "push_to_hub": "upload the finished model yourself: it is a plain directory",
    "trust_remote_code": "code from a model's repository is never run",
    "chat_template_path": "set chat_template on the step",
    "eos_token": "the tokenizer's own",
    "pad_token": "the tokenizer's own",
    "accelerator_config": (
        "which rows a device takes follows from batch_size and the number of devices"
    ),
    "auto_find_batch_size": "set device_batch_size on the step",
    "ignore_data_skip": "a continued run goes on with the rows that it had not seen",
    "logging_nan_inf_filter": "a loss that is no number ends the step",
    "average_tokens_across_devices": "tokens count the same on every device",
}
RESERVED_PEFT = {
    "task_type": "follows from the stage",
    "inference_mode": "follows from the stage",
    "base_model_name_or_path": "the model is an input of the step",
}


@dataclasses.dataclass
class TrainConfig:
    """Fields that sft, reward and preference have in common; each adds `trainer` and its own."""

    batch_size: int = what(32, "rows per optimizer step, over all devices")
    device_batch_size: int | None = how(
        None, "rows that a device takes at a time; null: its whole share of batch_size"
    )
    deepspeed: dict | None = how(None, "a DeepSpeed configuration; null: plain PyTorch")
    peft: dict[str, Any] | None = verbatim(
        "peft.tuners.lora.config:LoraConfig",
        "LoRA arguments under peft's own names; null: full weights",
        reserved=RESERVED_PEFT,
        default=None,
    )
    quantization: Literal["nf4", "int8"] | None = what(
        None, "load the frozen base in so many bits (QLoRA); needs peft and a GPU"
    )
    dtype: Literal["float32", "bfloat16", "auto"] = what(
        "float32", "of the weights in training; auto: as the checkpoint is stored"
    )
    chat_template: str | None = what(
        None,
        "a file of Jinja text, the text, or the name of one of the tokenizer's templates; null: the"
        " tokenizer's own",
    )
    chat_template_kwargs: dict[str, Any] = what(
        {}, "passed to the chat template, such as {enable_thinking: false}"
    )
    date: str = what(DATE, "what a chat template that writes the date writes")
    max_length: int = what(1024, "longest sequence, in tokens")
    languages: list[str] | None = what(
        None, "train on rows whose prompt is in one of these; null: all"
    )
    split: Literal["train", "eval"] = what("train", "the split to train on")
    checkpoint_every: int = how(100, "steps between checkpoints; 0: only when asked to stop")
    seed: int = what(0, "of new weights, dropout and the order of the rows")


class Objective(NamedTuple):
    """How a stage trains, as far as it decides memory, time and what small updates do.

    `learning_rate`: that of TRL's configuration, where a person names none. `examples`: how many
    a row is taken apart into. `sequences`: how many an example has, 2 for the sides of a pair.
    `loss`: `fused` where TRL goes through the vocabulary in tiles, `logits` where it holds the
    logits of all tokens, `classifier` where a head gives one number. `reference`: whether the loss
    needs the log-probabilities of a reference.
    """

    learning_rate: float
    examples: int = 1
    sequences: int = 1
    loss: Literal["fused", "logits", "classifier"] = "fused"
    reference: bool = False


# What deserves a warning of every training step.
ALARMS = (
    Share("truncated", "rows", "rows were cut off at max_length", "raise it"),
    Dropped("over_length", "raise max_length"),
    Dropped(
        "equal_sides",
        "both sides become the same tokens: raise max_length, or look at what the chat template"
        " leaves out",
    ),
    Dropped(),
)

# What every training step imports, beside its trainer.
IMPORTS = ("mlalign.models.training.trainset", "mlalign.models.training.loop")


def packages(cfg: Any) -> list[str]:
    """What a training step imports."""
    wanted = {
        "peft": cfg.peft is not None,
        "bitsandbytes": cfg.quantization is not None,
        "deepspeed": cfg.deepspeed is not None,
    }
    own = [
        "torch",
        "transformers",
        "trl",
        "datasets",
        "accelerate",
        *(name for name, needed in wanted.items() if needed),
    ]
    return list(dict.fromkeys([*own, *arguments.packages(cfg.trainer)]))


def identity(cfg: Any, digest: Callable[[Path], str]) -> dict[str, Any]:
    """What a fingerprint needs beyond the configuration: the text of the chat template, not its
    place.

    Raises: UserError with every mistake that the types do not catch.
    """
    if found := problems(cfg):
        raise UserError(*found)
    return {"chat_template": read_template(cfg.chat_template)}


def problems(cfg: Any) -> list[str]:
    """What is wrong with a configuration beyond its types, as messages that begin with the key."""
    positive = {
        "batch_size": cfg.batch_size,
        "max_length": cfg.max_length,
        "device_batch_size": cfg.device_batch_size,
    }
    found = [
        f"{name}: must be at least 1, got {value}"
        for name, value in positive.items()
        if value is not None and value < 1
    ]
    found += [*option_problems(cfg.chat_template_kwargs), *date_problems(cfg.date)]
    if cfg.checkpoint_every < 0:
        found.append(f"checkpoint_every: must be 0 (off) or more, got {cfg.checkpoint_every}")
    if cfg.quantization and cfg.peft is None:
        found.append(
            f"quantization: {cfg.quantization} weights cannot be trained themselves; set peft, such"
            " as {r: 16}, or leave this out"
        )
    if wrong := _of_deepspeed(cfg.deepspeed):
        return [*found, *wrong]
    if cfg.quantization and zero_stage(cfg.deepspeed) == 3:
        found.append(
            "quantization: ZeRO-3 cannot shard quantized weights; take zero2, or leave one of the"
            " two out"
        )
    return found + arguments.problems(cfg.trainer, cfg.peft)


def _of_deepspeed(deepspeed: Mapping | None) -> list[str]:
    """What in a DeepSpeed configuration has the wrong shape, as far as it is read here."""
    zero = (deepspeed or {}).get("zero_optimization")
    if zero is None:
        return []
    if not isinstance(zero, Mapping):
        return [f"deepspeed.zero_optimization: expected a mapping, got {zero!r}"]
    found = []
    if zero.get("stage", 0) not in (0, 1, 2, 3):
        found.append(
            f"deepspeed.zero_optimization.stage: must be 0, 1, 2 or 3, got {zero['stage']!r}"
        )
    for key in ("offload_optimizer", "offload_param"):
        if not isinstance(zero.get(key) or {}, Mapping):
            found.append(
                f"deepspeed.zero_optimization.{key}: expected a mapping such as {{device: cpu}},"
                f" got {zero[key]!r}"
            )
    for key in ("reduce_bucket_size", "stage3_max_live_parameters"):
        if not isinstance(zero.get(key, 0), int | float) and zero[key] != "auto":
            found.append(
                f"deepspeed.zero_optimization.{key}: expected a number or auto, got {zero[key]!r}"
            )
    return found


def zero_stage(deepspeed: Mapping | None) -> int:
    """The ZeRO stage that a DeepSpeed configuration asks for; 0 without one."""
    return int(((deepspeed or {}).get("zero_optimization") or {}).get("stage", 0))


def accumulation(batch_size: int, device_batch_size: int | None, n_devices: int) -> tuple[int, int]:
    """(rows that a device takes at a time, how often it does so per step), so that all together
    make up `batch_size`.

    Raises: UserError with the nearest numbers that work.
    """
    device = device_batch_size or max(batch_size // n_devices, 1)
    steps, rest = divmod(batch_size, device * n_devices)
    if not rest:
        return device, steps
    unit = device * n_devices
    batches = " or ".join(str(b) for b in sorted({max(steps, 1) * unit, (steps + 1) * unit}))
    fitting = (
        _nearest_divisors(batch_size // n_devices, device) if batch_size % n_devices == 0 else []
    )
    mends = [f"batch_size={batches}"] + (
        [f"device_batch_size={' or '.join(map(str, fitting))}"] if fitting else []
    )
    raise UserError(
        f"batch_size: {batch_size} rows cannot be shared out over {n_devices}"
        f" device{'s' if n_devices > 1 else ''} taking {device} rows at a time; set"
        f" {', or '.join(mends)}"
    )


def _nearest_divisors(n: int, near: int) -> list[int]:
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    below, above = [d for d in divisors if d < near], [d for d in divisors if d > near]
    return below[-1:] + above[:1]


def n_devices() -> int:
    """How many ranks this training job has."""
    return int(os.environ.get("WORLD_SIZE", "1"))
