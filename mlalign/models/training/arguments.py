"""Checks a person's trainer and LoRA arguments as far as possible without the libraries.

Light: imports nothing of torch.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from mlalign.core import adapters

# Pattern of a trainer's `optim` -> the package that it needs.
OPTIMIZERS = {
    r".*(8bit|bnb).*|paged_.*|lion_32bit|ademamix": "bitsandbytes",
    r"galore_.*": "galore_torch",
    r"apollo_.*": "apollo_torch",
    r"(ada)?lomo": "lomo_optim",
    r"grokadamw": "grokadamw",
    r"schedule_free_.*": "schedulefree",
    r"stable_adamw": "optimi",
    r"adamw_anyprecision": "torchdistx",
    r"adamw_torch_npu_fused": "torch_npu",
    r"adamw_torch_xla": "torch_xla",
}
TORCHAO = ("adamw_torch_4bit", "adamw_torch_8bit")
TRACKERS = {
    "azure_ml": "azureml",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet_ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "kubeflow": "kubeflow",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
ATTENTION = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
POSITIVE = ("num_train_epochs", "adam_epsilon")
NOT_NEGATIVE = (
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "warmup_steps",
    "dataloader_num_workers",
)
FRACTIONS = ("adam_beta1", "adam_beta2", "label_smoothing_factor")


def packages(trainer: Mapping[str, Any]) -> list[str]:
    """Packages that options of the trainer need, by the names under which they are imported."""
    needed = _optimizer_packages(str(trainer.get("optim", "")))
    for name in _trackers(trainer):
        if name == "tensorboard" and find_spec("tensorboardX"):
            continue
        if name in TRACKERS:
            needed.append(TRACKERS[name])
    if trainer.get("use_liger_kernel"):
        needed.append("liger_kernel")
    model_options = trainer.get("model_init_kwargs") or {}
    attention = str(model_options.get("attn_implementation", ""))
    if attention in ATTENTION:
        needed.append(ATTENTION[attention])
    if "/" in attention:  # a kernel from the hub
        needed.append("kernels")
    return needed


def _optimizer_packages(optimizer: str) -> list[str]:
    if optimizer in TORCHAO:
        return ["torchao"]
    return [package for pattern, package in OPTIMIZERS.items() if re.fullmatch(pattern, optimizer)]


def _trackers(trainer: Mapping[str, Any]) -> list[str]:
    trackers = trainer.get("report_to") or []
    return [trackers] if isinstance(trackers, str) else trackers


def problems(trainer: Mapping[str, Any], peft: Mapping[str, Any] | None) -> list[str]:
    """Values that libraries would refuse, or that would spoil the training, each with its key."""
    return [*_range_problems(trainer), *_trainer_problems(trainer), *_peft_problems(peft or {})]


def _range_problems(trainer: Mapping[str, Any]) -> list[str]:
    errors = []
    for name, value in trainer.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if name in POSITIVE and value <= 0:
            errors.append(f"trainer.{name}: must be above 0, got {value}")
        elif name in NOT_NEGATIVE and value < 0:
            errors.append(f"trainer.{name}: must be 0 or more, got {value}")
        elif name in FRACTIONS and not 0 <= value < 1:
            errors.append(f"trainer.{name}: must be from 0 to below 1, got {value}")
        elif name == "label_smoothing" and not 0 <= value < 0.5:
            errors.append(f"trainer.label_smoothing: must be from 0 to below 0.5, got {value}")
        elif name == "max_steps" and value == 0:
            errors.append(
                "trainer.max_steps: 0 steps train nothing; give 1 or more, or -1 to go by"
                " num_train_epochs"
            )
    return errors


def _trainer_problems(trainer: Mapping[str, Any]) -> list[str]:
    errors = []
    known = ", ".join(TRACKERS)
    for name in _trackers(trainer):
        if name not in (*TRACKERS, "none", "all"):
            errors.append(f"trainer.report_to: {name!r} is no tracker; one of {known}, or none")
    if trainer.get("bf16") and trainer.get("fp16"):
        errors.append("trainer.fp16: bf16 is on too; choose one of the two")
    if trainer.get("train_sampling_strategy") == "batch_rebalance":
        errors.append(
            "trainer.train_sampling_strategy: batch_rebalance fills the last step with rows of the"
            " epoch's beginning; leave it out"
        )
    return errors


def _peft_problems(peft: Mapping[str, Any]) -> list[str]:
    errors = []
    rank = peft.get("r", 8)
    if isinstance(rank, int) and rank < 1:
        errors.append(f"peft.r: must be at least 1, got {rank}")
    dropout = peft.get("lora_dropout", 0.0)
    if isinstance(dropout, int | float) and not 0 <= dropout < 1:
        errors.append(f"peft.lora_dropout: must be from 0 to below 1, got {dropout}")

    modules = peft.get("target_modules")
    for key in ("layers_to_transform", "layers_pattern"):
        if isinstance(modules, str) and peft.get(key) is not None:
            errors.append(
                f"peft.{key}: needs target_modules as a list, such as [q_proj, v_proj], not"
                f" {modules!r}"
            )
    reason = adapters.not_of_its_base(peft)
    if reason:
        errors.append(f"peft.{reason}")
    return errors
