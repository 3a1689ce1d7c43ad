"""What identifies an external input: the digest of local files, or a hub id with its commit."""

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

UNKNOWN = "unknown"  # in the place of a commit that cannot be looked up
COMMIT = re.compile(r"[0-9a-f]{40}")


class UnknownCommit(UserError):
    """A hub id whose commit the cache does not know, while the hub cannot be asked."""


def looks_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or is_there(Path(path))


def is_there(path: Path) -> bool:
    """Whether there is such a file or directory; false for a name too long for any disk."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def of_external(value: Mapping, digests: Digests, key: str, above: tuple[Path, ...] = ()) -> dict:
    """An external input (`{path, revision}`) with absolute path and `identity`.

    `above`: the adapters whose base this input is.
    Raises: UserError if a local path does not exist, or no commit is known for a hub id.
    """
    name = str(value["path"])
    if not looks_local(name):
        return {**value, "identity": hub_commit(name, value.get("revision"), key)}

    path = Path(name).expanduser().absolute()
    if not is_there(path):
        raise UserError(f"{key}: there is no file or directory {path}")
    if (path / MANIFEST).is_file():
        identity = read_manifest(path)["content_digest"]
        return {**value, "path": str(path.resolve()), "identity": identity}
    if (path / "adapter_config.json").is_file():
        base_identity = _of_base(path, digests, key, above)
        return {**value, "path": str(path), "identity": [digests.path(path), base_identity]}
    return {**value, "path": str(path), "identity": digests.path(path)}


def _of_base(adapter: Path, digests: Digests, key: str, above: tuple[Path, ...]) -> str:
    """The identity of the base that an adapter names."""
    if adapter.resolve() in above:
        raise UserError(
            f"{key}: {adapter} names itself as its base; put the base model's path into its"
            " adapter_config.json"
        )
    base = {"path": str(weight_files.base_of(str(adapter)))}
    base_key = f"{key} (the base of {adapter.name})"
    return of_external(base, digests, base_key, (*above, adapter.resolve()))["identity"]


# kind of slot -> the kinds of artifact that it takes; any for the others
ARTIFACT_KINDS = {"rows": ("rows", "scores"), "model": ("model",), "scorer": ("model",)}


def check_kind(path: Path, kind: str, key: str) -> list[str]:
    """Why a local path does not fit a slot of this kind (`rows`, `model`, `scorer`, `any`)."""
    if (path / MANIFEST).is_file():
        artifact_kind = read_manifest(path)["kind"]
        wanted = ARTIFACT_KINDS.get(kind)
        if wanted is None or artifact_kind in wanted:
            return []
        return [f"{key}: {path} holds {artifact_kind}, but this needs {' or '.join(wanted)}"]
    if kind == "rows":
        return _check_rows(path, key)
    if kind in ("model", "scorer"):
        return _check_model(path, key)
    return []


def _check_rows(path: Path, key: str) -> list[str]:
    if (path / "rows").is_dir():
        return []
    return [
        f"{key}: {path} is no rows artifact (no folder rows/);"
        " bring files in with `mlalign prepare`"
    ]


def _check_model(path: Path, key: str) -> list[str]:
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        return [f"{key}: {path} is no model directory (no config.json, no adapter_config.json)"]
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        return [
            f"{key}: {path} has no tokenizer (tokenizer.json);"
            " save one there with AutoTokenizer's save_pretrained"
        ]
    return []


def hub_commit(repository: str, revision: str | None, key: str) -> str:
    """`REPOSITORY@COMMIT`: the commit of a revision by the local cache, or else by the hub.

    Raises: UnknownCommit if the cache does not know it and the hub cannot be asked; UserError if
        the hub has no such thing.
    """
    if revision and COMMIT.fullmatch(revision):
        return f"{repository}@{revision}"
    cached = _cached(repository) / "refs" / (revision or "main")
    if cached.is_file():
        return f"{repository}@{cached.read_text().strip()}"
    return f"{repository}@{_ask_hub(repository, revision, key)}"


def hub_snapshot(identity: str) -> Path | None:
    """The folder of the local cache for `REPOSITORY@COMMIT`; None if it is not there."""
    match = ON_THE_HUB.fullmatch(identity)
    assert match
    repository, commit = match.groups()
    folder = _cached(repository) / "snapshots" / commit
    return folder if folder.is_dir() else None


def snapshot_damages(folder: Path, digests: Digests) -> list[str]:
    """A message for each file of a snapshot whose content was changed.

    The cache names files by their SHA-256, and small ones by git's SHA-1.
    """
    names = {path: path.resolve().name for path in tree(folder).values()}
    large = digests.files(path for path, name in names.items() if HEX.fullmatch(name))
    damaged = [path for path, digest in large.items() if digest != names[path]]
    for path, name in names.items():
        if COMMIT.fullmatch(name) and _git_blob(path.read_bytes()) != name:
            damaged.append(path)
    return [f"{path} was changed after it was fetched" for path in damaged]


def _git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def _cached(repository: str) -> Path:
    """The folder of a repository in the local cache."""
    return hub_cache() / f"models--{repository.replace('/', '--')}"


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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = (
            f"{key}: {repository!r} is no directory here, not in the hub cache, and the hub does"
            f" not give it ({reason}); plan or `mlalign fetch` where there is network, name a local"
            " directory, or pin its commit with model.revision="
        )
        response = getattr(error, "response", None)
        if response is not None and response.status_code < 500:  # the hub answered and refused
            raise UserError(message) from None
        raise UnknownCommit(message) from None
