"""Lets one process at a time build DeepSpeed's operators, under a claim that dies with it.

DeepSpeed compiles operators at their first use, through torch. Torch's lock is a file that a killed
process leaves behind, and later processes wait for it forever. Here the lock is a claim
(`mlalign.core.claims`) with a limit on waiting, and the builds are in a directory that only mlalign
uses: `~/.cache/mlalign/torch_extensions/KEY`, or below TORCH_EXTENSIONS_DIR if that is set. KEY
stands for all that a build depends on, so machines of different kinds can share a home directory.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

from mlalign.core import claims
from mlalign.core.errors import UserError, system_problem

PATIENCE_S = 1800.0  # operators take a minute to build, and longer on a busy machine
VARIABLE = "TORCH_EXTENSIONS_DIR"


def build_alone() -> None:
    """Have operators built in mlalign's own directory, by one process at a time.

    Raises: UserError if the directory cannot be made.
    """
    if cpp_extension.FileBaton is Baton:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(os.environ.get(VARIABLE) or Path(cache, "mlalign", "torch_extensions"))
    folder = place.expanduser()
    if folder.name != _key():  # a child process inherits the complete path
        folder /= _key()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"deepspeed: its operators need a place to be built in, set {VARIABLE}:"
            f" {system_problem(error)}"
        ) from None
    os.environ[VARIABLE] = str(folder)
    cpp_extension.FileBaton = Baton  # type: ignore[assignment, misc]


def leave_reducing_to_gloo() -> None:
    """Without a GPU, keep DeepSpeed from compiling its own kernel for sums over ranks.

    Compiling takes two minutes on a machine that may have no compiler, and gloo does the same work.
    """
    if torch.cuda.is_available():
        return
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _key() -> str:
    """A hash of what a build depends on: versions, processor, GPU, and the user."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "deepspeed")]
    parts = [
        sys.version,
        *versions,
        str(torch.version.cuda),
        platform.machine(),
        *_processor(),
        gpu,
        str(os.getuid()),
    ]
    return f"mlalign-{hashlib.sha256(' | '.join(parts).encode()).hexdigest()[:12]}"


def _processor() -> list[str]:
    """The name and the abilities that Linux reports for the first core."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [platform.processor()]
    first_core = text.partition("\n\n")[0].splitlines()
    names = ("model name", "flags", "Features", "CPU part")
    return [line for line in first_core if line.startswith(names)]


class Baton:
    """Replaces torch's `FileBaton`: processes build in turn, and reuse what is built already."""

    def __init__(self, lock_file_path: str, *_: Any, **__: Any):
        self._folder = Path(lock_file_path).parent
        self._held = contextlib.ExitStack()

    def try_acquire(self) -> bool:
        """Wait for another process's build. Raises: UserError after PATIENCE_S seconds."""
        self._held.enter_context(claims.claim_in_turn(self._folder, "build", PATIENCE_S))
        return True

    def release(self) -> None:
        self._held.close()
