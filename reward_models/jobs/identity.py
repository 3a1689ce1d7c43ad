"""What a run of scoring is: everything that its scores depend on besides the rows. No secrets in it.

Models count by the content of their files, wherever they lie; hub ids by their commit.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlalign
from mlalign import secrecy
from mlalign.engine.models import local_model

# Settings that change speed, or where something runs or is kept, but no score: a run that was killed for want of memory goes on with
# others, and a judge's checklists grow while it runs.
NOT_CONTENT = frozenset(
    "device_batch_tokens prefix_reuse checklists concurrency timeout_s max_retries base_url api_key_env "
    "gpu_memory_utilization tensor_parallel_size pipeline_parallel_size max_num_seqs max_num_batched_tokens".split()
)
SECRET = re.compile(r"(^|_)(key|token|secret|password)$")
MODEL_KEYS = ("path", "base", "model", "reference")


def digest(value: Any) -> str:
    """16 hex digits of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def of_run(told: Mapping, **options: Any) -> dict[str, Any]:
    """The identity of scoring with the scorer that `told` describes; `options` are the other settings that scores depend on."""
    return {"scorer": _settings(told), **options, "mlalign": mlalign.__version__}


def _settings(value: Any, name: str = "", revision: str | None = None) -> Any:
    """Settings with models and other files by content, without secrets and without what is no content."""
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if k not in NOT_CONTENT and not SECRET.search(str(k))}
        return {k: _settings(v, k, value.get("revision")) for k, v in kept.items()}
    if isinstance(value, list | tuple):
        return [_settings(v, name) for v in value]
    if not isinstance(value, str):
        return value
    is_file = (os.sep in value or Path(value).suffix) and os.path.exists(value)
    return of_path(value, revision) if name in MODEL_KEYS or is_file else public(value)


def public(value: Any) -> Any:
    """A value without what nobody else should read."""
    if isinstance(value, Mapping):
        return {k: public(v) for k, v in value.items() if not SECRET.search(str(k))}
    if isinstance(value, list | tuple):
        return [public(v) for v in value]
    return secrecy.bare(value) if isinstance(value, str) else value


def of_path(path: str, revision: str | None = None) -> Any:
    """The content of a file or model directory (an adapter's with its base's), the commit of a hub id, or the text itself."""
    place = Path(path).expanduser()
    if place.is_file():
        return {"sha256": sha256(place)[:16]}
    if not place.is_dir():
        return _commit(path, revision)
    files = sorted(p for p in place.rglob("*") if p.is_file() and not any(x.startswith(".") for x in p.relative_to(place).parts))
    with ThreadPoolExecutor(8) as pool:
        content = dict(zip((str(p.relative_to(place)) for p in files), pool.map(sha256, files), strict=True))
    told = {"content": digest(content)}
    base = local_model(place, "").base
    return told | ({"base": of_path(base.path)} if base else {})


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def folder_of(path: str, revision: str | None = None) -> Path | None:
    """The directory that a model lies in: its own, or the hub's cache; None if it is not known."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if Path(path).is_dir():
        return Path(path)
    cache = Path(HF_HUB_CACHE) / f"models--{path.replace('/', '--')}"
    ref = cache / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision or ""
    return cache / "snapshots" / commit if commit and (cache / "snapshots" / commit).is_dir() else None


def _commit(name: str, revision: str | None) -> str:
    """A hub id with the commit that the local cache has for it (looking for its card has asked the hub); other text as it is."""
    found = folder_of(name, revision)
    return f"{name}@{found.name}" if found else str(public(name))


def differences(theirs: Any, ours: Any, key: str = "") -> list[str]:
    """`scorer.max_length was 512, is 256` for everything in which two identities differ."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        names = dict.fromkeys([*theirs, *ours])
        return [d for n in names for d in differences(theirs.get(n), ours.get(n), f"{key}.{n}" if key else n)]
    return [] if theirs == ours else [f"{key} was {_said(theirs)}, is {_said(ours)}"]


def _said(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
