"""What a step keeps of its unfinished work, and how that is checked before it is trusted.

A trainer's checkpoint counts once it holds `complete.json`, with the digests of its files; kept
values are JSON with a digest of their own. What does not match is left aside, and said.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlalign.core.digests import sha256, tree
from mlalign.core.errors import UserError
from mlalign.core.store import fingerprint, read_json, write_json
from mlalign.core.terminal import say

COMPLETE = "complete.json"


def write_value(path: Path, key: str, value: dict[str, Any]) -> None:
    """Keep a JSON-able value that was computed for `key`."""
    write_json(path, {"key": key, "sha256": fingerprint(value), "value": value})


def read_value(path: Path, key: str) -> dict[str, Any] | None:
    """The value that was kept for `key`, or None.

    If the file is not as it was written, that is said on stderr.
    """
    try:
        record = read_json(path)
    except UserError:
        record = {}

    intact = (
        isinstance(record, dict)
        and isinstance(record.get("value"), dict)
        and fingerprint(record["value"]) == record.get("sha256")
    )
    if not intact:
        say(f"{path}: is not what was written there; computed again", file=sys.stderr, flush=True)
        return None
    if record.get("key") != key:
        return None
    return record["value"]


def complete(checkpoint: Path, **about: Any) -> None:
    """Mark a checkpoint as complete, with the digests of its files."""
    write_json(checkpoint / COMPLETE, {**about, "files": _digests(checkpoint)})


def problem(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be trusted; None if it is complete and its files are unchanged."""
    if not (checkpoint / COMPLETE).is_file():
        return "was never completed"
    try:
        record = read_json(checkpoint / COMPLETE)
    except UserError:
        return f"{COMPLETE} is malformed"
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("files"), dict)
        or not isinstance(record.get("ranks"), int)
    ):
        return f"{COMPLETE} does not list its files"

    saved = record["files"]
    present = _digests(checkpoint)
    for name in sorted({*saved, *present}):
        if saved.get(name) != present.get(name):
            return f"{name} is not what was saved"
    return None


def ordered(folder: Path) -> list[Path]:
    """The checkpoints `checkpoint-STEP` in a folder, the oldest first."""
    checkpoints = []
    for path in folder.glob("checkpoint-*"):
        step = path.name.split("-")[1]
        if step.isdecimal():
            checkpoints.append((int(step), path))
    return [path for _, path in sorted(checkpoints)]


def _digests(checkpoint: Path) -> dict[str, str]:
    files = tree(checkpoint)
    names = [name for name in files if name != COMPLETE and not name.endswith(".tmp")]
    n_threads = min(8, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(n_threads) as pool:
        digests = pool.map(sha256, [files[name] for name in names])
    return dict(zip(names, digests, strict=True))
