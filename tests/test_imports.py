"""Imports point one way, light modules stay light, and every module can be imported."""

import ast
import importlib
import pkgutil
import subprocess
import sys

import pytest
from helpers import PROJECT

import mlalign
import reward_models

FILES = ("errors", "json_text", "yaml_files", "shapes", "digests", "checkpoints")
LIGHT = (
    *FILES, "languages", "language_names", "rows", "conversations", "shards", "store", "claims", "schema", "engine",
    "models", "adapters", "refusals", "stopping", "secrecy", "spreadsheets", "terminal", "processes",
)  # fmt: skip
# What a part of mlalign may import of mlalign, besides LIGHT.
ALLOWED = {
    "languages": ("errors", "language_names", "yaml_files"),
    "rows": ("errors", "store"),
    "errors": (),
    "kinds": ("errors", "rows"),
    "schema": ("errors",),
    "refusals": ("errors",),
    "adapters": ("errors", "models"),
    "warning": ("store",),
    "claims": ("errors", "processes", "terminal"),
    "store": (*FILES, "claims"),
    "shards": ("errors", "store", "digests", "terminal"),
    "stage": ("errors", "store", "stages", "engine", "stopping"),
    "models": ("errors", "engine"),
    "engine": LIGHT,
    "json_text": (),
    "conversations": ("json_text",),
    "data": (*LIGHT, "conversations", "json_text"),
    "pairing": LIGHT,
    "losses": LIGHT,
    "metrics": LIGHT,
    "modelling": LIGHT,
    "training": (*LIGHT, "stage", "modelling"),
    "reporting": (*LIGHT, "metrics"),
    "stages": (*LIGHT, "kinds", "stage", "data", "engine", "pairing", "losses", "metrics", "training", "modelling", "reporting"),
    "recipes": ("errors", "engine", "yaml_files", "schema", "stage", "data", "languages"),
    "state": LIGHT,
    "step": (*LIGHT, "stage", "state", "verification", "warning", "launch"),
    "launch": (*LIGHT, "stage", "progress", "running", "processes"),
}
HEAVY = ("optuna", "torch", "transformers", "trl", "vllm", "datasets", "deepspeed", "peft", "lingua", "pyarrow", "numpy")


def modules(package):
    return [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".") if not m.name.endswith("__main__")]


def imported(path):
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{a.name}" for a in node.names)


def parts_of_mlalign(path):
    """Which parts (`rows`, `engine`, `stages`, …) of mlalign a file imports."""
    names = {p.stem for p in (PROJECT / "mlalign").iterdir()}
    for name in imported(path):
        words = name.split(".")
        if words[0] == "mlalign" and len(words) > 1 and words[1] in names:
            yield words[1]


FILES = sorted((PROJECT / "mlalign").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_imports_point_one_way(path):
    part = path.relative_to(PROJECT / "mlalign").parts[0].removesuffix(".py")
    if part in ALLOWED:
        assert set(parts_of_mlalign(path)) - {part} <= set(ALLOWED[part])


def test_stages_never_import_stages():
    for path in sorted((PROJECT / "mlalign" / "stages").glob("*.py")):
        assert not [n for n in imported(path) if n.startswith("mlalign.stages")], path.name


@pytest.mark.slow
def test_reward_models_imports_only_light_parts():
    light = {
        "languages", "rows", "conversations", "engine", "models", "shards", "identity", "digests", "processes",
        "errors", "json_text", "yaml_files", "secrecy", "spreadsheets", "terminal",
    }  # fmt: skip
    for path in sorted((PROJECT / "reward_models").rglob("*.py")):
        of_data = {name for name in imported(path) if name.startswith("mlalign.data")}
        assert of_data <= {"mlalign.core.sources"}, path.name  # the reader of arrays and tables, itself light
        assert set(parts_of_mlalign(path)) - {"data"} <= light, path.name


@pytest.mark.parametrize("name", [*modules(mlalign), *modules(reward_models)])
def test_every_module_can_be_imported(name):
    assert importlib.import_module(name).__doc__ or name.count(".") > 1


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=120, check=False)


@pytest.mark.slow
def test_planning_imports_nothing_heavy():
    stages = [n for n in modules(mlalign) if n.startswith(("mlalign.stages", "mlalign.sweep"))]
    stages.remove("mlalign.sweep.proposals")  # Optuna's: for a search that begins
    code = f"import sys, mlalign.cli, mlalign.recipes.plan, mlalign.running.run, mlalign.cli.show, {', '.join(stages)}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = run_python(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.slow
def test_light_dependency_set_is_enough_to_import():
    """Everything that needs no training imports with trl, deepspeed, hydra, vllm and datasets absent."""
    code = f"""
import sys
for name in ("trl", "deepspeed", "hydra", "omegaconf", "vllm", "datasets"):
    sys.modules[name] = None
import importlib
for name in {modules(mlalign) + modules(reward_models)!r}:
    importlib.import_module(name)
from mlalign.cli import main
assert main(["--help"]) == 0
assert main(["run", "recipe=candidates"]) == 1
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "mlalign[train]" in done.stderr
