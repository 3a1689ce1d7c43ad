"""Training that diverged: losses, gradients and weights that are no numbers, on any rank, found
before anything of them is kept."""

import math
from typing import Any

import torch

from mlalign.core.errors import UserError


class Diverged(UserError):
    """Training left the numbers: its weights are worth nothing, so neither they nor a checkpoint of
    them may be used."""


def check_step(trainer: Any) -> str | None:
    """What of the step that this rank has just done is no number; None if all is well.

    Under float16 a gradient may overflow: the loss is then scaled down, and the step is left out.
    """
    if trainer.losses and not bool(torch.isfinite(torch.stack(trainer.losses)).all()):
        return "the loss"
    norm = _number(trainer.grad_norm)
    if norm is not None and not math.isfinite(norm) and not trainer.args.fp16:
        return "the gradient"
    return None


def check_weights(network: Any) -> str | None:
    """The name of a trained parameter of which this rank holds a value that is no number; None if
    there is none."""
    for name, parameter in network.named_parameters():
        held = getattr(parameter, "ds_tensor", parameter)  # under ZeRO-3 the rank's own part
        if parameter.requires_grad and not bool(torch.isfinite(held.detach()).all()):
            return f"the weight {name}"
    return None


def message(trainer: Any, what: str) -> str:
    """Step, loss, gradient, learning rate, and what to change."""
    step = trainer.state.global_step
    loss = _loss(trainer)
    norm = _number(trainer.grad_norm)
    numbers = f"loss {_text(loss)}, gradient norm {_text(norm)}, learning rate {trainer.rate:.3g}"
    return (
        f"training diverged: {what} is no finite number at step {step} ({numbers}); nothing of it"
        f" is kept. {_mend(trainer, what)}"
    )


def _mend(trainer: Any, what: str) -> str:
    args = trainer.args
    if trainer.state.global_step <= 1 and what == "the loss":
        half = (
            ", or dtype=float32 and trainer.fp16=false"
            if args.fp16 or trainer.model.dtype == torch.float16
            else ""
        )
        return (
            "No weight had been changed yet: look at the model's own weights, at beta and at other"
            f" arguments of the loss{half}"
        )
    clipped = "" if args.max_grad_norm else ", or clip gradients with trainer.max_grad_norm=1.0"
    return (
        f"Lower trainer.learning_rate (now {args.learning_rate:g}), or warm it up with"
        f" trainer.warmup_steps{clipped}"
    )


def _loss(trainer: Any) -> float | None:
    return float(torch.stack(trainer.losses).sum()) if trainer.losses else None


def _number(value: Any) -> float | None:
    """A gradient norm as a number; DeepSpeed gives none before its first step."""
    return None if value is None else float(value)


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
