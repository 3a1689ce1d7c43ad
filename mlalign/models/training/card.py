"""The model card: what a model was made from and how to serve it.

Pure text; names no place on this machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mlalign.core import yaml_files
from mlalign.core.adapters import RANKS
from mlalign.core.model import Model
from mlalign.core.stage import Inputs, Output

SERVING = {
    "policy": "vllm serve {model}",
    "policy adapter": (
        "vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={model}"
    ),
    "classifier": "vllm serve {model} --runner pooling",
    "classifier adapter": "python -m reward_models score {model}",
}


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    `method` is a sentence, `made_from` the model that training began with; an adapter has a `rank`
    and stands on `base`, which is `made_from` itself for full weights.
    """

    name: str
    method: str
    model: str
    made_from: str
    base: str
    rank: int | None
    is_policy: bool
    counts: Mapping[str, int]
    dropped: Mapping[str, Mapping[str, int]]
    sources: Sequence[tuple[str, int, str | None]]
    base_licence: str | None


def gather(
    out: Output,
    inputs: Inputs,
    method: str,
    start: Model,
    rank: int | None,
    is_policy: bool,
    sources: Mapping[str, int],
) -> Facts:
    """The facts of a finished training step; paths are told relative to the store."""
    told = {s["source"]: s.get("licence") for s in inputs.sources()}
    artifact, counts = out.path.name.removesuffix(".partial"), out.tally.to_dict()
    base = start.base if start.base and rank is not None else start
    return Facts(
        name=out.step or artifact,
        method=method,
        model=f"{artifact}/model",
        made_from=shown(start, out.store.root),
        base=shown(base, out.store.root),
        rank=rank,
        is_policy=is_policy,
        counts=counts["rows"],
        dropped=counts["dropped"],
        sources=[(name, n, told.get(name)) for name, n in sources.items()],
        base_licence=licence_of(start.base or start),
    )


def shown(model: Model, store: Path) -> str:
    """A model's name without this machine's paths: relative to the store, the directory's name, or
    the hub id.
    """
    path = Path(model.path)
    if not path.is_dir():
        return model.path
    return (
        str(path.resolve().relative_to(store.resolve()))
        if path.resolve().is_relative_to(store.resolve())
        else path.name
    )


def licence_of(model: Model) -> str | None:
    """The licence that a local model's own card states."""
    card = Path(model.path) / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    head = text.split("---")[1] if text.startswith("---") and text.count("---") > 1 else ""
    told = yaml_files.load(head, card) if head else None
    return told.get("license") if isinstance(told, dict) else None


def serving(facts: Facts) -> str:
    """The command that serves the model, run in the directory of the store."""
    kind = ("policy" if facts.is_policy else "classifier") + (
        "" if facts.rank is None else " adapter"
    )
    return SERVING[kind].format(
        model=facts.model, base=facts.base, rank=_served_rank(facts.rank), name=facts.name
    )


def _served_rank(rank: int | None) -> int:
    """The least rank that vLLM can be told and that holds an adapter of this one."""
    return next((r for r in RANKS[1:] if rank is not None and r >= rank), RANKS[-1])


def text(facts: Facts) -> str:
    """README.md of a model directory."""
    head = {
        "library_name": "peft" if facts.rank is not None else "transformers",
        "base_model": facts.base,
        "license": facts.base_licence or "other",
        "language": sorted({language.split("_")[0] for language in facts.counts}),
        "tags": ["mlalign", "trl"],
    }
    reasons = sorted(facts.dropped)
    table = [["language", "examples", *(f"dropped: {r}" for r in reasons)]]
    for language in sorted({*facts.counts, *(x for by in facts.dropped.values() for x in by)}):
        table.append(
            [
                language,
                str(facts.counts.get(language, 0)),
                *(str(facts.dropped[r].get(language, 0)) for r in reasons),
            ]
        )
    sources = [
        f"- {name}: {n} examples, licence {licence or 'not stated'}"
        for name, n, licence in facts.sources
    ]
    adapter = (
        ""
        if facts.rank is None
        else f" It is a LoRA adapter of rank {facts.rank}; it needs its base, `{facts.base}`."
    )
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            f"# {facts.name}",
            "",
            f"{facts.method} Made from `{facts.made_from}`.{adapter}",
            "",
            "## Data",
            "",
            *_markdown(table),
            "",
            *sources,
            "",
            "## Licences",
            "",
            f"Base model: {facts.base_licence or 'not stated in its card'}. Data: as listed above.",
            "",
            "## Use",
            "",
            "In the directory of the store:",
            "",
            f"    {serving(facts)}",
            "",
        ]
    )


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(line) + " |" for line in table]
    return [head, "|" + " --- |" * len(table[0]), *body]


def write(path: Path, facts: Facts) -> None:
    """Write README.md beside the weights."""
    (path / "README.md").write_text(text(facts), encoding="utf-8")
