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
    """What a card says.

    `method` is a sentence, `made_from` the model that training began with. An adapter has a `rank`
    and stands on `base`; for full weights `base` is `made_from`. `sources` are (name, number of
    examples, licence).
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
    """The facts of a finished training step, with paths relative to the store."""
    licences = {source["source"]: source.get("licence") for source in inputs.sources()}
    artifact = out.path.name.removesuffix(".partial")
    counts = out.tally.to_dict()
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
        sources=[(name, n, licences.get(name)) for name, n in sources.items()],
        base_licence=licence_of(start.base or start),
    )


def shown(model: Model, store: Path) -> str:
    """A model's name without paths of this machine.

    That is its path relative to the store, the name of a directory elsewhere, or its hub id.
    """
    path = Path(model.path)
    if not path.is_dir():
        return model.path
    if path.resolve().is_relative_to(store.resolve()):
        return str(path.resolve().relative_to(store.resolve()))
    return path.name


def licence_of(model: Model) -> str | None:
    """The licence that a local model's own card states."""
    card = Path(model.path) / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8")
    if not text.startswith("---") or text.count("---") < 2:
        return None
    head = yaml_files.load(text.split("---")[1], card)
    return head.get("license") if isinstance(head, dict) else None


def serving(facts: Facts) -> str:
    """The command that serves the model, run in the directory of the store."""
    kind = "policy" if facts.is_policy else "classifier"
    if facts.rank is not None:
        kind += " adapter"
    return SERVING[kind].format(
        model=facts.model, base=facts.base, rank=_served_rank(facts.rank), name=facts.name
    )


def _served_rank(rank: int | None) -> int:
    """The smallest rank that vLLM accepts and that holds an adapter of this rank."""
    if rank is None:
        return RANKS[-1]
    return next((served for served in RANKS[1:] if served >= rank), RANKS[-1])


def text(facts: Facts) -> str:
    """README.md of a model directory."""
    head = {
        "library_name": "peft" if facts.rank is not None else "transformers",
        "base_model": facts.base,
        "license": facts.base_licence or "other",
        "language": sorted({language.split("_")[0] for language in facts.counts}),
        "tags": ["mlalign", "trl"],
    }
    sources = [
        f"- {name}: {n} examples, licence {licence or 'not stated'}"
        for name, n, licence in facts.sources
    ]
    adapter = ""
    if facts.rank is not None:
        adapter = f" It is a LoRA adapter of rank {facts.rank}; it needs its base, `{facts.base}`."
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
            *_markdown(_counts(facts)),
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


def _counts(facts: Facts) -> list[list[str]]:
    """A table with the examples that were kept and dropped in each language."""
    reasons = sorted(facts.dropped)
    languages = set(facts.counts)
    for by_language in facts.dropped.values():
        languages.update(by_language)

    table = [["language", "examples", *(f"dropped: {reason}" for reason in reasons)]]
    for language in sorted(languages):
        n_kept = facts.counts.get(language, 0)
        n_dropped = [facts.dropped[reason].get(language, 0) for reason in reasons]
        table.append([language, str(n_kept), *map(str, n_dropped)])
    return table


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(line) + " |" for line in table]
    return [head, "|" + " --- |" * len(table[0]), *body]


def write(path: Path, facts: Facts) -> None:
    """Write README.md beside the weights."""
    (path / "README.md").write_text(text(facts), encoding="utf-8")
