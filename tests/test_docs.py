"""What the documents say is there: links lead somewhere, commands are understood."""

import re
import shlex

import pytest
from helpers import PROJECT

DOCS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("slurm/*.md")])
PLACEHOLDERS = {
    "DIR": "mgsm",
    "runs/first/": None,
    "my_data": None,
    "qwen3_8b": None,
    "beta=0.1x": None,
}


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def commands():
    """The `mlalign` commands of the README and of what it leads to, without comments."""
    pages = ("README.md", "docs/sweeps.md", "docs/clusters.md")
    text = "".join((PROJECT / page).read_text(encoding="utf-8") for page in pages)
    lines = re.findall(r"^    (?:\$ )?(mlalign .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_the_number_of_commands_is_known():
    assert len(commands()) == 33


@pytest.mark.parametrize(
    "command", [c for c in commands() if c[0] in ("run", "plan")], ids=" ".join
)
@pytest.mark.slow
def test_recipes_in_the_documents_are_planned(mlalign, real_data, command):
    """With this project's data, and without what a reader brings."""
    if any(key in part for part in command for key in ("my_data", "beta=0.1x", "use.base")):
        pytest.skip("a command about the reader's own files, or a wrong one on purpose")
    dataset = next((part.removeprefix("data=") for part in command if part.startswith("data=")), "")
    done = mlalign(
        "plan", *(part.replace("=DIR", f"={real_data / dataset}") for part in command[1:])
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wrong_command_in_the_readme_is_told_all_its_mistakes(mlalign):
    wrong = next(c for c in commands() if any("beta=0.1x" in part for part in c))
    assert mlalign(*wrong).stderr.count("error:") == 3
