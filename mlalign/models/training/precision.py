"""Whether small updates reach the weights: bfloat16 holds 8 significant bits, and an update below
half a step of them is lost.

Adam moves a weight by about the learning rate. A weight of 0.02 (the usual scale) is held in steps
of 1.2e-4, so that at 5e-7 almost nothing moves. Who keeps a float32 copy of what is trained:

    dtype=float32               the weights themselves; trainer.bf16 concerns the arithmetic only
    bfloat16 LoRA               adapters are float32 on any base but a quantised one
    DeepSpeed, ZeRO 1 to 3      a float32 copy in the optimizer, whatever the weights are
    DeepSpeed without ZeRO      the same where trainer.bf16 is on
"""

from typing import Any

from mlalign.models.training.config import zero_stage

# At this learning rate and below, most updates of bfloat16 weights are lost.
SMALL = 1e-4


def lost_updates(cfg: Any, learning_rate: float, stored: str, bf16: bool) -> str | None:
    """A warning if training would change next to nothing; None otherwise. `stored`: the dtype of
    the weights, where cfg says auto."""
    dtype = stored if cfg.dtype == "auto" else cfg.dtype
    copied = cfg.deepspeed is not None and (zero_stage(cfg.deepspeed) > 0 or bf16)
    if not 0 < learning_rate <= SMALL or copied:
        return None
    if cfg.peft is not None and cfg.quantization is not None:
        return (
            "adapters on a quantized base are trained in bfloat16, in which most updates are lost"
            f" at learning_rate={learning_rate:g}; raise trainer.learning_rate (2e-4 is usual for"
            " QLoRA), or leave out quantization"
        )
    if cfg.peft is None and dtype == "bfloat16":
        return (
            "bfloat16 weights are trained without a float32 copy, so that most updates are lost at"
            f" learning_rate={learning_rate:g}; set dtype=float32 (trainer.bf16=true keeps the"
            " arithmetic in bfloat16), or deepspeed=zero2, which keeps a float32 copy"
        )
    return None


def at_plan(cfg: Any, default_rate: float, stored: str, on_cpu: bool) -> str | None:
    """The same before training, from the configuration alone.

    `default_rate`: the learning rate where the configuration names none.
    """
    bf16_by_default = not on_cpu and not cfg.trainer.get("fp16", False)
    bf16 = bool(cfg.trainer.get("bf16", bf16_by_default))
    learning_rate = cfg.trainer.get("learning_rate", default_rate)
    return lost_updates(cfg, learning_rate, stored, bf16)
