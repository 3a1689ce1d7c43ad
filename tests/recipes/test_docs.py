"""`docs/recipes.md` does what it says: the recipe at its head is the one that ships, and its own
part works.
"""

import re
from pathlib import Path

import pytest
import yaml

from mlalign.recipes import config, plan

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")


def test_the_first_recipe_is_the_one_that_ships_but_for_one_scorer():
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1])
    shipped = yaml.safe_load((ROOT / "conf/recipe/transfer/reuse_your_rewards.yaml").read_text())
    assert shown["steps"] == shipped["steps"] and shown["finally"] == shipped["finally"]
    assert shown["measure"]["policies"] == shipped["measure"]["policies"]


@pytest.mark.slow
def test_the_part_and_the_recipe_that_uses_it_are_planned(tmp_path):
    blocks = dict(
        re.findall(r"^`([\w/.]+)`:\n\n```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    )
    assert set(blocks) == {"part/clean_pairs.yaml", "recipe/loops/clean_dpo.yaml"}
    for name, text in blocks.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    arguments = [
        "recipe=clean_dpo",
        f"conf_dir={tmp_path}",
        f"root={tmp_path}",
        "engine=transformers",
        "margin=1",
    ]
    nodes = {node.name: node for node in plan.build(config.load(arguments)).nodes}
    assert set(nodes) == {
        "apart.rows.prompts",
        "apart.own.candidates",
        "apart.own.scores",
        "apart",
        "policy",
    }
    assert nodes["apart"].config.min_margin == 1
