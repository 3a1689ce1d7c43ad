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
    """The value that was kept for `key`; None, after saying so, if the file is not as it was
    written.
    """
    try:
        told = read_json(path)
    except UserError:
        told = {}
    whole = (
        isinstance(told, dict)
        and isinstance(told.get("value"), dict)
        and fingerprint(told["value"]) == told.get("sha256")
    )
    if not whole:
        say(f"{path}: is not what was written there; computed again", file=sys.stderr, flush=True)
        return None
    return told["value"] if told.get("key") == key else None


def complete(checkpoint: Path, **about: Any) -> None:
    """Mark a checkpoint as complete, with the digests of its files."""
    write_json(checkpoint / COMPLETE, {**about, "files": _digests(checkpoint)})


def problem(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be trusted; None if it is complete, and its files are those that were
    saved.
    """
    if not (checkpoint / COMPLETE).is_file():
        return "was never completed"
    try:
        told = read_json(checkpoint / COMPLETE)
    except UserError:
        return f"{COMPLETE} is malformed"
    if (
        not isinstance(told, dict)
        or not isinstance(told.get("files"), dict)
        or not isinstance(told.get("ranks"), int)
    ):
        return f"{COMPLETE} does not tell of its files"
    now = _digests(checkpoint)
    wrong = [
        name for name in sorted({*told["files"], *now}) if told["files"].get(name) != now.get(name)
    ]
    return f"{wrong[0]} is not what was saved" if wrong else None


def ordered(folder: Path) -> list[Path]:
    """The checkpoints `checkpoint-STEP` in a folder, the oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.split("-")[1].isdecimal()]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def _digests(checkpoint: Path) -> dict[str, str]:
    files = {
        name: path
        for name, path in tree(checkpoint).items()
        if name != COMPLETE and not name.endswith(".tmp")
    }
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        return dict(zip(files, pool.map(sha256, files.values()), strict=True))
