"""The resources that a step may ask for, and which configuration key set one of them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mlalign.core.errors import nearest

TIME = re.compile(r"\d+-\d+(:\d+){0,2}|\d+:\d+:\d+|\d+ ?(min|h)")
EXAMPLES_OF_TIME = "('12:00:00', '2-00:00:00', '90 min')"
MEMORY = re.compile(r"\d+[KMGT]")
OPTION = re.compile(r"[a-z][a-z-]*")  # a long option of sbatch
Check = Callable[[Any], str | None]  # what is wrong with a value, None if nothing is


def _whole(least: int) -> Check:
    def check(value: Any) -> str | None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if is_whole and value >= least:
            return None
        return f"expected a whole number from {least}, got {value!r}"

    return check


def _text(value: Any) -> str | None:
    fits = isinstance(value, str) and value.strip() and value.isprintable()
    return None if fits else f"expected text on one line, got {value!r}"


def _time(value: Any) -> str | None:
    if isinstance(value, str) and TIME.fullmatch(value):
        return None
    wrong = f"expected hours:minutes:seconds in quotes {EXAMPLES_OF_TIME}, got {value!r}"
    if isinstance(value, int):
        wrong += "; YAML reads a bare 12:00:00 as a number: quote it"
    return wrong


def _memory(value: Any) -> str | None:
    if isinstance(value, str) and MEMORY.fullmatch(value):
        return None
    return f"expected a size such as 64G, got {value!r}"


def _options(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        sample = "a mapping of sbatch's long options, such as {mail-type: END}"
        return f"expected {sample}, got {value!r}"
    for name, text in value.items():
        if not OPTION.fullmatch(str(name)) or not str(text).isprintable():
            return f"{name!r} is not a long option of sbatch with a value on one line"
    return None


# Names and checks. None of them is part of a fingerprint.
RESOURCES: dict[str, Check] = {
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


def problems(wanted: Mapping[str, Any], key: str, *, distributed: bool, sharded: bool) -> list[str]:
    """What is wrong with the resources of a step; messages begin with `key`."""
    messages = []
    for name, value in wanted.items():
        wrong = _problem(name, value, distributed=distributed, sharded=sharded)
        if wrong is not None:
            messages.append(f"{key}.{name}: {wrong}")
    return messages


def _problem(name: str, value: Any, *, distributed: bool, sharded: bool) -> str | None:
    if name not in RESOURCES:
        return f"unknown key{nearest(name, RESOURCES)}"
    wrong = None if value is None else RESOURCES[name](value)
    if wrong is not None:
        return wrong
    if name in ("devices", "nodes") and value != 1 and not distributed:
        return f"this stage runs as one process, got {value}"
    if name == "tasks" and value != 1 and not sharded:
        return f"this stage does not work in shards, got {value}"
    return None


def layers(root: Mapping[str, Any], stage: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(key, resources) from the weakest.

    These are the launcher's for all steps, then the scale's and the launcher's for a stage.
    """
    launcher = root["launcher"]
    for_all = {name: launcher[name] for name in OF_LAUNCHER if launcher.get(name) is not None}
    of_scale = (root.get("scale") or {}).get("resources") or {}
    of_launcher = launcher.get("resources") or {}
    return [
        ("launcher", for_all),
        (f"scale.resources.{stage}", of_scale.get(stage) or {}),
        (f"launcher.resources.{stage}", of_launcher.get(stage) or {}),
    ]


def set_by(
    name: str, root: Mapping[str, Any], stage: str, step: str, own: Mapping[str, Any]
) -> str | None:
    """The configuration key that set a resource of a step; None if nothing did.

    `own` is what the step itself asks for.
    """
    strongest = None
    for key, values in [*layers(root, stage), (f"steps.{step}.resources", own)]:
        if values.get(name) is not None:
            strongest = f"{key}.{name}"
    return strongest
