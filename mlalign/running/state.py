"""Where the steps of a plan stand, as their manifests and inputs say."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlalign.core import store
from mlalign.core.model import models_in


def state(node: Any, the_store: store.Store) -> tuple[str, str]:
    """Where a step of a plan (`mlalign.recipes.plan.Node`) stands, and why.

    It is `done`, `skipped`, `stale`, `damaged`, `partial` or `todo`.
    """
    return of_artifact(node.artifact, node.sources(), the_store)


def of_frozen(frozen_step: Mapping[str, Any], the_store: store.Store) -> tuple[str, str]:
    """The same for a step's frozen configuration."""
    artifact = the_store.path(frozen_step["stage"], frozen_step["fingerprint"]).name
    return of_artifact(artifact, sources(frozen_step), the_store)


def sources(frozen_step: Mapping[str, Any]) -> Iterator[dict]:
    """Every artifact that a frozen step reads, or that guards it."""
    for value in [*frozen_step["inputs"].values(), frozen_step.get("guards") or []]:
        for model in models_in(value if isinstance(value, list) else [value]):
            if "artifact" in model:
                yield model


def of_artifact(
    artifact: str, inputs: Iterable[Mapping], the_store: store.Store
) -> tuple[str, str]:
    path = the_store.root / artifact
    if not (path / store.MANIFEST).is_file():
        is_begun = path.with_name(path.name + ".partial").is_dir()
        return ("partial", "begun, not finished") if is_begun else ("todo", "")
    manifest = store.read_manifest(path)
    damage = store.damage(path, manifest, the_store.digests)
    if damage:
        return "damaged", damage

    recorded = {record["step"]: record.get("content_digest") for record in _recorded(manifest)}
    for source in inputs:
        name = source["step"]
        source_path = the_store.root / source["artifact"]
        if not (source_path / store.MANIFEST).is_file():
            return "stale", f"its input {name} is gone"
        digest = store.read_manifest(source_path)["content_digest"]
        if recorded.get(name) not in (None, digest):
            return "stale", f"its input {name} has other content now"
    return manifest["status"], ""


def _recorded(manifest: Mapping) -> Iterator[dict]:
    """What a manifest records of the steps that were read, also in the settings of scorers."""
    for value in manifest["inputs"].values():
        for record in value if isinstance(value, list) else [value]:
            for named in (record, *(record.get("models") or ())):
                if "step" in named:
                    yield named
