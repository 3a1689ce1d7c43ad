"""Losses of preference training: log-probabilities in, one loss per pair out; a file for each.

    def arpo(policy_chosen_logps: "Tensor", policy_rejected_logps: "Tensor",
             chosen_lengths: "Tensor", rejected_lengths: "Tensor",
             *, beta: float, nll: float = 1.0) -> "Tensor"

A loss takes what its positional parameters name, in any order. B is the number of pairs:

    policy_chosen_logps         B: the log-probability (nats) of the chosen answer given the
    policy_rejected_logps       prompt, summed over its tokens, and of the rejected; with gradient
    reference_chosen_logps      B: the same under the reference
    reference_rejected_logps
    chosen_lengths              B: how many tokens are summed over
    rejected_lengths
    any other name              that column of the preference row: B numbers (`margin`), or a list
                                of B texts (`prompt_lang`)

It returns B losses, whose mean is trained on. A loss that names no `reference_…` is trained without
a reference. Parameters after `*` are its options (`loss_args`), but for `beta` and
`label_smoothing`, which are the step's `beta` and `trainer.label_smoothing`.

`plan` imports the file: keep `import torch` inside the function. How losses are found, checked
and hashed: `mlalign.methods`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from mlalign import methods
from mlalign.core import rows
from mlalign.core.errors import UserError, nearest

REFERENCE = ("reference_chosen_logps", "reference_rejected_logps")
GIVEN = (
    "policy_chosen_logps",
    "policy_rejected_logps",
    *REFERENCE,
    "chosen_lengths",
    "rejected_lengths",
)
FILLED = ("beta", "label_smoothing")
OF_ROWS = ("string", "double")  # columns of these kinds can be read


def names() -> list[str]:
    """The losses that come with mlalign."""
    return methods.names(__name__)


def is_name(name: str) -> bool:
    """Whether this names one of these losses, rather than one of TRL's."""
    return ":" in name or name in names()


def load(name: str) -> methods.Method:
    """The loss called `name`, as `mlalign.methods.load` finds it. Raises: UserError."""
    return methods.load(__name__, name, "loss")


def columns(loss: methods.Method) -> list[str]:
    """The columns of preference rows that a loss reads."""
    return [name for name in methods.inputs(loss) if name not in GIVEN]


def has_reference(loss: methods.Method) -> bool:
    return any(name in REFERENCE for name in methods.inputs(loss))


def options(loss: methods.Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """A loss's own options with their defaults. Raises: UserError for each that is wrong."""
    return methods.options(loss, given, "loss_args", FILLED)


def apply(name: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """The losses of B pairs. `given` has what a loss can take, `settings` its options.

    Raises: UserError if the loss fails, or returns anything but B numbers.
    """
    loss = load(name)
    arguments = [given[parameter] for parameter in methods.inputs(loss)]
    with methods.failures(loss, f"loss {name}"):
        losses = loss(*arguments, **settings)
    logps = given["policy_chosen_logps"]
    shape = getattr(losses, "shape", None)
    if shape != logps.shape:
        returned = type(losses).__name__ if shape is None else f"shape {tuple(shape)}"
        raise UserError(
            f"loss {name}: returned {returned}; it has to return shape {tuple(logps.shape)}, one"
            " loss for each pair (the trainer takes the mean)"
        )
    if logps.requires_grad and not losses.requires_grad:
        raise UserError(
            f"loss {name}: the losses have no gradient; compute them from policy_chosen_logps or"
            " policy_rejected_logps, without `detach` or `no_grad`"
        )
    return losses


def problems(name: str, args: Mapping[str, Any]) -> list[str]:
    """What is wrong with the use of a loss, as messages that begin with the key."""
    try:
        loss = load(name)
        options(loss, args)
    except UserError as error:
        return error.messages
    readable = _readable()
    messages = []
    parameters = inspect.signature(loss).parameters
    for column in columns(loss):
        has_default = parameters[column].default is not inspect.Parameter.empty
        if column in FILLED or has_default:
            messages.append(f"loss: {name} has the option {column!r} before `*`; move it after `*`")
        elif column not in readable:
            hint = nearest(column, [*GIVEN, *readable])
            messages.append(f"loss: {name} reads {column!r}, which no preference row has{hint}")
    return messages


def _readable() -> list[str]:
    """The columns of preference rows that a loss may read."""
    own = [name for name, kind in rows.COLUMNS["preference"].items() if kind in OF_ROWS]
    return [*rows.COMMON, *own]
