"""LoRA adapters as files and as configurations: which base they stand on, and what vLLM cannot
serve. Light: imports nothing heavy."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlalign.core.errors import UserError, nearest
from mlalign.core.weight_files import ADAPTER as CONFIG
from mlalign.core.weight_files import read_object

# The sizes of adapter that vLLM reserves memory for.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Initialisations after which a saved adapter is plain LoRA (PEFTHelper of vLLM); under all others
# PEFT changes the base.
PLAIN = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Keys of peft's LoraConfig that vLLM does not carry out, whatever their value.
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
# Initialisations of LoRA under which the base is no longer what it was, or that need a pass over
# data before training.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
NEEDS_DATA = ("eva",)
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


def refused_by_vllm(peft: Mapping[str, Any]) -> list[str]:
    """The settings of an adapter that vLLM cannot serve, `use_dora: true`; empty if it serves the
    adapter."""
    found = [f"{key}: {_yaml(peft[key])}" for key in UNKNOWN_TO_VLLM if peft.get(key)]
    if str(peft.get("peft_type", "LORA")).rpartition(".")[2] != "LORA":
        found.append(f"peft_type: {peft['peft_type']}")
    if peft.get("bias", "none") != "none":
        found.append(f"bias: {peft['bias']}")
    if [m for m in peft.get("modules_to_save") or [] if m not in ("classifier", "score")]:
        found.append(f"modules_to_save: {_yaml(peft['modules_to_save'])}")
    if [p for p in peft.get("target_parameters") or [] if not str(p).endswith(EXPERTS)]:
        found.append(f"target_parameters: {_yaml(peft['target_parameters'])}")
    if not is_plain(peft):
        found.append(f"init_lora_weights: {peft['init_lora_weights']}")
    largest = rank(peft)
    if largest > RANKS[-1]:
        found.append(f"r: {largest} (it serves up to {RANKS[-1]})")
    return found


def served_rank(adapter: Path) -> int:
    """The smallest rank that vLLM can reserve for this adapter.

    Raises: UserError if vLLM cannot serve the adapter.
    """
    told = read_object(adapter / CONFIG)
    if refused := refused_by_vllm(told):
        raise UserError(
            f"{adapter / CONFIG}: vLLM serves no adapter with {', '.join(refused)}; merge it into"
            " its base first (peft's merge_and_unload), or generate with engine=transformers"
        )
    return next(r for r in RANKS if r >= rank(told))


def rank(peft: Mapping[str, Any]) -> int:
    """The largest rank of an adapter; peft's own default is 8."""
    return max([peft.get("r") or 8, *(peft.get("rank_pattern") or {}).values()])


def absent(peft: Mapping[str, Any], modules: Collection[str], n_layers: int | None) -> list[str]:
    """The names in a LoRA configuration that the base does not have, as messages that begin with
    the key: peft leaves them out without a word where another one is there.

    `modules`: the full names of the base's modules.
    """
    ends = {name.rpartition(".")[2] for name in modules if name}
    found = []
    for key in ("target_modules", "modules_to_save"):
        names = peft.get(key) or []
        for name in [] if isinstance(names, str) else sorted(names):
            if not any(f".{module}".endswith(f".{name}") for module in modules):
                found.append(f"peft.{key}: the model has no module {name!r}{nearest(name, ends)}")

    layers = peft.get("layers_to_transform")
    for layer in [layers] if isinstance(layers, int) else layers or []:
        if n_layers is not None and not 0 <= layer < n_layers:
            had = f"it has {n_layers}, from 0 on"
            found.append(f"peft.layers_to_transform: the model has no layer {layer}; {had}")
    return found


def _yaml(value: Any) -> str:
    return json.dumps(value)


def is_plain(peft: Mapping[str, Any]) -> bool:
    """Whether a saved adapter stands on the base as it is.

    Under other initialisations PEFT changes the base whenever it opens the adapter.
    """
    start = peft.get("init_lora_weights", True)
    return not isinstance(start, str) or start.lower() in PLAIN


def not_of_its_base(peft: Mapping[str, Any]) -> str | None:
    """Why a LoRA configuration would train no adapter of the base as it is; None if it does.

    With PiSSA and its kind the base loses what the adapter begins with. A reference is then not the
    model that training began from (the loss of DPO does not begin at ln 2), and the saved adapter
    is wrong on the original base.
    """
    chosen = peft.get("init_lora_weights", True)
    name = chosen.lower() if isinstance(chosen, str) else ""
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
