"""A trainer's checkpoints, and how they are checked before they are trusted.

A checkpoint counts once it holds `complete.json`, with the digests of its files.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlalign.core.digests import sha256, tree
from mlalign.core.errors import UserError
from mlalign.core.store import read_json, write_json

COMPLETE = "complete.json"


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
