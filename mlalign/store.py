"""The store: finished and unfinished artifacts by fingerprint, and their manifests.

An artifact is `STORE/STAGE-FINGERPRINT/`. Work happens in `….partial/` under a claim (`claims`); the manifest is written last,
then the directory is renamed. So a directory with a `manifest.json` is complete, and nothing else is.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from mlalign import claims
from mlalign.errors import UserError

SCHEMA_VERSION = 1
# Not part of an artifact's content: they differ between two equal computations.
NOT_CONTENT = ("manifest.json", "config.yaml", "progress.json", "logs", "shards", "claims", "checkpoints", "parts", "STOP", "outcome.json")


def fingerprint(identity: dict) -> str:
    """SHA-256 (64 hex digits) of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


class Tally:
    """Counts that a stage keeps: rows kept, rows dropped by reason, and other sums, each by language. Tallies add up."""

    def __init__(self, values: dict | None = None):
        values = values or {}
        self.rows: Counter[str] = Counter(values.get("rows", {}))
        self.dropped = {reason: Counter(by) for reason, by in values.get("dropped", {}).items()}
        self.sums: dict[str, Counter[str]] = {name: Counter(by) for name, by in values.get("sums", {}).items()}

    def keep(self, language: str, n: int = 1) -> None:
        self.rows[language] += n

    def drop(self, reason: str, language: str, n: int = 1) -> None:
        self.dropped.setdefault(reason, Counter())[language] += n

    def add(self, name: str, language: str, n: float = 1) -> None:
        self.sums.setdefault(name, Counter())[language] += n  # type: ignore[assignment]  # a sum may be fractional

    def merge(self, other: "Tally") -> None:
        self.rows.update(other.rows)
        for mine, theirs in ((self.dropped, other.dropped), (self.sums, other.sums)):
            for name, by in theirs.items():
                mine.setdefault(name, Counter()).update(by)

    def to_dict(self) -> dict:
        return {
            "rows": dict(sorted(self.rows.items())),
            "dropped": {r: dict(sorted(by.items())) for r, by in sorted(self.dropped.items())},
            "sums": {n: dict(sorted(by.items())) for n, by in sorted(self.sums.items())},
        }


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished artifact: its directory, its manifest, and the step (and `foreach` binding) it was given under."""

    path: Path
    step: str = ""
    binding: dict = dataclasses.field(default_factory=dict)

    @property
    def manifest(self) -> dict:
        return read_json(self.path / "manifest.json")

    @property
    def skipped(self) -> bool:
        return self.manifest["status"] == "skipped"


def read_json(path: Path) -> dict:
    """A JSON file as a dictionary; a UserError naming the file if it is unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({error}); remove it, or compute the step that wrote it again with force=STEP"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: readers see the old file or the new one. The temporary name is this process's own."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


class Store:
    """A directory of artifacts shared by all runs under one root."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def path(self, stage: str, print_: str) -> Path:
        return self.root / f"{stage}-{print_[:16]}"

    def partial(self, stage: str, print_: str) -> Path:
        return self.root / f"{stage}-{print_[:16]}.partial"

    def done(self, stage: str, print_: str) -> bool:
        return (self.path(stage, print_) / "manifest.json").is_file()

    def retire(self, stage: str, print_: str) -> None:
        """Put a finished or unfinished artifact aside so that its step is computed again.

        Raises: UserError if a process is working on it.
        """
        claims.refuse_owned(self.partial(stage, print_))
        for path in (self.path(stage, print_), self.partial(stage, print_)):
            put_aside(path)

    def shard_cache(self, key: str) -> Path:
        """Where a finished shard with this key is kept for other artifacts to link to (`gc` drops what nothing links)."""
        return self.root / ".shards" / key[:2] / key


def put_aside(path: Path) -> None:
    """Rename a directory to `….replaced`, in the place of an earlier one."""
    aside = path.with_name(path.name + ".replaced")
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


# ------------------------------------------------------------------------------------------------------------- manifests


def content_files(path: Path) -> list[Path]:
    """The files that make up an artifact's content, in a fixed order."""
    files = (p for p in path.rglob("*") if p.is_file() and not p.name.endswith(".tmp"))
    return sorted(p for p in files if p.relative_to(path).parts[0] not in NOT_CONTENT)


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def finish(partial: Path, manifest: dict) -> Path:
    """Describe the files, write the manifest and rename `X.partial` to `X`; returns the artifact's path.

    `manifest` brings everything but `files`, `content_digest` and `schema_version`.
    """
    files = {str(p.relative_to(partial)): {"size": p.stat().st_size, "sha256": sha256(p)} for p in content_files(partial)}
    digest = fingerprint({name: f["sha256"] for name, f in files.items()})
    write_json(partial / "manifest.json", {"schema_version": SCHEMA_VERSION, **manifest, "content_digest": digest, "files": files})
    final = partial.with_name(partial.name.removesuffix(".partial"))
    if not (final / "manifest.json").is_file():
        put_aside(final)  # a directory without manifest is nobody's artifact
    partial.rename(final)
    return final


def damage(path: Path, manifest: dict) -> str | None:
    """What is wrong with a finished artifact's files (the first thing found), or None. Rehashes only files touched later."""
    for name, told in manifest["files"].items():
        file = path / name
        if not file.is_file():
            return f"{file} is missing"
        stat = file.stat()
        if stat.st_size != told["size"]:
            return f"{file} has {stat.st_size} bytes, {told['size']} when it was written"
        if stat.st_mtime > manifest["finished"] + 1 and sha256(file) != told["sha256"]:
            return f"{file} was changed after it was written"
    return None
