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
# What is no content of an artifact: it differs between two equal computations.
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
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Tally:
    """Counts by language: rows kept, rows dropped by reason, and other sums. Tallies add up."""

    def __init__(self, values: dict | None = None):
        values = values or {}
        self.rows: Counter[str] = Counter(values.get("rows", {}))
        self.dropped = _counters(values.get("dropped", {}))
        self.sums = _counters(values.get("sums", {}))

    def keep(self, language: str, n: int = 1) -> None:
        self.rows[language] += n

    def drop(self, reason: str, language: str, n: int = 1) -> None:
        self.dropped.setdefault(reason, Counter())[language] += n

    def add(self, name: str, language: str, n: float = 1) -> None:
        # A sum may be fractional, which Counter's types do not allow.
        self.sums.setdefault(name, Counter())[language] += n  # type: ignore[assignment]

    def merge(self, other: "Tally") -> None:
        self.rows.update(other.rows)
        for reason, counts in other.dropped.items():
            self.dropped.setdefault(reason, Counter()).update(counts)
        for name, sums in other.sums.items():
            self.sums.setdefault(name, Counter()).update(sums)

    def to_dict(self) -> dict:
        return {
            "rows": dict(sorted(self.rows.items())),
            "dropped": _sorted(self.dropped),
            "sums": _sorted(self.sums),
        }


def _counters(values: Mapping[str, Mapping]) -> dict[str, Counter[str]]:
    return {name: Counter(by_language) for name, by_language in values.items()}


def _sorted(counters: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: dict(sorted(counter.items())) for name, counter in sorted(counters.items())}


def is_tally(value: Mapping) -> bool:
    """Whether a value that was read from a file can be a Tally."""
    for name in ("dropped", "sums"):
        counters = value.get(name, {})
        if not isinstance(counters, dict) or not all(map(_are_counts, counters.values())):
            return False
    return _are_counts(value.get("rows", {}))


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished artifact, with the step (and `foreach` binding) under which it is an input."""

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
    """A JSON file as a dictionary.

    Raises: UserError naming the file if it cannot be read, or does not have the shape of `fields`.
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
    """Write JSON atomically: readers see the old file or the new one."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_text(f"{text}\n", encoding="utf-8")
    temporary.replace(path)


class Store:
    """A directory of artifacts shared by all runs under one root."""

    def __init__(self, root: Path):
        self.root = Path(root)

    @property
    def digests(self) -> digests.Digests:
        """Digests of files that were hashed by any process that uses this store."""
        return digests.of_store(self.root)

    def path(self, stage: str, print_: str) -> Path:
        return self.root / f"{stage}-{print_[:16]}"

    def partial(self, stage: str, print_: str) -> Path:
        return self.root / f"{stage}-{print_[:16]}.partial"

    def done(self, stage: str, print_: str) -> bool:
        return (self.path(stage, print_) / MANIFEST).is_file()

    def retire(self, stage: str, print_: str) -> None:
        """Set a finished or unfinished artifact aside, so that its step is computed again.

        Raises: UserError if a process is working on it.
        """
        claims.refuse_owned(self.partial(stage, print_))
        for path in (self.path(stage, print_), self.partial(stage, print_)):
            put_aside(path)

    def shard_cache(self, key: str) -> Path:
        """Where a finished shard is kept for artifacts to link to; `gc` drops unlinked ones."""
        return self.root / ".shards" / key[:2] / key


def put_aside(path: Path) -> None:
    """Rename a directory to `….replaced`, replacing an earlier one."""
    aside = path.with_name(path.name + ".replaced")
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


# ---------------------------------------------------------------------------------------- manifests


def content_files(path: Path) -> list[Path]:
    """The files that make up an artifact's content, in a fixed order."""
    files = []
    for file in path.rglob("*"):
        top = file.relative_to(path).parts[0]
        if file.is_file() and not file.name.endswith(".tmp") and top not in NOT_CONTENT:
            files.append(file)
    return sorted(files)


def _content_by_name(path: Path) -> dict[str, Path]:
    return {str(file.relative_to(path)): file for file in content_files(path)}


def finish(
    partial: Path,
    manifest: dict,
    expected: Mapping[str, str] | None = None,
    closed: Collection[str] = (),
) -> Path:
    """Write the manifest and rename `X.partial` to `X`; returns the artifact's path.

    `manifest`: all of it but `files`, `content_digest` and `schema_version`.
    `expected`: name -> SHA-256 of files, as recorded when they were written. In the folders
    `closed`, no other files count as content.
    Raises: UserError if one of the expected files has changed or is missing.
    """
    known_digests = digests.of_store(partial.parent)
    expected = expected or {}
    paths = {}
    for name, path in _content_by_name(partial).items():
        if name in expected or PurePosixPath(name).parts[0] not in closed:
            paths[name] = path
    files = _described(paths, known_digests)
    _refuse_changed(partial, files, expected)

    content = {"content_digest": content_digest(files), "files": files}
    write_json(partial / MANIFEST, {"schema_version": SCHEMA_VERSION, **manifest, **content})
    final = partial.with_name(partial.name.removesuffix(".partial"))
    if not (final / MANIFEST).is_file():
        put_aside(final)  # a directory without a manifest is no artifact
    partial.rename(final)

    known_digests.moved(partial, final)
    known_digests.save()
    return final


