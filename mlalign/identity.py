"""What identifies something that mlalign did not make: the digest of local files, or a hub id with its commit."""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from mlalign.engine.chat import TOKENIZER_FILES
from mlalign.errors import UserError
from mlalign.store import fingerprint, read_json, sha256, write_json

UNKNOWN = "unknown"  # stands for the commit where nobody can be asked for it
COMMIT = re.compile(r"[0-9a-f]{40}")


class UnknownCommit(UserError):
    """A hub id whose commit the cache does not know, while the hub cannot be asked."""


class Digests:
    """SHA-256 of files, remembered by (path, size, mtime) in `STORE/.digests.json`: a 16 GB model is hashed once."""

    def __init__(self, store_root: Path):
        self._file = store_root / ".digests.json"
        self._known = read_json(self._file) if self._file.is_file() else {}
        self._changed = False

    def file(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = sha256(path)
            self._changed = True
        return self._known[key]

    def path(self, path: Path) -> str:
        """The digest of a file, or of all files below a directory with their relative names (hidden ones left out)."""
        if path.is_file():
            return self.file(path)
        files = sorted(p for p in path.rglob("*") if p.is_file() and not any(x.startswith(".") for x in p.relative_to(path).parts))
        return fingerprint({str(p.relative_to(path)): self.file(p) for p in files})

    def save(self) -> None:
        """Remember what was hashed, where that can be written: a plan needs no disk."""
        if self._changed:
            with contextlib.suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._file, self._known)


def looks_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or Path(path).exists()


def of_external(value: Mapping, digests: Digests, key: str) -> dict:
    """An external input (`{path, revision}`) with absolute path and `identity`.

    Raises: UserError if a local path does not exist, or no commit is known for a hub id.
    """
    given = str(value["path"])
    if not looks_local(given):
        return {**value, "identity": hub_commit(given, value.get("revision"), key)}
    path = Path(given).expanduser().absolute()
    if not path.exists():
        raise UserError(f"{key}: there is no file or directory {path}")
    if (path / "manifest.json").is_file():
        return {**value, "path": str(path.resolve()), "identity": read_json(path / "manifest.json")["content_digest"]}
    if (path / "adapter_config.json").is_file():
        return {**value, "path": str(path), "identity": [digests.path(path), _of_base(path, digests, key)]}
    return {**value, "path": str(path), "identity": digests.path(path)}


def _of_base(adapter: Path, digests: Digests, key: str) -> str:
    """The identity of the base that an adapter names."""
    named = read_json(adapter / "adapter_config.json").get("base_model_name_or_path") or ""
    beside = adapter / named
    return of_external({"path": str(beside if beside.is_dir() else named)}, digests, f"{key} (the base of {adapter.name})")["identity"]


def check_kind(path: Path, kind: str, key: str) -> list[str]:
    """What keeps a local path from standing in a slot of this kind (`rows`, `model`, `scorer`, `any`), as messages."""
    manifest = path / "manifest.json"
    if manifest.is_file():
        made, wanted = read_json(manifest)["kind"], {"rows": ("rows", "scores"), "model": ("model",), "scorer": ("model",)}.get(kind)
        return [f"{key}: {path} holds {made}, but this needs {' or '.join(wanted)}"] if wanted and made not in wanted else []
    if kind == "rows":
        return (
            []
            if (path / "rows").is_dir()
            else [f"{key}: {path} is no rows artifact (no folder rows/); bring files in with `mlalign prepare`"]
        )
    return _check_model(path, key) if kind in ("model", "scorer") else []


def _check_model(path: Path, key: str) -> list[str]:
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        return [f"{key}: {path} is no model directory (no config.json, no adapter_config.json)"]
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        return [f"{key}: {path} has no tokenizer (tokenizer.json); save one there with AutoTokenizer's save_pretrained"]
    return []


def hub_commit(repository: str, revision: str | None, key: str) -> str:
    """The commit a hub id stands for: the revision if it is one, what the local cache holds, or what the hub says.

    Raises: UnknownCommit if the hub cannot be asked and the cache does not know; UserError if the hub has no such thing.
    """
    if revision and COMMIT.fullmatch(revision):
        return f"{repository}@{revision}"
    cached = hub_cache() / f"models--{repository.replace('/', '--')}" / "refs" / (revision or "main")
    if cached.is_file():
        return f"{repository}@{cached.read_text().strip()}"
    return f"{repository}@{_ask_hub(repository, revision, key)}"


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
        raise UserError(f"{key}: {repository!r} is neither a directory here nor a hub id (org/name)") from None
    except (OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        response = getattr(error, "response", None)
        refused = response is not None and response.status_code < 500  # it was asked, and has no such thing for us
        raise (UserError if refused else UnknownCommit)(
            f"{key}: {repository!r} is no directory here, not in the hub cache, and the hub does not give it ({reason}); "
            f"plan or `mlalign fetch` where there is network, name a local directory, or pin its commit with model.revision="
        ) from None
