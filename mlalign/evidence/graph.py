"""The graph of a recipe's steps with their times: layers downwards, edges from a step to those that used it.

Steps of one `foreach` share a node. A node's bar is its part of the longest time. Edges over several layers run through places of
their own, one for all edges from a step (the layered drawing of Sugiyama, Tagawa & Toda 1981, with the mean-place ordering).
"""

import graphlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from mlalign.core.visible import visible
from mlalign.evidence.figures import short
from mlalign.evidence.text import seconds

WIDTH, HEIGHT, THIN, GAP_X, GAP_Y = 132, 44, 6, 16, 26
SWEEPS = 8

Place = str | tuple[str, int]  # a step, or where the edges from a step pass a layer
Links = dict[Place, list[Place]]


def nodes(steps: Sequence[Mapping], times: Sequence[Mapping]) -> dict[str, dict[str, Any]]:
    """name -> `{stage, n, seconds, skipped, inputs}`, steps `X[a]`, `X[b]` … as one node `X[…]`."""
    lasted = {t["step"]: t["seconds"] for t in times}
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        node = found.setdefault(_folded(step["step"]), {"stage": step["stage"], "n": 0, "seconds": 0.0, "skipped": True, "inputs": []})
        node["n"] += 1
        node["seconds"] += lasted.get(step["step"], 0.0)
        node["skipped"] &= step["status"] == "skipped"
        node["inputs"] = list(dict.fromkeys([*node["inputs"], *map(_folded, step["inputs"])]))
    return found


def _folded(name: str) -> str:
    return re.sub(r"\[.*\]$", "[…]", name)


def layers(graph: Mapping[str, Mapping]) -> tuple[list[list[Place]], Links]:
    """Each step one layer below its lowest input; (the layers in drawing order, place -> the places it is linked to below)."""
    depth: dict[str, int] = {}
    for name in _in_order(graph):
        depth[name] = max((depth[i] + 1 for i in graph[name]["inputs"] if i in depth), default=0)
    out: list[list[Place]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    links: Links = {}
    for name, level in depth.items():
        out[level].append(name)
        for source in (s for s in graph[name]["inputs"] if depth.get(s, level) < level):
            _link(source, name, range(depth[source] + 1, level), links, out)
    return _ordered(out, links), links


def _in_order(graph: Mapping[str, Mapping]) -> list[str]:
    """Every step after its inputs; as they stand, if steps that share a node need each other."""
    inputs = {name: [i for i in node["inputs"] if i in graph and i != name] for name, node in graph.items()}
    try:
        return list(graphlib.TopologicalSorter(inputs).static_order())
    except graphlib.CycleError:
        return list(graph)


def _link(source: str, target: str, between: range, links: Links, out: list[list[Place]]) -> None:
    above: Place = source
    places: list[Place] = [*((source, level) for level in between), target]
    for place in places:
        if not isinstance(place, str) and place not in out[place[1]]:
            out[place[1]].append(place)
        below = links.setdefault(above, [])
        if place not in below:
            below.append(place)
        above = place


def _ordered(out: list[list[Place]], links: Links) -> list[list[Place]]:
    """Within a layer by the mean place of the neighbours above, then of those below, several times."""
    above: Links = {}
    for upper, lowers in links.items():
        for lower in lowers:
            above.setdefault(lower, []).append(upper)
    for sweep in range(SWEEPS):
        near, order = (above, range(1, len(out))) if sweep % 2 == 0 else (links, range(len(out) - 2, -1, -1))
        for level in order:
            beside = out[level - 1 if near is above else level + 1]
            place = {name: i / max(len(beside) - 1, 1) for i, name in enumerate(beside)}
            own = {name: i / max(len(out[level]) - 1, 1) for i, name in enumerate(out[level])}
            mean = {n: sum(place[o] for o in near[n]) / len(near[n]) if near.get(n) else own[n] for n in out[level]}
            out[level] = sorted(out[level], key=lambda n: mean[n])
    return out


def draw(graph: Mapping[str, Mapping]) -> Markup:
    levels, links = layers(graph)
    width = max(map(_breadth, levels)) + 2 * GAP_X
    at: dict[Place, tuple[float, float]] = {}  # the middle of the upper edge
    for y, layer in enumerate(levels):
        left = (width - _breadth(layer)) / 2
        for name in layer:
            at[name] = (left + _wide(name) / 2, 8 + y * (HEIGHT + GAP_Y))
            left += _wide(name) + GAP_X
    longest = max(n["seconds"] for n in graph.values()) or 1
    edges = [_edge(at[upper], at[lower]) for upper, lowers in links.items() for lower in lowers]
    edges += [f'<path class="edge" d="M{x:g} {y:g}v{HEIGHT}"/>' for name, (x, y) in at.items() if isinstance(name, tuple)]
    boxes = [_box(name, node, at[name], node["seconds"] / longest) for name, node in graph.items()]
    height = len(levels) * (HEIGHT + GAP_Y)
    frame = f'<svg class="graph" role="img" aria-label="The steps and what each used; times are in the table" width="{width:g}"'
    return Markup(f'{frame} height="{height}" viewBox="0 0 {width:g} {height}">' + "".join([*edges, *boxes]) + "</svg>")


def _wide(place: Place) -> int:
    return THIN if isinstance(place, tuple) else WIDTH


def _breadth(layer: Sequence[Place]) -> float:
    return sum(map(_wide, layer)) + GAP_X * (len(layer) - 1)


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1, x2, y2 = start[0], start[1] + HEIGHT, end[0], end[1]
    bend = (y2 - y1) / 2
    return f'<path class="edge" d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"/>'


def _box(name: str, node: Mapping, at: tuple[float, float], share: float) -> str:
    x, y = at[0] - WIDTH / 2, at[1]
    lasted = "skipped" if node["skipped"] else seconds(node["seconds"])
    many = f" ×{node['n']}" if node["n"] > 1 else ""
    kind = "node skipped" if node["skipped"] else "node"
    return (
        f'<g class="{kind}"><title>{escape(visible(name))}: {escape(node["stage"])}, {lasted}</title>'
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        f'<rect x="{x:g}" y="{y + HEIGHT - 4:g}" width="{WIDTH * share:.1f}" height="4" class="time"/>'
        f'<text x="{x + 8:g}" y="{y + 17:g}" class="name">{escape(visible(short(name, 16)))}{many}</text>'
        f'<text x="{x + 8:g}" y="{y + 33:g}" class="tick">{escape(short(node["stage"], 11))} · {lasted}</text></g>'
    )
