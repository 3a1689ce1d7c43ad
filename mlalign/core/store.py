"""The store: finished and unfinished artifacts by fingerprint, and their manifests.

An artifact is `STORE/STAGE-FINGERPRINT/`. Work happens in `….partial/` under a claim (`claims`);
the manifest is written last, then the directory is renamed. So a directory with a `manifest.json`
is complete, and nothing else is.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mlalign.core import claims, digests, shapes
from mlalign.core.digests import HEX
from mlalign.core.errors import UserError

sha256 = digests.sha256
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
# Not part of an artifact's content: they differ between two equal computations.
NOT_CONTENT = (
    "manifest.json",
    "config.yaml",
    "progress.json",
    "logs",
    "shards",
    "claims",
    "checkpoints",
    "parts",
    "STOP",
    "outcome.json",
)


def fingerprint(identity: dict) -> str:
    """SHA-256 (64 hex digits) of a JSON-able value, independent of key order."""
    return hashlib.sha256(
        json.dumps(identity, sort_keys=True, ensure_ascii=False, default=str).encode()
    ).hexdigest()


class Tally:
    """Counts that a stage keeps: rows kept, rows dropped by reason, and other sums, each by
    language. Tallies add up.
    """

    def __init__(self, values: dict | None = None):
        values = values or {}
        self.rows: Counter[str] = Counter(values.get("rows", {}))
        self.dropped = {reason: Counter(by) for reason, by in values.get("dropped", {}).items()}
        self.sums: dict[str, Counter[str]] = {
            name: Counter(by) for name, by in values.get("sums", {}).items()
        }

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


def is_tally(told: Mapping) -> bool:
    """Whether a value that was read from a file can be a Tally."""
    named = [told.get(name, {}) for name in ("dropped", "sums")]
    groups = all(isinstance(n, dict) and all(_are_counts(by) for by in n.values()) for n in named)
    return groups and _are_counts(told.get("rows", {}))


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished artifact: its directory, its manifest, and the step (and `foreach` binding) it was
    given under.
    """

    path: Path
    step: str = ""
    binding: dict = dataclasses.field(default_factory=dict)

    @property
    def manifest(self) -> dict:
        return read_manifest(self.path)

    @property
    def skipped(self) -> bool:
        return self.manifest["status"] == "skipped"


def read_json(path: Path, fields: shapes.Fields | None = None) -> dict:
    """A JSON file as a dictionary; a UserError naming the file if it is unreadable, or lacks one of
    `fields`.
    """
    mend = "remove it, or compute the step that wrote it again with force=STEP"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); {mend}") from None
    if fields is not None:
        shapes.check(value, fields, path, mend)
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: readers see the old file or the new one.

    The temporary name is this process's own.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_text(
        json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    temporary.replace(path)


class Store:
    """A directory of artifacts shared by all runs under one root."""

    def __init__(self, root: Path):
        self.root = Path(root)

    @property
    def digests(self) -> digests.Digests:
        """Digests of files that this process, and others on this store, have hashed."""
        return digests.of_store(self.root)

    def path(self, stage: str, print_: str) -> Path:
        return self.root / f"{stage}-{print_[:16]}"

    def partial(self, stage: str, print_: str) -> Path:
        return self.root / f"{stage}-{print_[:16]}.partial"

    def done(self, stage: str, print_: str) -> bool:
        return (self.path(stage, print_) / MANIFEST).is_file()

    def retire(self, stage: str, print_: str) -> None:
        """Put a finished or unfinished artifact aside so that its step is computed again.

        Raises: UserError if a process is working on it.
        """
        claims.refuse_owned(self.partial(stage, print_))
        for path in (self.path(stage, print_), self.partial(stage, print_)):
            put_aside(path)

    def shard_cache(self, key: str) -> Path:
        """Where a finished shard with this key is kept for other artifacts to link to (`gc` drops
        what nothing links).
        """
        return self.root / ".shards" / key[:2] / key


def put_aside(path: Path) -> None:
    """Rename a directory to `….replaced`, in the place of an earlier one."""
    aside = path.with_name(path.name + ".replaced")
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


# ---------------------------------------------------------------------------------------- manifests


def content_files(path: Path) -> list[Path]:
    """The files that make up an artifact's content, in a fixed order."""
    files = (p for p in path.rglob("*") if p.is_file() and not p.name.endswith(".tmp"))
    return sorted(p for p in files if p.relative_to(path).parts[0] not in NOT_CONTENT)


