"""From a training step's configuration to what its memory is counted from: what TRL, transformers and mlalign make of it."""

from typing import Any

from mlalign.models.training.config import accumulation, zero_stage
from mlalign.planner.activations import Batch, Trained
from mlalign.planner.architecture import Architecture
from mlalign.planner.training import Job, zero_of

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PAIRS = ("reward", "preference")
UNPAIRED = ("kto", "apo_zero_unpaired")
FULL_LOGITS = ("orpo", "cpo", "simpo")


def training_job(
    stage: str, cfg: Any, a: Architecture, *, devices: int, on_cpu: bool, reference: bool, length: int | None = None, other_bytes: int = 0
) -> Job:
    """The job of an sft, reward or preference step.

    `reference`: the step names another model than the policy as reference. `length`: the longest sequence, where it is known to be
    below `max_length`. Raises: UserError where the batch cannot be shared out over the devices.
    """
    rows, steps = accumulation(cfg.batch_size, cfg.device_batch_size, devices)
    loss = getattr(cfg, "loss", "")
    sequences = rows * (2 if stage in PAIRS and loss not in UNPAIRED else 1)
    autocast = bool(cfg.trainer.get("bf16", not on_cpu and not cfg.trainer.get("fp16", False)))
    return Job(
        architecture=a, batch=Batch(sequences, min(cfg.max_length, length or cfg.max_length), masked=sequences > 1),
        loss="classifier" if stage == "reward" else "logits" if loss in FULL_LOGITS else "fused",
        weight_bytes=BYTES.get(a.dtype, 4) if cfg.dtype == "auto" else BYTES[cfg.dtype], autocast=autocast, trained=_trained(cfg, a),
        freeze_embeddings=getattr(cfg, "freeze_embeddings", False), optimizer=cfg.trainer.get("optim", "adamw_torch_fused"),
        zero=zero_of(cfg.deepspeed), n_devices=devices, checkpointing=bool(cfg.trainer.get("gradient_checkpointing", not on_cpu)),
        accumulates=steps > 1, on_cpu=on_cpu, reference=_reference(stage, cfg, reference), quantization=cfg.quantization,
        other_bytes=other_bytes,
    )  # fmt: skip


def _trained(cfg: Any, a: Architecture) -> Trained:
    """peft keeps adapters in float32, but in the base's dtype under ZeRO-3, and TRL makes those on a quantised base bfloat16."""
    if cfg.peft is None:
        return Trained()
    base = BYTES.get(a.dtype, 4) if cfg.dtype == "auto" else BYTES[cfg.dtype]
    small = cfg.quantization is not None or zero_stage(cfg.deepspeed) == 3
    return Trained(int(cfg.peft.get("r", 8)), targets(cfg.peft, a), (2 if cfg.quantization else base) if small else 4)


def targets(peft: Any, a: Architecture) -> frozenset[str]:
    """The linear layers that LoRA adapts; peft's default for these families is queries and values."""
    wanted = peft.get("target_modules")
    if wanted == "all-linear":
        return frozenset(a.adaptable())
    names = ["q_proj", "v_proj"] if wanted is None else [wanted] if isinstance(wanted, str) else wanted
    return frozenset(n for n in a.adaptable() if any(n == w.rpartition(".")[2] for w in names))


def _reference(stage: str, cfg: Any, other: bool) -> Any:
    """When a reference is in memory: log-probabilities are computed once before training, unless the configuration says otherwise."""
    if stage != "preference" or cfg.loss in FULL_LOGITS:
        return "none"
    once = cfg.trainer.get("precompute_ref_log_probs", not cfg.trainer.get("sync_ref_model", False))
    if once:
        return "before" if other else "none"
    return "during" if other or cfg.peft is None else "none"
