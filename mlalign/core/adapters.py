"""LoRA adapters as configurations: what vLLM cannot serve, and what changes the base.

Light: imports nothing heavy.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError, nearest
from mlalign.core.weight_files import ADAPTER as CONFIG
from mlalign.core.weight_files import read_object

# The ranks that vLLM can reserve memory for.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Initialisations after which a saved adapter is plain LoRA (vLLM's PEFTHelper). Under all others
# PEFT changes the base.
PLAIN = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Keys of peft's LoraConfig that vLLM ignores, whatever their value.
UNKNOWN_TO_VLLM = (
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
    "trainable_token_indices",
    "kasa_config",
    "arrow_config",
)
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations
NEEDS_DATA = ("eva",)  # initialisations that need a pass over data before training
HEADS = ("classifier", "score")
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


def refused_by_vllm(peft: Mapping[str, Any]) -> list[str]:
    """The settings that keep vLLM from serving an adapter, as in `use_dora: true`; else empty."""
    refused = [f"{key}: {json.dumps(peft[key])}" for key in UNKNOWN_TO_VLLM if peft.get(key)]

    peft_type = str(peft.get("peft_type", "LORA")).rpartition(".")[2]
    if peft_type != "LORA":
        refused.append(f"peft_type: {peft['peft_type']}")
    if peft.get("bias", "none") != "none":
        refused.append(f"bias: {peft['bias']}")

    saved = peft.get("modules_to_save") or []
    if any(module not in HEADS for module in saved):
        refused.append(f"modules_to_save: {json.dumps(saved)}")
    parameters = peft.get("target_parameters") or []
    if not all(str(parameter).endswith(EXPERTS) for parameter in parameters):
        refused.append(f"target_parameters: {json.dumps(parameters)}")

    if not is_plain(peft):
        refused.append(f"init_lora_weights: {peft['init_lora_weights']}")
    largest = rank(peft)
    if largest > RANKS[-1]:
        refused.append(f"r: {largest} (it serves up to {RANKS[-1]})")
    return refused


def served_rank(adapter: Path) -> int:
    """The smallest rank that vLLM can reserve for this adapter.

    Raises: UserError if vLLM cannot serve the adapter.
    """
    peft = read_object(adapter / CONFIG)
    refused = refused_by_vllm(peft)
    if refused:
        raise UserError(
            f"{adapter / CONFIG}: vLLM serves no adapter with {', '.join(refused)}; merge it into"
            " its base first (peft's merge_and_unload), or generate with engine=transformers"
        )
    largest = rank(peft)
    return next(served for served in RANKS if served >= largest)


def rank(peft: Mapping[str, Any]) -> int:
    """The largest rank of an adapter; peft's own default is 8."""
    return max([peft.get("r") or 8, *(peft.get("rank_pattern") or {}).values()])


def absent(peft: Mapping[str, Any], modules: Collection[str], n_layers: int | None) -> list[str]:
    """A message, beginning with the key, for each module or layer that the base does not have.

    peft ignores such a name silently if another name of the list matches.
    `modules`: the full names of the base's modules.
    """
    messages = []
    ends = {name.rpartition(".")[2] for name in modules if name}
    for key in ("target_modules", "modules_to_save"):
        names = peft.get(key) or []
        if isinstance(names, str):  # a pattern
            continue
        for name in sorted(names):
            if not any(f".{module}".endswith(f".{name}") for module in modules):
                hint = nearest(name, ends)
                messages.append(f"peft.{key}: the model has no module {name!r}{hint}")

    layers = peft.get("layers_to_transform")
    if layers is None:
        layers = []
    elif isinstance(layers, int):
        layers = [layers]
    for layer in layers:
        if n_layers is not None and not 0 <= layer < n_layers:
            messages.append(
                f"peft.layers_to_transform: the model has no layer {layer};"
                f" it has {n_layers}, from 0 on"
            )
    return messages


def is_plain(peft: Mapping[str, Any]) -> bool:
    """Whether a saved adapter applies to the base as it is.

    With other initialisations PEFT changes the base whenever it opens the adapter.
    """
    start = peft.get("init_lora_weights", True)
    return not isinstance(start, str) or start.lower() in PLAIN


def not_of_its_base(peft: Mapping[str, Any]) -> str | None:
    """Why the trained adapter would be wrong on the unchanged base; None if it would be right.

    PiSSA and similar initialisations move weights from the base into the adapter. The reference is
    then not the model that training started from (DPO's loss does not start at ln 2), and the saved
    adapter is wrong on the original base.
    """
    chosen = peft.get("init_lora_weights", True)
    name = ""
    if isinstance(chosen, str):
        name = chosen.lower()
    if name.startswith(CHANGES_BASE):
        reason = "changes the weights of the base, so that the adapter is wrong on the original one"
    elif name in NEEDS_DATA:
        reason = "needs a pass over data before training, which is not made here"
    elif name not in ("", "gaussian", "orthogonal", "mica"):
        reason = "is no initialisation that peft has"
    else:
        return None
    return (
        f"init_lora_weights: {chosen} {reason}; leave it out, or take true, gaussian or orthogonal"
    )
