"""What a run of scoring is: everything that its scores depend on besides the rows.

No secrets in it.

Models count by the content of their files, wherever they lie; hub ids by their commit.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlalign
from mlalign.core import secrecy
from mlalign.core.digests import Digests, Watch, tree
from mlalign.core.errors import UserError
from mlalign.core.identity import snapshot_damages
from mlalign.core.model import commit_of, local_model
from reward_models.families import function
from reward_models.settings import NOT_CONTENT

SECRET = re.compile(r"(^|_)(key|token|secret|password)$")
KNOWN = Digests()  # what this process has hashed
MODEL_KEYS = ("path", "base", "model", "reference")


def digest(value: Any) -> str:
    """16 hex digits of a JSON-able value, independent of key order."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()[:16]


class Identity:
    """What a run of scoring is, and whether its models and other files still are what they were."""

    def __init__(self, told: Mapping, **options: Any):
        """Of scoring with the scorer that `told` describes; `options` are the other settings that
        scores depend on.
        """
        self._told = told
        with KNOWN.recording() as self._files:
            self.value: dict[str, Any] = of_run(told, **options)
        self._watch = Watch(KNOWN, self._files)

    def pinned(self) -> dict:
        """The scorer's settings, with the commits that the identity names where models are on the
        hub.
        """
        names = {"path": "revision", "reference": "reference_revision"}
        found = {name: commit_of(self.value["scorer"].get(key)) for key, name in names.items()}
        return {**self._told, **{name: commit for name, commit in found.items() if commit}}

    def still(self) -> None:
        """Look at the files again; those that were touched are hashed again.

        Raises: UserError naming one that was changed.
        """
        if self._watch.untouched():
            return
        with KNOWN.recording() as files:
            now = _settings(self._told)
        if now != self.value["scorer"]:
            names = dict.fromkeys([*self._files, *files])
            changed = [name for name in names if self._files.get(name) != files.get(name)]
            raise UserError(
                f"{changed[0] if changed else self._told.get('path')}: was changed while it was in"
                " use; what was scored since is not kept. Put it back and run the same command"
                " again, or score with what is there now to another --output"
            )
        self._watch = Watch(KNOWN, files)


def of_run(told: Mapping, **options: Any) -> dict[str, Any]:
    """The identity of scoring with the scorer that `told` describes; `options` are the other
    settings that scores depend on.
    """
    return {"scorer": _settings(told), **options, "mlalign": mlalign.__version__}


def _settings(value: Any, name: str = "", revision: str | None = None) -> Any:
    """Settings with models and other files by content, without secrets and without what is no
    content.
    """
    if isinstance(value, Mapping):
        kept = {
            k: v for k, v in value.items() if k not in NOT_CONTENT and not SECRET.search(str(k))
        }
        return {
            k: _settings(v, k, value.get("revision")) for k, v in kept.items()
        } | function.source(value)
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
    """The content of a file or model directory (an adapter's with its base's), the commit of a hub
    id, or the text itself.

    Raises: UserError for files of the hub's cache that are not what was fetched.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return {"sha256": KNOWN.file(place)[:16]}
    if not place.is_dir():
        return _commit(path, revision)
    files = tree(place)
    digests = KNOWN.files(files.values())
    told = {"content": digest({name: digests[file] for name, file in files.items()})}
    base = local_model(place, "").base
    return told | ({"base": of_path(base.path)} if base else {})


def folder_of(path: str, revision: str | None = None) -> Path | None:
    """The directory that a model lies in: its own, or the hub's cache; None if it is not known."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if Path(path).is_dir():
        return Path(path)
    cache = Path(HF_HUB_CACHE) / f"models--{path.replace('/', '--')}"
    ref = cache / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision or ""
    return (
        cache / "snapshots" / commit if commit and (cache / "snapshots" / commit).is_dir() else None
    )


def _commit(name: str, revision: str | None) -> str:
    """A hub id with the commit that the local cache has for it (looking for its card has asked the
    hub); other text as it is.
    """
    found = folder_of(name, revision)
    if found and (wrong := snapshot_damages(found, KNOWN)):
        raise UserError(f"{wrong[0]}; remove {found} with its blobs, and fetch the model again")
    return f"{name}@{found.name}" if found else str(public(name))


def differences(theirs: Any, ours: Any, key: str = "") -> list[str]:
    """`scorer.max_length was 512, is 256` for everything in which two identities differ."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        names = dict.fromkeys([*theirs, *ours])
        return [
            d
            for n in names
            for d in differences(theirs.get(n), ours.get(n), f"{key}.{n}" if key else n)
        ]
    return [] if theirs == ours else [f"{key} was {_said(theirs)}, is {_said(ours)}"]


def _said(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
