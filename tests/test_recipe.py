import pytest

from mlalign.recipe import Ref, unroll


def resolve(value, binding, key, errors):
    """A stand-in for `Settings.resolve`: replaces `${name}` of a binding only."""
    if isinstance(value, dict):
        return {k: resolve(v, binding, key, errors) for k, v in value.items()}
    if isinstance(value, list):
        return [resolve(v, binding, key, errors) for v in value]
    if isinstance(value, str):
        for name, bound in binding.items():
            value = value.replace("${" + name + "}", bound)
    return value


def steps(recipe):
    errors = []
    found = unroll(recipe, resolve, errors)
    assert errors == []
    return {s.name: s for s in found}


def errors_of(recipe):
    errors = []
    unroll(recipe, resolve, errors)
    return errors


LOOP = {
    "steps": {"base": {"stage": "sft"}, "rows": {"stage": "prepare"}},
    "rounds": {
        "count": 2,
        "init": {"policy": "base"},
        "steps": {
            "candidates": {"stage": "generate", "inputs": {"model": "previous.policy", "rows": "rows"}},
            "policy": {"stage": "preference", "inputs": {"model": "previous.policy", "rows": "candidates", "reference": "initial.policy"}},
            "guard": {"stage": "select", "inputs": {"candidates": ["previous.policy", "policy"], "evidence": ["previous.guard"]}},
        },
    },
    "finally": {
        "last": {"stage": "generate", "inputs": {"model": "guard", "rows": "rows"}},
        "report": {"stage": "report", "inputs": {"steps": "*"}},
    },
}


def test_rounds_unroll():
    found = steps(LOOP)
    assert found["candidates.r1"].inputs == {"model": Ref("base"), "rows": Ref("rows")}
    assert found["candidates.r2"].inputs == {"model": Ref("policy.r1"), "rows": Ref("rows")}
    assert found["policy.r2"].inputs["reference"] == Ref("base")
    assert found["guard.r1"].inputs == {"candidates": [Ref("base"), Ref("policy.r1")], "evidence": []}
    assert found["guard.r2"].inputs["evidence"] == [Ref("guard.r1")]
    assert found["last"].inputs["model"] == Ref("guard.r2")
    assert len(found["report"].inputs["steps"]) == len(found) - 1


def test_later_rounds_obey_earlier_guards():
    found = steps(LOOP)
    assert found["candidates.r1"].guards == []
    assert found["candidates.r2"].guards == ["guard.r1"]
    assert found["last"].guards == []


def test_foreach_expands_and_star_collects():
    found = steps({
        "steps": {
            "rows": {"stage": "prepare"},
            "reward": {"stage": "reward", "foreach": {"lang": ["eng_Latn", "swh_Latn"]}, "inputs": {"rows": "rows"}, "config": {"languages": ["${lang}"]}},
            "marks": {"stage": "score", "foreach": {"lang": ["eng_Latn", "swh_Latn"]}, "inputs": {"rows": "rows", "scorers": ["reward[${lang}]"]}},
            "all": {"stage": "score", "inputs": {"rows": "rows", "scorers": "reward[*]"}},
        }
    })  # fmt: skip
    assert found["reward[swh_Latn]"].config == {"languages": ["swh_Latn"]}
    assert found["marks[eng_Latn]"].inputs["scorers"] == [Ref("reward[eng_Latn]")]
    assert found["all"].inputs["scorers"] == [Ref("reward[eng_Latn]"), Ref("reward[swh_Latn]")]


def test_steps_come_in_an_order_that_can_run():
    names = list(steps({"steps": {"b": {"stage": "sft", "inputs": {"rows": "a"}}, "a": {"stage": "prepare"}}}))
    assert names == ["a", "b"]


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"stepz": {}}, "stepz: unknown key; did you mean 'steps'"),
        ({"steps": {"a": {"stage": "sft", "input": {}}}}, "steps.a.input: unknown key; did you mean 'inputs'"),
        ({"steps": {"a": {"inputs": {}}}}, "steps.a.stage: missing"),
        (
            {"steps": {"a": {"stage": "sft", "inputs": {"rows": "rowz"}}, "rows": {"stage": "prepare"}}},
            "there is no step 'rowz'; did you mean 'rows'",
        ),
        ({"steps": {"a": {"stage": "sft", "inputs": {"rows": "previous.rows"}}}}, "only inside `rounds`"),
        ({"steps": {"a": {"stage": "sft", "inputs": {"rows": 3}}}}, "3 is neither a step nor a mapping"),
        ({"steps": {"a": {"stage": "sft", "foreach": {"l": "x"}}}}, "steps.a.foreach.l: expected a list"),
        ({**LOOP, "rounds": {**LOOP["rounds"], "count": 9}}, "rounds.count: 9 is not possible; a whole number from 0 to 3"),
        ({}, "the recipe has no steps"),
        (
            {"steps": {"a": {"stage": "sft", "inputs": {"rows": "b"}}, "b": {"stage": "sft", "inputs": {"rows": "a"}}}},
            "a cycle",
        ),
    ],
)
def test_mistakes_are_named(recipe, told):
    assert any(told in e for e in errors_of(recipe)), errors_of(recipe)


def test_all_mistakes_come_together():
    recipe = {"steps": {"a": {"stage": "sft", "inputs": {"rows": "x"}}, "b": {"stage": "sft", "inputs": {"rows": "y"}}}}
    assert len(errors_of(recipe)) == 2
