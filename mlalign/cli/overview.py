"""A plan on one screen: steps as a tree by part, with their state, and memory and time where known.

Steps that differ by round, by `foreach` or by variant share a line.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlalign.core.terminal import table
from mlalign.planner.estimate import Estimate
from mlalign.planner.work import size_told, told

HEADER = ("step", "stage", "steps", "state", "memory", "time")
FINISHED = ("done", "skipped")
GREEN, PLAIN = "\033[32m", "\033[0m"


def tree(nodes: Sequence[Any], states: Mapping[str, str], estimates: Iterable[Estimate]) -> str:
    """The table of a plan's nodes. `states` and `estimates` are by the names of nodes."""
    by_template: dict[str, list[Any]] = {}
    for node in nodes:
        by_template.setdefault(node.step.template, []).append(node)
    known = {estimate.step: estimate for estimate in estimates}
    rows = [_row(name, by_template.get(name, []), states, known) for name in _in_tree_order(by_template)]
    return table(rows, HEADER)


def _in_tree_order(templates: Iterable[str]) -> list[str]:
    """Every step after the part that it belongs to, parts in the order in which they begin."""
    templates = list(templates)
    order: list[str] = []
    for template in templates:
        words = template.split(".")
        # A part that gives no step of its own gets a line all the same.
        for depth in range(1, len(words) + 1):
            name = ".".join(words[:depth])
            if name in order:
                continue
            inside = [i for i, other in enumerate(order) if depth > 1 and _is_in(other, ".".join(words[: depth - 1]))]
            order.insert(inside[-1] + 1 if inside else len(order), name)
    return order


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _row(name: str, nodes: Sequence[Any], states: Mapping[str, str], known: Mapping[str, Estimate]) -> list[Any]:
    depth = name.count(".")
    label = "  " * depth + name.rpartition(".")[2]
    if not nodes:
        return [label, "", "", "", "", ""]
    counts = Counter(states[node.name] for node in nodes)
    here = [known[node.name] for node in nodes if node.name in known]
    memory = max((e.memory for e in here if e.memory is not None), default=None)
    seconds = [e.seconds for e in here if e.seconds is not None]
    return [
        label,
        nodes[0].step.stage,
        len(nodes),
        _summary(counts),
        "" if memory is None else size_told(memory),
        told(sum(seconds)) if seconds else "",
    ]


def _summary(counts: Counter[str]) -> str:
    """`todo`, or `3 done, 8 todo`."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{n} {state}" for state, n in counts.items())


def totals(states: Mapping[str, str], estimates: Sequence[Estimate]) -> str:
    """One line about the whole plan."""
    finished = sum(state in FINISHED for state in states.values())
    parts = [f"{len(states)} steps, {finished} done"]
    memory = max((e.memory for e in estimates if e.memory is not None), default=None)
    if memory is not None:
        parts.append(f"at most {size_told(memory)} on a device")
    seconds = [e.seconds for e in estimates if e.seconds is not None]
    if seconds:
        parts.append(f"{told(sum(seconds))} for the {len(seconds)} whose time is known")
    return "; ".join(parts)


def coloured(text: str) -> str:
    """Finished steps in green, on a terminal that has colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return "\n".join(f"{GREEN}{line}{PLAIN}" if "  done  " in f"{line}  " else line for line in text.split("\n"))
