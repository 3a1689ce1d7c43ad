"""What identifies something that mlalign did not make: the digest of local files, or a hub id with
its commit.
"""

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from mlalign.core import weight_files
from mlalign.core.digests import HEX, Digests, tree
from mlalign.core.errors import UserError
from mlalign.core.model import ON_THE_HUB
from mlalign.core.store import MANIFEST, read_manifest
from mlalign.core.weight_files import TOKENIZER_FILES

UNKNOWN = "unknown"  # stands for the commit where nobody can be asked for it
COMMIT = re.compile(r"[0-9a-f]{40}")


class UnknownCommit(UserError):
    """A hub id whose commit the cache does not know, while the hub cannot be asked."""


def looks_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or is_there(Path(path))


def is_there(path: Path) -> bool:
    """Whether there is such a file or directory; a name that no disk can hold is none."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def of_external(value: Mapping, digests: Digests, key: str, above: tuple[Path, ...] = ()) -> dict:
    """An external input (`{path, revision}`) with absolute path and `identity`; `above` are the
    adapters that stand on it.

    Raises: UserError if a local path does not exist, or no commit is known for a hub id.
    """
    given = str(value["path"])
    if not looks_local(given):
        return {**value, "identity": hub_commit(given, value.get("revision"), key)}
    path = Path(given).expanduser().absolute()
    if not is_there(path):
        raise UserError(f"{key}: there is no file or directory {path}")
    if (path / MANIFEST).is_file():
        return {
            **value,
            "path": str(path.resolve()),
            "identity": read_manifest(path)["content_digest"],
        }
    if (path / "adapter_config.json").is_file():
        return {
            **value,
            "path": str(path),
            "identity": [digests.path(path), _of_base(path, digests, key, above)],
        }
    return {**value, "path": str(path), "identity": digests.path(path)}


def _of_base(adapter: Path, digests: Digests, key: str, above: tuple[Path, ...]) -> str:
    """The identity of the base that an adapter names."""
    if adapter.resolve() in above:
        raise UserError(
            f"{key}: {adapter} names itself as its base; put the base model's path into its"
            " adapter_config.json"
        )
    base, key = weight_files.base_of(str(adapter)), f"{key} (the base of {adapter.name})"
    return of_external({"path": str(base)}, digests, key, (*above, adapter.resolve()))["identity"]


def check_kind(path: Path, kind: str, key: str) -> list[str]:
    """What keeps a local path from standing in a slot of this kind (`rows`, `model`, `scorer`,
    `any`), as messages.
    """
    if (path / MANIFEST).is_file():
        made, wanted = (
            read_manifest(path)["kind"],
            {"rows": ("rows", "scores"), "model": ("model",), "scorer": ("model",)}.get(kind),
        )
        return (
            [f"{key}: {path} holds {made}, but this needs {' or '.join(wanted)}"]
            if wanted and made not in wanted
            else []
        )
    if kind == "rows":
        return (
            []
            if (path / "rows").is_dir()
            else [
                f"{key}: {path} is no rows artifact (no folder rows/); bring files in with `mlalign"
                " prepare`"
            ]
        )
    return _check_model(path, key) if kind in ("model", "scorer") else []


def _check_model(path: Path, key: str) -> list[str]:
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        return [f"{key}: {path} is no model directory (no config.json, no adapter_config.json)"]
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        return [
            f"{key}: {path} has no tokenizer (tokenizer.json); save one there with AutoTokenizer's"
            " save_pretrained"
        ]
    return []


def hub_commit(repository: str, revision: str | None, key: str) -> str:
    """The commit a hub id stands for: the revision if it is one, what the local cache holds, or
    what the hub says.

    Raises: UnknownCommit if the hub cannot be asked and the cache does not know; UserError if the
        hub has no such thing.
    """
    if revision and COMMIT.fullmatch(revision):
        return f"{repository}@{revision}"
    cached = (
        hub_cache() / f"models--{repository.replace('/', '--')}" / "refs" / (revision or "main")
    )
    if cached.is_file():
        return f"{repository}@{cached.read_text().strip()}"
    return f"{repository}@{_ask_hub(repository, revision, key)}"


def hub_snapshot(identity: str) -> Path | None:
    """The folder of the local cache for `REPOSITORY@COMMIT`; None if it is not there."""
    match = ON_THE_HUB.fullmatch(identity)
    assert match
    folder = hub_cache() / f"models--{match[1].replace('/', '--')}" / "snapshots" / match[2]
    return folder if folder.is_dir() else None


def snapshot_damages(folder: Path, digests: Digests) -> list[str]:
    """Files of a snapshot whose content is not that of their names in the cache, which are SHA-256,
    or git's SHA-1 of small ones.
    """
    files = {p: p.resolve().name for p in tree(folder).values()}
    large = digests.files(p for p, name in files.items() if HEX.fullmatch(name))
    wrong = [p for p, digest in large.items() if digest != files[p]]
    wrong += [
        p
        for p, name in files.items()
        if COMMIT.fullmatch(name) and _git_blob(p.read_bytes()) != name
    ]
    return [f"{p} was changed after it was fetched" for p in wrong]


def _git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def _ask_hub(repository: str, revision: str | None, key: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    try:
        return str(HfApi().model_info(repository, revision=revision, timeout=10).sha)
    except HFValidationError:
        raise UserError(
            f"{key}: {repository!r} is neither a directory here nor a hub id (org/name)"
        ) from None
    except (OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        response = getattr(error, "response", None)
        refused = (
            response is not None and response.status_code < 500
        )  # it was asked, and has no such thing for us
        raise (UserError if refused else UnknownCommit)(
            f"{key}: {repository!r} is no directory here, not in the hub cache, and the hub does"
            f" not give it ({reason}); plan or `mlalign fetch` where there is network, name a local"
            " directory, or pin its commit with model.revision="
        ) from None
