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
from mlalign.planner.work import duration_text, size_text

HEADER = ("step", "stage", "steps", "state", "memory", "time")
FINISHED = ("done", "skipped")
GREEN = "\033[32m"
PLAIN = "\033[0m"


def tree(nodes: Sequence[Any], states: Mapping[str, str], estimates: Iterable[Estimate]) -> str:
    """The table of a plan's nodes. `states` and `estimates` are by the names of nodes."""
    by_template: dict[str, list[Any]] = {}
    for node in nodes:
        by_template.setdefault(node.step.template, []).append(node)
    estimate_of = {estimate.step: estimate for estimate in estimates}

    rows = []
    for name in _in_tree_order(by_template):
        rows.append(_row(name, by_template.get(name, []), states, estimate_of))
    return table(rows, HEADER)


def _in_tree_order(templates: Iterable[str]) -> list[str]:
    """Every step after the part that it belongs to, parts in the order in which they begin.

    A part that gives no step of its own gets a line all the same.
    """
    order: list[str] = []
    for template in templates:
        words = template.split(".")
        for depth in range(1, len(words) + 1):
            name = ".".join(words[:depth])
            if name not in order:
                order.insert(_place(order, name), name)
    return order


def _place(order: Sequence[str], name: str) -> int:
    """After everything in the part that a step belongs to, or at the end."""
    part = name.rpartition(".")[0]
    places = [i for i, other in enumerate(order) if part and _is_in(other, part)]
    return places[-1] + 1 if places else len(order)


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _row(
    name: str,
    nodes: Sequence[Any],
    states: Mapping[str, str],
    estimate_of: Mapping[str, Estimate],
) -> list[Any]:
    label = "  " * name.count(".") + name.rpartition(".")[2]
    if not nodes:
        return [label, "", "", "", "", ""]
    counts = Counter(states[node.name] for node in nodes)
    estimates = [estimate_of[node.name] for node in nodes if node.name in estimate_of]
    memory = _largest(estimates)
    seconds = _known_seconds(estimates)
    memory_text = "" if memory is None else size_text(memory)
    seconds_text = duration_text(sum(seconds)) if seconds else ""
    stage = nodes[0].step.stage
    return [label, stage, len(nodes), _summary(counts), memory_text, seconds_text]


def _largest(estimates: Iterable[Estimate]) -> int | None:
    known = [estimate.memory for estimate in estimates if estimate.memory is not None]
    return max(known, default=None)


def _known_seconds(estimates: Iterable[Estimate]) -> list[float]:
    return [estimate.seconds for estimate in estimates if estimate.seconds is not None]


def _summary(counts: Counter[str]) -> str:
    """`todo`, or `3 done, 8 todo`."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{n} {state}" for state, n in counts.items())


def totals(states: Mapping[str, str], estimates: Sequence[Estimate]) -> str:
    """One line about the whole plan."""
    n_finished = sum(state in FINISHED for state in states.values())
    parts = [f"{len(states)} steps, {n_finished} done"]
    memory = _largest(estimates)
    if memory is not None:
        parts.append(f"at most {size_text(memory)} on a device")
    seconds = _known_seconds(estimates)
    if seconds:
        total = duration_text(sum(seconds))
        parts.append(f"{total} for the {len(seconds)} whose time is known")
    return "; ".join(parts)


def coloured(text: str) -> str:
    """Finished steps in green, on a terminal that has colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    lines = []
    for line in text.split("\n"):
        if "  done  " in f"{line}  ":
            lines.append(f"{GREEN}{line}{PLAIN}")
        else:
            lines.append(line)
    return "\n".join(lines)
