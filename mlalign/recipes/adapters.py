"""LoRA adapters in a plan: what steps would give vLLM although it cannot serve it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlalign.core.adapters import CONFIG, refused_by_vllm
from mlalign.core.weight_files import read_object


def problems(nodes: Mapping[str, Any]) -> list[str]:
    """A message for each adapter that a step would give vLLM although vLLM cannot serve it.

    It names both steps. `nodes`: name -> Node.
    """
    messages = []
    for node in nodes.values():
        for slot, value in _given_to_vllm(node):
            for place, peft in _adapters(value, nodes):
                refused = refused_by_vllm(peft)
                if refused:
                    problem = f"vLLM serves no adapter with {', '.join(refused)} ({place})"
                    mend = (
                        "train another adapter or full weights, or generate with"
                        " engine=transformers"
                    )
                    messages.append(f"steps.{node.step.template}.inputs.{slot}: {problem}; {mend}")
    return list(dict.fromkeys(messages))


def _given_to_vllm(node: Any) -> Iterator[tuple[str, Any]]:
    """Slot and value of every model that a step opens with vLLM."""
    engine = getattr(node.config, "engine", None)
    if getattr(engine, "name", None) == "vllm" or getattr(node.config, "backend", None) == "vllm":
        yield "model", node.inputs.get("model")
    for scorer in node.inputs.get("scorers") or []:
        engine_name = (scorer.get("engine") or {}).get("name", "vllm")
        if scorer.get("family") == "judge" and engine_name == "vllm":
            yield "scorers", scorer.get("path")


def _adapters(value: Any, nodes: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The adapters that an input can stand for: where each is configured, and how."""
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping):
        return
    if "artifact" not in value:
        folder = Path(str(value.get("path"))).expanduser()
        if (folder / "model" / CONFIG).is_file():
            folder = folder / "model"
        if (folder / CONFIG).is_file():
            yield str(folder / CONFIG), read_object(folder / CONFIG)
        return
    node = nodes[value["step"]]
    if hasattr(node.module, "CHOOSES"):
        candidates = node.inputs.get(node.module.CHOOSES)
        for candidate in candidates if isinstance(candidates, list) else [candidates]:
            yield from _adapters(candidate, nodes)
    elif getattr(node.config, "peft", None) is not None:
        # Training that starts from an adapter goes on in it, with the adapter's own settings.
        started_from = list(_adapters(node.inputs.get("model"), nodes))
        own = (f"steps.{node.step.template}.config.peft", node.config.peft)
        yield from started_from or [own]
