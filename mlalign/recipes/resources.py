"""What a step may ask for: names, types and meanings of resources, and which configuration key set
one.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mlalign.core.errors import nearest

TIME = re.compile(r"\d+-\d+(:\d+){0,2}|\d+:\d+:\d+|\d+ ?(min|h)")
MEMORY = re.compile(r"\d+[KMGT]")


def _whole(least: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return None if whole else f"expected a whole number from {least}, got {value!r}"

    return check


def _text(value: Any) -> str | None:
    fits = isinstance(value, str) and value.strip() and value.isprintable()
    return None if fits else f"expected text on one line, got {value!r}"


def _time(value: Any) -> str | None:
    if isinstance(value, str) and TIME.fullmatch(value):
        return None
    hint = "; YAML reads a bare 12:00:00 as a number: quote it" if isinstance(value, int) else ""
    return (
        "expected hours:minutes:seconds in quotes ('12:00:00', '2-00:00:00', '90 min'), got"
        f" {value!r}{hint}"
    )


def _memory(value: Any) -> str | None:
    return (
        None
        if isinstance(value, str) and MEMORY.fullmatch(value)
        else f"expected a size such as 64G, got {value!r}"
    )


def _options(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return (
            "expected a mapping of sbatch's long options, such as {mail-type: END}, got"
            f" {value!r}"
        )
    wrong = [
        k
        for k, v in value.items()
        if not re.fullmatch(r"[a-z][a-z-]*", str(k)) or not str(v).isprintable()
    ]
    return f"{wrong[0]!r} is no long option of sbatch on one line" if wrong else None


# Names and checks. None of them is part of a fingerprint.
RESOURCES: dict[str, Callable[[Any], str | None]] = {
    "devices": _whole(1),  # ranks of a training step on each node: one a GPU
    "threads": _whole(1),  # CPU threads of each process
    "nodes": _whole(1),  # of a training step
    "tasks": _whole(1),  # array tasks that share the shards of a generating or scoring step
    # on each node; a training step that asks for any gets one for each of its devices
    "gpus": _whole(0),
    "cpus": _whole(1),  # on each node
    "memory": _memory,  # on each node
    "time": _time,
    "partition": _text,
    "account": _text,
    "qos": _text,
    "constraint": _text,
    "exclude": _text,
    "reservation": _text,
    "sbatch": _options,  # any further options, verbatim under sbatch's own long names
}
# Those that a launcher's file may give for all steps.
OF_LAUNCHER = (
    "cpus",
    "memory",
    "time",
    "partition",
    "account",
    "qos",
    "constraint",
    "exclude",
    "reservation",
    "sbatch",
)


def problems(given: Mapping[str, Any], key: str, *, distributed: bool, sharded: bool) -> list[str]:
    """What is wrong with the resources of a step, as messages that begin with the key
    (`steps.policy.resources`).
    """
    found = []
    for name, value in given.items():
        if name not in RESOURCES:
            found.append(f"{key}.{name}: unknown key{nearest(name, RESOURCES)}")
        elif value is not None and (wrong := RESOURCES[name](value)):
            found.append(f"{key}.{name}: {wrong}")
        elif name in ("devices", "nodes") and value != 1 and not distributed:
            found.append(f"{key}.{name}: this stage runs as one process, got {value}")
        elif name == "tasks" and value != 1 and not sharded:
            found.append(f"{key}.{name}: this stage does not work in shards, got {value}")
    return found


def layers(root: Mapping[str, Any], stage: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(key, resources) from the weakest: a launcher's for all steps, a scale's and a launcher's for
    a stage.
    """
    launcher, scale = root["launcher"], root.get("scale") or {}
    return [
        (
            "launcher",
            {name: launcher[name] for name in OF_LAUNCHER if launcher.get(name) is not None},
        ),
        (f"scale.resources.{stage}", (scale.get("resources") or {}).get(stage) or {}),
        (f"launcher.resources.{stage}", (launcher.get("resources") or {}).get(stage) or {}),
    ]


def set_by(
    name: str, root: Mapping[str, Any], stage: str, step: str, own: Mapping[str, Any]
) -> str | None:
    """The configuration key that set a resource of a step; None if nothing did.

    `own` is what the step itself asks for.
    """
    given = [*layers(root, stage), (f"steps.{step}.resources", own)]
    found = [key for key, values in given if values.get(name) is not None]
    return f"{found[-1]}.{name}" if found else None
