"""From a training step's configuration to a `Job`: what TRL, transformers and mlalign make of
it."""

from typing import Any, Literal

from mlalign.models.training.config import Objective, accumulation, zero_stage
from mlalign.planner.activations import Batch, Trained
from mlalign.planner.architecture import Architecture
from mlalign.planner.training import Job, zero_of

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def training_job(
    objective: Objective,
    cfg: Any,
    a: Architecture,
    *,
    devices: int,
    on_cpu: bool,
    reference: bool,
    length: int | None = None,
    other_bytes: int = 0,
) -> Job:
    """The job of a training step.

    `reference`: the step's reference is another model than its policy. `length`: the longest
    sequence, if it is known to be below `max_length`. Raises: UserError where the devices cannot
    share the batch.
    """
    trainer = cfg.trainer
    rows, n_accumulated = accumulation(cfg.batch_size, cfg.device_batch_size, devices)
    sequences = rows * objective.sequences
    length = min(cfg.max_length, length or cfg.max_length)
    bf16_by_default = not on_cpu and not trainer.get("fp16", False)
    return Job(
        architecture=a,
        batch=Batch(sequences, length, masked=sequences > 1),
        loss=objective.loss,
        weight_bytes=_weight_bytes(cfg, a),
        autocast=bool(trainer.get("bf16", bf16_by_default)),
        trained=_trained(cfg, a),
        freeze_embeddings=getattr(cfg, "freeze_embeddings", False),
        optimizer=trainer.get("optim", "adamw_torch_fused"),
        zero=zero_of(cfg.deepspeed),
        n_devices=devices,
        checkpointing=bool(trainer.get("gradient_checkpointing", not on_cpu)),
        accumulates=n_accumulated > 1,
        on_cpu=on_cpu,
        reference=_reference(cfg, reference) if objective.reference else "none",
        quantization=cfg.quantization,
        other_bytes=other_bytes,
    )


def _weight_bytes(cfg: Any, a: Architecture) -> int:
    return BYTES.get(a.dtype, 4) if cfg.dtype == "auto" else BYTES[cfg.dtype]


def _trained(cfg: Any, a: Architecture) -> Trained:
    if cfg.peft is None:
        return Trained()
    # peft keeps adapters in float32, but under ZeRO-3 in the base's dtype. On a quantised base TRL
    # makes them bfloat16.
    if cfg.quantization is not None:
        lora_bytes = 2
    elif zero_stage(cfg.deepspeed) == 3:
        lora_bytes = _weight_bytes(cfg, a)
    else:
        lora_bytes = 4
    return Trained(int(cfg.peft.get("r", 8)), targets(cfg.peft, a), lora_bytes)


def targets(peft: Any, a: Architecture) -> frozenset[str]:
    """The linear layers that LoRA adapts; peft's default for these families is queries and
    values."""
    modules = peft.get("target_modules")
    if modules is None:
        modules = ["q_proj", "v_proj"]
    if modules == "all-linear":
        return frozenset(a.adaptable())
    if isinstance(modules, str):
        modules = [modules]
    names = {module.rpartition(".")[2] for module in modules}
    return frozenset(names & a.adaptable().keys())


def _reference(cfg: Any, differs: bool) -> Literal["none", "before", "during"]:
    """When a reference is in memory beside the policy.

    Its log-probabilities are computed once before training, unless the configuration says
    otherwise.
    """
    follows_policy = cfg.trainer.get("sync_ref_model", False)
    if cfg.trainer.get("precompute_ref_log_probs", not follows_policy):
        return "before" if differs else "none"
    return "during" if differs or cfg.peft is None else "none"
