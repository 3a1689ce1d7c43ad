"""Twenty published methods as recipes: each plans, in at most thirty lines of a hundred columns."""

import pytest
import yaml
from helpers import PROJECT

from mlalign.recipes import config, plan

FOLDER = PROJECT / "tests" / "recipes" / "published"
RECIPES = sorted(FOLDER.glob("*.yaml"))
# The embedded data set has no plain texts.
TEXTS = "texts: [{path: TEXTS, columns: {text: text}, language: swh_Latn}]\n"


def test_there_are_twenty():
    assert len(RECIPES) == 20


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_is_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if not line.startswith("#")]) <= 30
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.slow
def test_it_plans(path, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Habari."}\n', encoding="utf-8")
    data = (PROJECT / "conf" / "data" / "tiny_world.yaml").read_text(encoding="utf-8")
    (tmp_path / "data").mkdir()
    whole = data + TEXTS.replace("TEXTS", str(texts))
    (tmp_path / "data" / "mine.yaml").write_text(whole, encoding="utf-8")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = [f"root={tmp_path}", "engine=transformers", "data=mine", f"conf_dir={tmp_path}"]
    planned = plan.build(config.load(settings, recipe))
    assert len(planned.nodes) >= 5
