"""`docs/adding-a-*.md` do what they say: their files, as they stand there, work without touching
another.
"""

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest
from helpers import PROJECT, run_here

pytestmark = pytest.mark.slow

# document -> its files
FILES = {
    "adding-a-method": (
        "sweet_spot.py",
        "recipe/sweet_spot.yaml",
        "test_sweet_spot.py",
        "across_languages.py",
        "test_across_languages.py",
    ),
    "adding-a-loss": ("odpo.py", "recipe/odpo.yaml", "test_odpo.py"),
    "adding-a-scorer": ("distinct_n.py", "test_distinct_n.py", "recipe/varied.yaml"),
    "adding-an-operator": (
        "consistent.py",
        "prompts/consistent/eng_Latn.j2",
        "test_consistent.py",
        "recipe/consistent.yaml",
    ),
    "adding-a-builder": (
        "one_language.py",
        "pinch.py",
        "test_one_language_and_pinch.py",
        "recipe/pinch.yaml",
    ),
}
# document -> a name in its recipe, misspelt, and what is said of it
MISTAKES = {
    "adding-a-method": ('{n_deviations: "', '{n_deviation: "', "did you mean 'n_deviations'"),
    "adding-a-loss": ('{alpha: "', '{alfa: "', "did you mean 'alpha'"),
    "adding-a-scorer": ("n: 3", "m: 3", "unknown key; allowed: n"),
    "adding-an-operator": ('{n_answers: "', '{n_answer: "', "did you mean 'n_answers'"),
    "adding-a-builder": ('{per_language: "', '{per_languag: "', "did you mean 'per_language'"),
}


def blocks(document: str) -> dict[str, str]:
    """File name -> text of the code block that follows it."""
    text = (PROJECT / "docs" / f"{document}.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.fixture(params=FILES)
def document(request) -> str:
    return request.param


@pytest.fixture
def folder(document, tmp_path, monkeypatch) -> Path:
    for name, text in blocks(document).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == tmp_path:
            del sys.modules[name]


def test_its_files_are_short(document):
    assert tuple(blocks(document)) == FILES[document]
    assert all(len(text.splitlines()) < 40 for text in blocks(document).values())


def test_its_tests_pass(folder):
    tests = sorted(folder.glob("test_*.py"))
    n_run = 0
    for file in tests:
        spec = importlib.util.spec_from_file_location(f"of_docs_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_"):
                function()
                n_run += 1
    assert n_run >= len(tests) > 0


def plan(folder: Path, *settings: str):
    [recipe] = folder.glob("recipe/*.yaml")
    common = (f"conf_dir={folder}", "model=tiny", "data=tiny_world", "scale=tiny")
    return run_here(folder, "plan", f"recipe={recipe.stem}", *common, *settings)


def test_its_recipe_is_planned(folder, document):
    done = plan(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    [recipe] = folder.glob("recipe/*.yaml")
    right, misspelt, message = MISTAKES[document]
    text = recipe.read_text(encoding="utf-8")
    assert right in text
    recipe.write_text(text.replace(right, misspelt), encoding="utf-8")
    wrong = plan(folder)
    assert wrong.returncode == 1 and message in wrong.stderr, wrong.stdout + wrong.stderr
