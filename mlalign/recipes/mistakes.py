"""Messages about several steps made fit to read."""

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


def told_once(errors: Iterable[str]) -> list[str]:
    """The messages without repetitions: what several steps say of a value that they share becomes
    one message.
    """
    steps: dict[str, list[str]] = {}  # a message without its step -> the steps that say it
    for error in dict.fromkeys(errors):
        found = OF_STEP.fullmatch(error)
        steps.setdefault(f"{found[2]}.{found[3]}" if found else error, []).append(
            found[1] if found else ""
        )
    return [_of_steps(message, names) for message, names in steps.items()]


def _of_steps(message: str, names: list[str]) -> str:
    if names == [""]:
        return message
    section, _, rest = message.partition(".")
    head = re.split(r"[.:]", rest)[0]
    if len(names) > 1 and head in SHARED:
        return f"{SHARED[head]}{rest.removeprefix(head)}"
    return f"steps.{','.join(names)}.{section}.{rest}"
