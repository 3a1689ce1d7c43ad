"""What every test may ask for: the real data, a place for runs, the command line as a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PROJECT


def pytest_collection_modifyitems(items):
    """Long tests last, so that a plain mistake shows early."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; absent, the test is skipped, or fails under REQUIRE_DATA=1."""
    folder = Path(os.environ.get("MLALIGN_TEST_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        why = f"no real data at {folder}; set MLALIGN_TEST_DATA"
        pytest.fail(why) if os.environ.get("REQUIRE_DATA") else pytest.skip(why)
    return folder


@pytest.fixture
def mlalign(tmp_path):
    """Run the command line in a directory of its own: `mlalign("plan", "recipe=x")` -> CompletedProcess."""

    def call(*arguments: str, cwd: Path = tmp_path, timeout: int = 600, **env: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "mlalign", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, text=True, capture_output=True, timeout=timeout, check=False)

    return call
