"""LoRA adapters in a plan: what steps would give vLLM although it cannot serve it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlalign.core.adapters import CONFIG, refused_by_vllm
from mlalign.core.weight_files import read_object


def problems(nodes: Mapping[str, Any]) -> list[str]:
    """What steps of a plan would give vLLM although it cannot serve it, as messages that name both
    steps; `nodes`: name -> Node."""
    found = []
    for node in nodes.values():
        for slot, value in _given_to_vllm(node):
            for place, peft in _adapters(value, nodes):
                refused = refused_by_vllm(peft)
                if refused:
                    found.append(
                        f"steps.{node.step.template}.inputs.{slot}: vLLM serves no adapter with"
                        f" {', '.join(refused)} ({place}); train another adapter or full weights,"
                        " or generate with engine=transformers"
                    )
    return list(dict.fromkeys(found))


def _given_to_vllm(node: Any) -> Iterator[tuple[str, Any]]:
    """Slot and value of every model that a step opens with vLLM."""
    engine = getattr(node.config, "engine", None)
    if getattr(engine, "name", None) == "vllm" or getattr(node.config, "backend", None) == "vllm":
        yield "model", node.inputs.get("model")
    for scorer in node.inputs.get("scorers") or []:
        if (
            scorer.get("family") == "judge"
            and (scorer.get("engine") or {}).get("name", "vllm") == "vllm"
        ):
            yield "scorers", scorer.get("path")


def _adapters(value: Any, nodes: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where the adapters that an input can stand for are configured, and how; nothing for full
    models."""
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping):
        return
    if "artifact" not in value:
        folder = Path(str(value.get("path"))).expanduser()
        folder = folder / "model" if (folder / "model" / CONFIG).is_file() else folder
        if (folder / CONFIG).is_file():
            yield str(folder / CONFIG), read_object(folder / CONFIG)
        return
    node = nodes[value["step"]]
    if hasattr(node.module, "CHOOSES"):
        candidates = node.inputs.get(node.module.CHOOSES)
        for candidate in candidates if isinstance(candidates, list) else [candidates]:
            yield from _adapters(candidate, nodes)
    elif getattr(node.config, "peft", None) is not None:
        began = list(
            _adapters(node.inputs.get("model"), nodes)
        )  # training goes on in an adapter, whose own settings stay
        yield from began or [(f"steps.{node.step.template}.config.peft", node.config.peft)]
