"""`docs/adding-an-evaluation.md` does what it says: its files, written out as they stand, are an
evaluation that runs.
"""

import re
import sys

import pytest
import yaml
from evaluation_cases import evaluate, value
from helpers import PROJECT, run_here

import reward_models
from mlalign.recipes import conf_files

TEXT = (PROJECT / "docs/adding-an-evaluation.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("docs")
    for name, text in BLOCKS.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))


def test_these_files_are_the_examples():
    assert list(BLOCKS) == [
        "sums/eng_Latn.jsonl",
        "sums/spa_Latn.jsonl",
        "conf/evaluation/sums.yaml",
        "asks_back.py",
        "conf/evaluation/asks_back.yaml",
    ]


@pytest.mark.slow
def test_the_example_runs(folder):
    steps = evaluate(folder, "conf_dir=conf", "evaluation=sums", "evaluation.sums.root=sums")
    for language in ("eng_Latn", "spa_Latn"):
        assert 0.0 <= value(steps / "measure_sums[model]", "accuracy", language) <= 1.0


def test_every_command_of_the_example_is_one_that_plans(folder):
    commands = re.findall(r"^    mlalign plan (.*)$", TEXT, re.MULTILINE)
    assert len(commands) == 2
    for command, name in zip(commands, ("measure_sums", "measure_asks_back"), strict=True):
        done = run_here(folder, "plan", *command.split())
        assert done.returncode == 0 and name in done.stdout


def test_the_metric_of_the_example_is_a_share_of_answers(folder):
    scorer = reward_models.open_scorer({"family": "asks_back:asks_back"})
    rows = [{"prompt": "Hm.", "response": text} for text in ("Why? ", "为什么？", "لماذا؟", "So.")]
    assert scorer.score(rows) == [1.0, 1.0, 1.0, 0.0]


def test_the_table_is_what_the_files_say():
    table = re.findall(r"^\| `(\w+)` \| .* \| (\w+) \| ([^|]*) \| ([^|]*) \|$", TEXT, re.MULTILINE)
    files = conf_files.options("evaluation", [conf_files.conf_home()])
    assert {name for name, *_ in table} | {
        "language_confusion_monolingual",
        "language_confusion_crosslingual",
    } == set(files)
    for name, origin, licence, headline in table:
        content = yaml.safe_load(files[name].read_text(encoding="utf-8"))
        assert content["about"]["origin"] == origin, name
        first = (
            yaml.safe_load(files[content["lists"][0]].read_text(encoding="utf-8"))
            if "lists" in content
            else content
        )
        assert re.findall(r"`(\w+)`", headline) == first["headline"], name
        if name not in ("held_out", "omgeval"):
            assert first["about"]["licence"] == licence, name


def test_mlalign_recipes_lists_the_evaluations(folder):
    done = run_here(folder, "recipes", "conf_dir=conf")
    assert done.returncode == 0
    assert "evaluations" in done.stdout and "sums of two numbers" in done.stdout
