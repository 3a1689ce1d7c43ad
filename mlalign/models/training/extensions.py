"""Where DeepSpeed's operators are built, and by whom: by one process at a time, under a claim that
dies with it.

DeepSpeed compiles operators at their first use, through torch, whose lock is a file that a killed
process leaves behind; whoever comes later waits for it without end. Here the lock is a claim
(`mlalign.core.claims`) with a limit to waiting, and the builds lie in a directory that only mlalign
uses: `~/.cache/mlalign/torch_extensions/KEY`, or below TORCH_EXTENSIONS_DIR where that is set. KEY
stands for all that a build depends on, so that machines with a common home do not take what another
kind of machine has built.
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

PATIENCE_S = 1800.0  # operators take a minute to build, on a busy machine some
VARIABLE = "TORCH_EXTENSIONS_DIR"


def build_alone() -> None:
    """From now on operators are built in a directory of mlalign's own, by one process at a time.

    Raises: UserError if the directory cannot be made.
    """
    if cpp_extension.FileBaton is Baton:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(
        os.environ.get(VARIABLE) or Path(cache, "mlalign", "torch_extensions")
    ).expanduser()
    folder = (
        place if place.name == _key() else place / _key()
    )  # a child process finds it set already
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
    """Without a GPU, keep DeepSpeed from compiling its own kernel for sums over the ranks of a
    machine.

    Two minutes of compiler on a machine that may have none, for what gloo does as well.
    """
    if torch.cuda.is_available():
        return
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _key() -> str:
    """What a build depends on: versions, the processor (builds are made for the one at hand) and
    the GPU, the person.
    """
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
    """Its name and what it can do, as Linux tells it of the first core."""
    try:
        lines = (
            Path("/proc/cpuinfo")
            .read_text(encoding="utf-8", errors="replace")
            .partition("\n\n")[0]
            .splitlines()
        )
    except OSError:
        return [platform.processor()]
    return [
        line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))
    ]


class Baton:
    """Stands in for torch's `FileBaton`: every process builds in its turn, and finds there what one
    before it has built.
    """

    def __init__(self, lock_file_path: str, *_: Any, **__: Any):
        self._folder = Path(lock_file_path).parent
        self._held = contextlib.ExitStack()

    def try_acquire(self) -> bool:
        """Wait for whoever builds. Raises: UserError if it has not ended after PATIENCE_S seconds."""
        self._held.enter_context(claims.claim_in_turn(self._folder, "build", PATIENCE_S))
        return True

    def release(self) -> None:
        self._held.close()
