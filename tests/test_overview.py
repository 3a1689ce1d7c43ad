"""`plan` on one screen, and the list of recipes."""

import pytest


@pytest.mark.slow
def test_a_plan_is_a_tree_by_part_with_totals(mlalign):
    done = mlalign("plan", "recipe=iterative_dpo", "engine=transformers")
    assert done.returncode == 0, done.stderr
    tree = done.stdout.split("\n\n")[1].splitlines()
    assert tree[0].split() == ["step", "stage", "steps", "state", "memory", "time"]
    assert tree[1].strip() == "rows"  # a part that gives no step of its own
    assert tree[2].split()[:4] == ["demonstrations", "prepare", "1", "todo"] and tree[2].startswith(
        "  "
    )
    rounds = next(i for i, line in enumerate(tree) if line.startswith("pairs "))
    assert tree[rounds].split()[:4] == ["pairs", "pairs", "2", "todo"]  # the rounds share a line
    assert [line.split()[0] for line in tree[rounds + 1 : rounds + 3]] == ["candidates", "scores"]
    assert "25 steps, 0 done; at most " in done.stdout
    assert "mlalign.step" not in done.stdout and "\033[" not in done.stdout
    assert len(done.stdout.splitlines()) <= 25


@pytest.mark.slow
def test_what_else_can_be_shown(mlalign):
    assert mlalign("plan", "recipe=candidates", "show=commands").stdout.count("mlalign.step") == 5
    assert "artifact" in mlalign("plan", "recipe=candidates", "show=steps").stdout
    assert (
        "show: 'step' cannot be shown; did you mean 'steps'"
        in mlalign("plan", "recipe=candidates", "show=step").stderr
    )


def test_recipes_stand_by_family_with_their_question(mlalign):
    lines = mlalign("recipes").stdout.splitlines()
    assert [line for line in lines if line in ("data", "loops", "transfer")] == [
        "data",
        "loops",
        "transfer",
    ]
    assert any(line.split()[:3] == ["iterative_dpo", "Does", "a"] for line in lines)
    assert any(line.split()[:3] == ["rows", "The", "rows"] for line in lines)  # a part
