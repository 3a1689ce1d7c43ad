"""What a run of scoring is: everything that its scores depend on besides the rows, no secrets.

Models count by the content of their files, wherever they lie; hub ids by their commit.
"""

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
from mlalign.core.store import fingerprint
from reward_models.families import function
from reward_models.settings import NOT_CONTENT

SECRET = re.compile(r"(^|_)(key|token|secret|password)$")
KNOWN = Digests()  # what this process has hashed
MODEL_KEYS = ("path", "base", "model", "reference")


def digest(value: Any) -> str:
    """16 hex digits of a JSON-able value, independent of key order."""
    return fingerprint(value)[:16]


class Identity:
    """What a run of scoring is, and whether its models and other files were changed since.

    `settings` describe the scorer; `options` are the other settings that scores depend on.
    """

    def __init__(self, settings: Mapping, **options: Any):
        self._scorer = settings
        with KNOWN.recording() as self._files:
            self.value: dict[str, Any] = of_run(settings, **options)
        self._watch = Watch(KNOWN, self._files)

    def pinned(self) -> dict:
        """The scorer's settings, with the commits of models on the hub that the identity names."""
        settings = dict(self._scorer)
        for key, name in (("path", "revision"), ("reference", "reference_revision")):
            commit = commit_of(self.value["scorer"].get(key))
            if commit:
                settings[name] = commit
        return settings

    def still(self) -> None:
        """Look at the files again, and hash those that were touched.

        Raises: UserError naming one that was changed.
        """
        if self._watch.untouched():
            return
        with KNOWN.recording() as files:
            scorer = _settings(self._scorer)
        if scorer != self.value["scorer"]:
            names = dict.fromkeys([*self._files, *files])
            changed = [name for name in names if self._files.get(name) != files.get(name)]
            file = next(iter(changed), self._scorer.get("path"))
            raise UserError(
                f"{file}: was changed while it was in use; what was scored since is not kept. Put"
                " it back and run the same command again, or score with what is there now to"
                " another --output"
            )
        self._watch = Watch(KNOWN, files)


def of_run(settings: Mapping, **options: Any) -> dict[str, Any]:
    """The identity of scoring with a scorer of these settings and `options` (see `Identity`)."""
    return {"scorer": _settings(settings), **options, "mlalign": mlalign.__version__}


def _settings(value: Any, name: str = "", revision: str | None = None) -> Any:
    """The settings that scores depend on, without secrets; models and other files by content."""
    if isinstance(value, Mapping):
        content = {}
        for key, own in value.items():
            if key not in NOT_CONTENT and not SECRET.search(str(key)):
                content[key] = _settings(own, key, value.get("revision"))
        return content | function.source(value)
    if isinstance(value, list | tuple):
        return [_settings(own, name) for own in value]
    if not isinstance(value, str):
        return value
    is_file = (os.sep in value or Path(value).suffix) and os.path.exists(value)
    if name in MODEL_KEYS or is_file:
        return of_path(value, revision)
    return public(value)


def public(value: Any) -> Any:
    """A value without what nobody else should read."""
    if isinstance(value, Mapping):
        return {key: public(own) for key, own in value.items() if not SECRET.search(str(key))}
    if isinstance(value, list | tuple):
        return [public(own) for own in value]
    return secrecy.bare(value) if isinstance(value, str) else value


def of_path(path: str, revision: str | None = None) -> Any:
    """What identifies a model or file.

    The content of a file or model directory (an adapter's with its base's), the commit of a hub id,
    or the text itself.

    Raises: UserError for files of the hub's cache that are not what was fetched.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return {"sha256": KNOWN.file(place)[:16]}
    if not place.is_dir():
        return _commit(path, revision)
    files = tree(place)
    digests = KNOWN.files(files.values())
    content = {"content": digest({name: digests[file] for name, file in files.items()})}
    base = local_model(place, "").base
    return {**content, "base": of_path(base.path)} if base else content


def folder_of(path: str, revision: str | None = None) -> Path | None:
    """The directory that a model lies in: its own, or the hub's cache; None if it is not known."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if Path(path).is_dir():
        return Path(path)
    cache = Path(HF_HUB_CACHE) / f"models--{path.replace('/', '--')}"
    ref = cache / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    if commit and (cache / "snapshots" / commit).is_dir():
        return cache / "snapshots" / commit
    return None


def _commit(name: str, revision: str | None) -> str:
    """A hub id with the commit that the local cache has for it; other text as it is.

    The hub was asked already, for the model's card.
    """
    snapshot = folder_of(name, revision)
    if not snapshot:
        return str(public(name))
    damages = snapshot_damages(snapshot, KNOWN)
    if damages:
        mend = f"remove {snapshot} with its blobs, and fetch the model again"
        raise UserError(f"{damages[0]}; {mend}")
    return f"{name}@{snapshot.name}"


def differences(theirs: Any, ours: Any, key: str = "") -> list[str]:
    """`scorer.max_length was 512, is 256` for everything in which two identities differ."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        changes = []
        for name in dict.fromkeys([*theirs, *ours]):
            full_name = f"{key}.{name}" if key else name
            changes += differences(theirs.get(name), ours.get(name), full_name)
        return changes
    return [] if theirs == ours else [f"{key} was {_shown(theirs)}, is {_shown(ours)}"]


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
