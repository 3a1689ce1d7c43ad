"""Finds losses, gradients and weights that are not finite, before anything of them is kept."""

import math
from typing import Any

import torch

from mlalign.core.errors import UserError


class Diverged(UserError):
    """Training diverged: neither its weights nor a checkpoint of them may be used."""


def check_step(trainer: Any) -> str | None:
    """What of this rank's last step is not finite; None if all is well.

    In float16 a gradient may overflow: the loss is then scaled down, and the step is skipped.
    """
    if trainer.losses and not bool(torch.isfinite(torch.stack(trainer.losses)).all()):
        return "the loss"
    norm = _number(trainer.grad_norm)
    if norm is not None and not math.isfinite(norm) and not trainer.args.fp16:
        return "the gradient"
    return None


def check_weights(network: Any) -> str | None:
    """A trained parameter of which this rank holds a value that is not finite; None without one."""
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
        mend = (
            "No weight had been changed yet: look at the model's own weights, at beta and at other"
            " arguments of the loss"
        )
        if args.fp16 or trainer.model.dtype == torch.float16:
            mend += ", or dtype=float32 and trainer.fp16=false"
        return mend
    mend = (
        f"Lower trainer.learning_rate (now {args.learning_rate:g}), or warm it up with"
        " trainer.warmup_steps"
    )
    if not args.max_grad_norm:
        mend += ", or clip gradients with trainer.max_grad_norm=1.0"
    return mend


def _loss(trainer: Any) -> float | None:
    return float(torch.stack(trainer.losses).sum()) if trainer.losses else None


def _number(value: Any) -> float | None:
    """A gradient norm as a number; DeepSpeed gives none before its first step."""
    return None if value is None else float(value)


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
