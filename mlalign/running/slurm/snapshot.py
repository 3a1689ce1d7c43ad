"""What a submitted run keeps: a copy of the packages, and a record of the environment."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlalign.core import store
from mlalign.core.errors import UserError

PACKAGES = ("mlalign", "reward_models")
IGNORED = ("__pycache__", "conf")


def sources() -> dict[str, Path]:
    """File below the snapshot -> file here, in a fixed order."""
    files = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.submodule_search_locations, package
        home = Path(spec.submodule_search_locations[0])
        for path in home.rglob("*"):
            below = path.relative_to(home)
            if path.is_file() and not set(below.parts) & set(IGNORED):
                files[f"{package}/{below}"] = path
    return dict(sorted(files.items()))


def place(folder: Path) -> Path:
    """Where a snapshot of the packages belongs; its name is a digest of their content now."""
    digests = {name: store.sha256(path) for name, path in sources().items()}
    return folder / f"source-{store.fingerprint(digests)[:12]}"


def take(folder: Path, clean: bool) -> Path:
    """Copy the packages to `folder/source-DIGEST` unless they are there; returns that directory.

    Raises: UserError if `clean` is asked for and the packages are not those of a commit.
    """
    if clean:
        _check_clean()
    target = place(folder)
    if not target.is_dir():
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        for name, path in sources().items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, temporary / name)
        temporary.rename(target)
    return target


def _check_clean() -> None:
    homes = {path.parents[len(Path(name).parts) - 1] for name, path in sources().items()}
    for home in sorted(homes):
        command = ["git", "-C", str(home), "status", "--porcelain", "--", *PACKAGES]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except FileNotFoundError:
            raise UserError(
                "launcher.source: `commit` needs git; install it, or set launcher.source=snapshot"
            ) from None
        if done.returncode:
            raise UserError(
                f"launcher.source: {home} is no checkout, so there is no commit; set"
                " launcher.source=snapshot"
            )
        if done.stdout.strip():
            changed = ", ".join(line[3:] for line in done.stdout.splitlines()[:5])
            raise UserError(
                f"launcher.source: uncommitted changes in {home} ({changed}); commit them, or set"
                " launcher.source=snapshot"
            )


def record(folder: Path) -> None:
    """Write `environment.json`: interpreter, machine and the version of every installed package."""
    packages = {d.name: d.version for d in importlib.metadata.distributions()}
    environment: dict[str, Any] = {
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "host": socket.gethostname(),
    }
    environment["packages"] = dict(sorted(packages.items()))
    store.write_json(folder / "environment.json", environment)