def finish(
    partial: Path,
    manifest: dict,
    expected: Mapping[str, str] | None = None,
    closed: Collection[str] = (),
) -> Path:
    """Describe the files, write the manifest and rename `X.partial` to `X`; returns the artifact's
    path.

    `manifest` brings everything but `files`, `content_digest` and `schema_version`. `expected` has
    the digests of files that were recorded when they were made (name -> SHA-256); in the folders
    `closed` nothing else counts as content.
    Raises: UserError for one of those that has other content by now.
    """
    known, expected = digests.of_store(partial.parent), expected or {}
    found = {str(p.relative_to(partial)): p for p in content_files(partial)}
    found = {
        name: p
        for name, p in found.items()
        if name in expected or PurePosixPath(name).parts[0] not in closed
    }
    hashed = known.files(found.values())
    files = {name: {"size": p.stat().st_size, "sha256": hashed[p]} for name, p in found.items()}
    if wrong := [
        name
        for name, digest in expected.items()
        if name not in files or files[name]["sha256"] != digest
    ]:
        raise UserError(
            f"{partial / wrong[0]}: is not what was written there; run the same command again,"
            " which computes it anew"
        )
    digest = content_digest(files)
    write_json(
        partial / MANIFEST,
        {"schema_version": SCHEMA_VERSION, **manifest, "content_digest": digest, "files": files},
    )
    final = partial.with_name(partial.name.removesuffix(".partial"))
    if not (final / MANIFEST).is_file():
        put_aside(final)  # a directory without manifest is nobody's artifact
    partial.rename(final)
    known.moved(partial, final)
    known.save()
    return final


def content_digest(files: Mapping[str, Mapping]) -> str:
    """The digest of an artifact's content from the `files` of its manifest."""
    return fingerprint({name: told["sha256"] for name, told in files.items()})


def read_manifest(artifact: Path) -> dict:
    """The manifest of an artifact, of the shape that `finish` gives it.

    Raises: UserError naming the file and what is wrong with it.
    """
    path = artifact / MANIFEST
    manifest = read_json(path)
    if problem := _malformed(manifest):
        raise UserError(
            f"{path}: is no manifest of an artifact ({problem}); compute the step that wrote it"
            " again with force=STEP, or, if it is not mlalign's, give the file another name"
        )
    return manifest


def _malformed(manifest: Any) -> str | None:
    """What keeps a value from being a manifest."""
    if wrong := shapes.problem(manifest, shapes.MANIFEST):
        return wrong
    slots = [
        v
        for value in manifest["inputs"].values()
        for v in (value if isinstance(value, list) else [value])
    ]
    good = {
        "dropped": all(_are_counts(by) for by in manifest["dropped"].values()),
        "inputs": all(isinstance(value, dict) for value in slots),
        "files": all(_is_file_entry(name, entry) for name, entry in manifest["files"].items()),
    }
    wrong = next((key for key, is_good in good.items() if not is_good), None)
    return wrong and f"{wrong!r} is not what belongs there, but {json.dumps(manifest[wrong])[:80]}"


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(n, int | float) for n in value.values())


def _is_file_entry(name: str, entry: Any) -> bool:
    """`{size, sha256}` under a name that stays within the artifact."""
    inside = bool(name) and not name.startswith("/") and ".." not in PurePosixPath(name).parts
    return (
        inside
        and isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and bool(HEX.fullmatch(str(entry.get("sha256"))))
    )


def listed(artifact: Path) -> dict[str, dict] | None:
    """Name -> {size, sha256} of the files of a finished artifact; None for a folder without a
    manifest.
    """
    seen = digests.signature(artifact / MANIFEST)
    return _listed(artifact, seen) if seen else None


@functools.lru_cache(64)
def _listed(artifact: Path, _signature: str) -> dict[str, dict]:
    files: dict[str, dict] = read_manifest(artifact)["files"]
    return files


def has(artifact: Path, name: str) -> bool:
    """Whether an artifact has a file: one that lies there, and that its manifest lists if it has
    one.
    """
    files = listed(artifact)
    return (files is None or name in files) and (artifact / name).is_file()


def damages(path: Path, manifest: Mapping, digest: Callable[[Path], str]) -> Iterator[str]:
    """What is wrong with a finished artifact's files, by their digests."""
    if content_digest(manifest["files"]) != manifest["content_digest"]:
        yield f"{path / MANIFEST} was changed: its content_digest is not that of its files"
    for name, told in manifest["files"].items():
        file = path / name
        if not file.is_file():
            yield f"{file} is missing"
        elif (size := file.stat().st_size) != told["size"]:
            yield f"{file} has {size} bytes, {told['size']} when it was written"
        elif digest(file) != told["sha256"]:
            yield f"{file} was changed after it was written"


def damage(path: Path, manifest: Mapping, known: digests.Digests) -> str | None:
    """The first thing that is wrong with a finished artifact's files, or None; hashes what was
    touched since it was hashed last.
    """
    known.files(path / name for name in manifest["files"] if (path / name).is_file())
    return next(damages(path, manifest, known.file), None)


def strays(path: Path, manifest: Mapping) -> list[Path]:
    """Files in the place of an artifact's content that its manifest does not list; hidden ones are
    nobody's input.
    """
    found = {str(p.relative_to(path)): p for p in content_files(path)}
    return [
        p
        for name, p in found.items()
        if name not in manifest["files"] and not any(x.startswith(".") for x in Path(name).parts)
    ]
