"""What a plan needs from the Hugging Face hub, and whether this machine has it: `mlalign plan`
lists it, `mlalign fetch` brings it.

Compute nodes often have no network. So everything is fetched on a login node into the cache that
the nodes share, and jobs run with `offline_environment()`: what is missing is then an error at
once, not a time-out.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from mlalign.core.downloads import Kind, Need
from mlalign.core.identity import UNKNOWN, hub_cache
from mlalign.recipes.plan import Node, Plan

HUB_IDENTITY = re.compile(rf"([\w.-]+(?:/[\w.-]+)?)@([0-9a-f]{{40}}|{UNKNOWN})")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
# sacrebleu's tokenizers that bring a model from the network
SACREBLEU = ("flores101", "flores200", "spm", "spBLEU-1K")


def needed(plan: Plan) -> dict[Need, list[str]]:
    """Everything on the hub that the steps of a plan open -> the steps that do, in the order of the
    plan.
    """
    found: dict[Need, list[str]] = {}
    for node in plan.nodes:
        for need in dict.fromkeys(_of_node(node)):
            found.setdefault(need, []).append(node.name)
    return found


def summary(plan: Plan) -> str:
    """A line for each hub id that the plan needs, with whether it is here; nothing if it needs
    none.
    """
    lines = [
        f"  {'here   ' if here(need) else 'missing'} {need}, for {', '.join(steps)}"
        for need, steps in needed(plan).items()
    ]
    if not lines:
        return ""
    mend = (
        ["  (mlalign fetch with the same arguments brings what is missing)"]
        if any("missing " in line for line in lines)
        else []
    )
    return "\n".join([f"hub (cache {hub_cache()}):", *lines, *mend])


def missing(plan: Plan) -> list[str]:
    """A message for each hub id that a job without network would not find; lm-eval tasks, of which
    nobody knows, are left out.
    """
    return [
        f"{', '.join(steps)}: {need} is not in the cache {hub_cache()}; run mlalign fetch with the"
        " same arguments where there is network"
        for need, steps in needed(plan).items()
        if need.kind != "lm-eval tasks" and not here(need)
    ]


def offline_environment() -> dict[str, str]:
    """What a job on a node without network has in its environment: the caches by absolute path, no
    requests, no telemetry.
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_CACHE": str(hub_cache().absolute()),
        "HF_DATASETS_CACHE": str(datasets_cache().absolute()),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


def datasets_cache() -> Path:
    """Where the package datasets keeps prepared data sets."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")).expanduser()


# ----------------------------------------------------------------------------------- what is needed


def _of_node(node: Node) -> Iterator[Need]:
    served = getattr(getattr(node.config, "engine", None), "name", None) == "openai"
    for slot, value in node.inputs.items():
        if not (served and slot == "model"):
            yield from _in(value)
    if hasattr(node.module, "downloads"):
        yield from node.module.downloads(node.config)


def _in(value: Any) -> Iterator[Need]:
    """Hub ids in a slot: models with the commit that the plan found, also those in the settings of
    a scorer.
    """
    if isinstance(value, list):
        for item in value:
            yield from _in(item)
    elif isinstance(value, Mapping) and not _is_served(value):
        kind: Kind = "tokenizer" if value.get("family") == "length" else "model"
        if value.get("family") == "translation" and value.get("tokenize") in SACREBLEU:
            yield Need("sacrebleu tokenizer", value["tokenize"])
        for id_, commit in _identities(value.get("identity")):
            yield Need(
                kind, id_, commit, value.get("revision") if value.get("path") == id_ else None
            )
        for key, item in value.items():
            yield from _in(item) if key != "identity" else ()


def _is_served(settings: Mapping) -> bool:
    """Whether a scorer's model answers on a server, which has its own copy."""
    engine = settings.get("engine")
    return (engine.get("name") if isinstance(engine, Mapping) else engine) == "openai"


def _identities(value: Any) -> Iterator[tuple[str, str | None]]:
    """(hub id, commit) of an identity as `identity.of_external` gives it: text, or of an adapter
    itself and its base.
    """
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, list):
            yield from _identities(item)
        elif isinstance(item, str) and (match := HUB_IDENTITY.fullmatch(item)):
            yield match[1], None if match[2] == UNKNOWN else match[2]


# ------------------------------------------------------------------------------------- what is here


def here(need: Need) -> bool:
    """Whether the local caches hold it, as far as that shows without asking anyone (of lm-eval
    tasks it does not).
    """
    match need.kind:
        case "lm-eval tasks":
            return False
        case "sacrebleu tokenizer":
            return any(
                Path(os.environ.get("SACREBLEU", "~/.sacrebleu"))
                .expanduser()
                .joinpath("models")
                .glob("*spm*")
            )
        case "data set":
            return _data_set_is_here(need)
    folder = snapshot(need)
    if folder is None:
        return False
    if need.kind == "tokenizer":
        return any((folder / name).is_file() for name in TOKENIZER)
    return _has_weights(folder)


def snapshot(need: Need, kind: Literal["models", "datasets"] = "models") -> Path | None:
    """The folder of the cache that holds its files; None if there is none."""
    repository = hub_cache() / f"{kind}--{need.id.replace('/', '--')}"
    commit = need.commit or _referred(repository, need.revision or "main")
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() else None


def _referred(repository: Path, revision: str) -> str:
    """The commit that a branch or tag stands for in the cache; what is not known there is a commit
    itself.
    """
    ref = repository / "refs" / revision
    return ref.read_text().strip() if ref.is_file() else revision


def _has_weights(folder: Path) -> bool:
    """Every shard that an index names is there; without an index, some weights.

    Broken links do not count.
    """
    if not ((folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()):
        return False
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if index.is_file():
            return all(
                (folder / name).is_file()
                for name in set(json.loads(index.read_text())["weight_map"].values())
            )
    return any(p.is_file() for ending in ("safetensors", "bin") for p in folder.glob(f"*.{ending}"))


def _data_set_is_here(need: Need) -> bool:
    """Prepared data sets lie in `ORG___NAME/CONFIG/VERSION/COMMIT`."""
    folder = datasets_cache() / need.id.replace("/", "___")
    repository = hub_cache() / f"datasets--{need.id.replace('/', '--')}"
    return any(
        p.is_dir() for p in folder.glob(f"*/*/{_referred(repository, need.revision or 'main')}")
    )
