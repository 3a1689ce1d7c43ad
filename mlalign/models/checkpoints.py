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
