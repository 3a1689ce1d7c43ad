"""Where the steps of a plan stand, as their manifests and inputs say."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlalign.core import store
from mlalign.core.model import models_in


def state(node: Any, the_store: store.Store) -> tuple[str, str]:
    """Where a step of a plan (`mlalign.recipes.plan.Node`) stands: (`done` | `skipped` | `stale` |
    `damaged` | `partial` | `todo`, why).
    """
    return of_artifact(node.artifact, node.sources(), the_store)


def of_frozen(told: Mapping[str, Any], the_store: store.Store) -> tuple[str, str]:
    """The same for a step's frozen configuration."""
    return of_artifact(
        the_store.path(told["stage"], told["fingerprint"]).name, sources(told), the_store
    )


def sources(told: Mapping[str, Any]) -> Iterator[dict]:
    """Every artifact that a frozen step reads, or that guards it."""
    slots = [v if isinstance(v, list) else [v] for v in told["inputs"].values()]
    yield from (
        m
        for values in [*slots, told.get("guards") or []]
        for m in models_in(values)
        if "artifact" in m
    )


def of_artifact(
    artifact: str, inputs: Iterable[Mapping], the_store: store.Store
) -> tuple[str, str]:
    path = the_store.root / artifact
    if not (path / store.MANIFEST).is_file():
        begun = path.with_name(path.name + ".partial").is_dir()
        return ("partial", "begun, not finished") if begun else ("todo", "")
    manifest = store.read_manifest(path)
    if wrong := store.damage(path, manifest, the_store.digests):
        return "damaged", wrong
    recorded = {d["step"]: d.get("content_digest") for d in _recorded(manifest)}
    for source in inputs:
        now = the_store.root / source["artifact"]
        if not (now / store.MANIFEST).is_file():
            return "stale", f"its input {source['step']} is gone"
        if recorded.get(source["step"]) not in (None, store.read_manifest(now)["content_digest"]):
            return "stale", f"its input {source['step']} has other content now"
    return manifest["status"], ""


def _recorded(manifest: Mapping) -> Iterator[dict]:
    for value in manifest["inputs"].values():
        for v in value if isinstance(value, list) else [value]:
            yield from (told for told in (v, *(v.get("models") or ())) if "step" in told)
