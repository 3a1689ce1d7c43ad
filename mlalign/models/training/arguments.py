"""What of a person's trainer and LoRA arguments is wrong, as far as it is known without the
libraries.

Light: imports nothing of torch.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from mlalign.core import adapters

# Options of a trainer -> what of their value asks for which package.
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
    found = []
    optimizer = str(trainer.get("optim", ""))
    if optimizer in TORCHAO:
        found.append("torchao")
    else:
        found += [
            package for pattern, package in OPTIMIZERS.items() if re.fullmatch(pattern, optimizer)
        ]

    trackers = trainer.get("report_to") or []
    named = [trackers] if isinstance(trackers, str) else trackers
    found += [
        TRACKERS[name]
        for name in named
        if name in TRACKERS and not (name == "tensorboard" and find_spec("tensorboardX"))
    ]

    if trainer.get("use_liger_kernel"):
        found.append("liger_kernel")
    attention = str((trainer.get("model_init_kwargs") or {}).get("attn_implementation", ""))
    if attention in ATTENTION:
        found.append(ATTENTION[attention])
    if "/" in attention:  # a kernel from the hub
        found.append("kernels")
    return found


def problems(trainer: Mapping[str, Any], peft: Mapping[str, Any] | None) -> list[str]:
    """Values that the libraries would refuse, or take and spoil the training with, as messages that
    begin with the key."""
    return [*_of_ranges(trainer), *_of_trainer(trainer), *_of_peft(peft or {})]


def _of_ranges(trainer: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in trainer.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if name in POSITIVE and value <= 0:
            found.append(f"trainer.{name}: must be above 0, got {value}")
        elif name in NOT_NEGATIVE and value < 0:
            found.append(f"trainer.{name}: must be 0 or more, got {value}")
        elif name in FRACTIONS and not 0 <= value < 1:
            found.append(f"trainer.{name}: must be from 0 to below 1, got {value}")
        elif name == "label_smoothing" and not 0 <= value < 0.5:
            found.append(f"trainer.label_smoothing: must be from 0 to below 0.5, got {value}")
        elif name == "max_steps" and value == 0:
            found.append(
                "trainer.max_steps: 0 steps train nothing; give 1 or more, or -1 to go by"
                " num_train_epochs"
            )
    return found


def _of_trainer(trainer: Mapping[str, Any]) -> list[str]:
    found = []
    trackers = trainer.get("report_to")
    unknown = [
        t
        for t in ([trackers] if isinstance(trackers, str) else trackers or [])
        if t not in (*TRACKERS, "none", "all")
    ]
    found += [
        f"trainer.report_to: {name!r} is no tracker; one of {', '.join(TRACKERS)}, or none"
        for name in unknown
    ]
    if trainer.get("bf16") and trainer.get("fp16"):
        found.append("trainer.fp16: bf16 is on too; choose one of the two")
    if trainer.get("train_sampling_strategy") == "batch_rebalance":
        found.append(
            "trainer.train_sampling_strategy: batch_rebalance fills the last step with rows of the"
            " epoch's beginning; leave it out"
        )
    return found


def _of_peft(peft: Mapping[str, Any]) -> list[str]:
    found = []
    rank = peft.get("r", 8)
    if isinstance(rank, int) and rank < 1:
        found.append(f"peft.r: must be at least 1, got {rank}")
    dropout = peft.get("lora_dropout", 0.0)
    if isinstance(dropout, int | float) and not 0 <= dropout < 1:
        found.append(f"peft.lora_dropout: must be from 0 to below 1, got {dropout}")
    if isinstance(peft.get("target_modules"), str):
        for key in ("layers_to_transform", "layers_pattern"):
            if peft.get(key) is not None:
                found.append(
                    f"peft.{key}: needs target_modules as a list, such as [q_proj, v_proj], not"
                    f" {peft['target_modules']!r}"
                )
    why = adapters.not_of_its_base(peft)
    return found + ([f"peft.{why}"] if why else [])
