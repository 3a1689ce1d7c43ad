"""`docs/adding-a-method.md` does what it says: its three files, written out as they stand, work without touching another file."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = ("sweet_spot.py", "recipe/sweet_spot.yaml", "test_sweet_spot.py")


def blocks() -> dict[str, str]:
    """File name -> text of the code block that follows it."""
    text = (ROOT / "docs/adding-a-method.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, text in blocks().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths.rstrip(os.pathsep)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_three_files_under_60_lines():
    assert tuple(blocks()) == NAMES
    assert sum(len(text.splitlines()) for text in blocks().values()) < 60


@pytest.mark.slow
def test_its_test_passes(folder):
    done = python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_sweet_spot.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.slow
def test_the_stage_finds_it_and_checks_its_options(folder):
    code = (
        "from mlalign.stages import pairs; from mlalign.core.store import sha256; "
        "print(pairs.identity(pairs.Config(method='sweet_spot:sweet_spot', args={%r: 1.5}), sha256))"
    )
    assert "method_source" in python(folder, "-c", code % "n_deviations").stdout
    assert "did you mean 'n_deviations'" in python(folder, "-c", code % "n_deviation").stderr


@pytest.mark.skipif(importlib.util.find_spec("mlalign.cli") is None, reason="needs the command line")
@pytest.mark.slow
def test_its_recipe_is_planned(folder):
    arguments = ["plan", "recipe=sweet_spot", f"conf_dir={folder}", "model=tiny", "data=tiny_world", "scale=tiny"]
    done = python(folder, "-m", "mlalign", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pairs" in done.stdout
