"""Messages about several steps, made fit to read."""

import re
from collections.abc import Iterable

# What steps take from the top level -> the key that a person sets there.
SHARED = {
    "seed": "seed",
    "deepspeed": "deepspeed",
    "devices": "devices",
    "engine": "engine",
    "chat_template": "model.chat_template",
    "date": "model.date",
}
OF_STEP = re.compile(r"steps\.(.+?)\.(config|resources)\.(.*)", re.DOTALL)


def without_repetitions(errors: Iterable[str]) -> list[str]:
    """The messages, with one in the place of those that several steps have in common."""
    steps_by_message: dict[str, list[str]] = {}  # a message without its step -> the steps
    for error in dict.fromkeys(errors):
        match = OF_STEP.fullmatch(error)
        if match is None:
            steps_by_message.setdefault(error, [])
            continue
        step, section, rest = match.groups()
        steps_by_message.setdefault(f"{section}.{rest}", []).append(step)
    return [_of_steps(message, steps) for message, steps in steps_by_message.items()]


def _of_steps(message: str, steps: list[str]) -> str:
    """The message about some steps, under the key that set the value for all of them."""
    if not steps:
        return message
    section, _, rest = message.partition(".")
    head = re.split(r"[.:]", rest)[0]
    if len(steps) > 1 and head in SHARED:
        return f"{SHARED[head]}{rest.removeprefix(head)}"
    return f"steps.{','.join(steps)}.{section}.{rest}"