def _described(paths: Mapping[str, Path], known_digests: digests.Digests) -> dict[str, dict]:
    """The `files` of a manifest: name -> {size, sha256}."""
    hashed = known_digests.files(paths.values())
    files = {}
    for name, path in paths.items():
        files[name] = {"size": path.stat().st_size, "sha256": hashed[path]}
    return files


def _refuse_changed(partial: Path, files: Mapping[str, dict], expected: Mapping[str, str]) -> None:
    for name, digest in expected.items():
        if name not in files or files[name]["sha256"] != digest:
            raise UserError(
                f"{partial / name}: is not what was written there;"
                " run the same command again, which computes it anew"
            )


def content_digest(files: Mapping[str, Mapping]) -> str:
    """The digest of an artifact's content, from the `files` of its manifest."""
    return fingerprint({name: file["sha256"] for name, file in files.items()})


def read_manifest(artifact: Path) -> dict:
    """The manifest of an artifact, in the shape that `finish` gives it.

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
    """Why a value is no manifest; None if it is one."""
    if problem := shapes.problem(manifest, shapes.MANIFEST):
        return problem
    checks = {
        "dropped": all(map(_are_counts, manifest["dropped"].values())),
        "inputs": all(map(_is_slot, manifest["inputs"].values())),
        "files": all(_is_file_entry(name, entry) for name, entry in manifest["files"].items()),
    }
    for key, is_valid in checks.items():
        if not is_valid:
            shown = json.dumps(manifest[key])[:80]
            return f"{key!r} is not what belongs there, but {shown}"
    return None


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(n, int | float) for n in value.values())


def _is_slot(value: Any) -> bool:
    """Whether a value can be a recorded input: a mapping, or a list of mappings."""
    if isinstance(value, list):
        return all(isinstance(item, dict) for item in value)
    return isinstance(value, dict)


def _is_file_entry(name: str, entry: Any) -> bool:
    """Whether an entry is `{size, sha256}`, and its name stays within the artifact."""
    if not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        return False
    if not isinstance(entry, dict) or not isinstance(entry.get("size"), int):
        return False
    return HEX.fullmatch(str(entry.get("sha256"))) is not None


def listed(artifact: Path) -> dict[str, dict] | None:
    """Name -> {size, sha256} of a finished artifact's files; None for a folder without manifest."""
    signature = digests.signature(artifact / MANIFEST)
    return _listed(artifact, signature) if signature else None


@functools.lru_cache(64)
def _listed(artifact: Path, _signature: str) -> dict[str, dict]:
    files: dict[str, dict] = read_manifest(artifact)["files"]
    return files


def has(artifact: Path, name: str) -> bool:
    """Whether an artifact has a file, and its manifest, if there is one, lists it."""
    files = listed(artifact)
    if files is not None and name not in files:
        return False
    return (artifact / name).is_file()


def damages(path: Path, manifest: Mapping, digest: Callable[[Path], str]) -> Iterator[str]:
    """What is wrong with a finished artifact's files, as messages."""
    if content_digest(manifest["files"]) != manifest["content_digest"]:
        yield f"{path / MANIFEST} was changed: its content_digest is not that of its files"
    for name, recorded in manifest["files"].items():
        file = path / name
        if not file.is_file():
            yield f"{file} is missing"
            continue
        size = file.stat().st_size
        if size != recorded["size"]:
            yield f"{file} has {size} bytes, {recorded['size']} when it was written"
        elif digest(file) != recorded["sha256"]:
            yield f"{file} was changed after it was written"


def damage(path: Path, manifest: Mapping, known: digests.Digests) -> str | None:
    """The first of `damages`, or None. Only files that changed since the last time are hashed."""
    known.files(path / name for name in manifest["files"] if (path / name).is_file())
    return next(damages(path, manifest, known.file), None)


def strays(path: Path, manifest: Mapping) -> list[Path]:
    """Files that would count as an artifact's content but are not in its manifest.

    Hidden files are left out, because no step reads them.
    """
    files = []
    for name, file in _content_by_name(path).items():
        is_hidden = any(part.startswith(".") for part in Path(name).parts)
        if name not in manifest["files"] and not is_hidden:
            files.append(file)
    return files
