import pytest

from mlalign.recipes import outline
from mlalign.recipes.graph import Ref, unroll


def resolve(value, binding, key, errors):
    """A stand-in for `Settings.resolve`: replaces `${name}` of a binding only."""
    if isinstance(value, dict):
        return {k: resolve(v, binding, key, errors) for k, v in value.items()}
    if isinstance(value, list):
        return [resolve(v, binding, key, errors) for v in value]
    if isinstance(value, str):
        for name, bound in binding.items():
            value = value.replace("${" + name + "}", str(bound))
    return value


def steps(recipe):
    errors = []
    found = unroll(recipe, resolve, errors)
    assert errors == []
    return {s.name: s for s in found}


def errors_of(recipe):
    errors = []
    outline.check(recipe, errors)
    if not errors:
        unroll(recipe, resolve, errors)
    return errors


LOOP = {
    "steps": {"base": {"stage": "sft"}, "rows": {"stage": "prepare"}},
    "rounds": {
        "count": 2,
        "init": {"policy": "base"},
        "guards": ["guard"],
        "steps": {
            "candidates": {
                "stage": "generate",
                "inputs": {"model": "previous.policy", "rows": "rows"},
            },
            "policy": {
                "stage": "preference",
                "inputs": {
                    "model": "previous.policy",
                    "rows": "candidates",
                    "reference": "initial.policy",
                },
            },
            "guard": {
                "stage": "select",
                "inputs": {
                    "candidates": ["previous.policy", "policy"],
                    "evidence": ["previous.guard"],
                },
            },
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
    assert found["guard.r1"].inputs == {
        "candidates": [Ref("base"), Ref("policy.r1")],
        "evidence": [],
    }
    assert found["guard.r2"].inputs["evidence"] == [Ref("guard.r1")]
    assert found["last"].inputs["model"] == Ref("guard.r2")
    collected = found["report"].inputs["steps"]
    assert len(collected) == len(found) - 1 and all(ref.weak for ref in collected)


def test_later_rounds_obey_earlier_guards():
    found = steps(LOOP)
    assert found["candidates.r1"].guards == []
    assert found["candidates.r2"].guards == ["guard.r1"]
    assert found["last"].guards == []


def test_foreach_expands_and_star_collects():
    found = steps(
        {
            "steps": {
                "rows": {"stage": "prepare"},
                "reward": {
                    "stage": "reward",
                    "foreach": {"lang": ["eng_Latn", "swh_Latn"]},
                    "inputs": {"rows": "rows"},
                    "config": {"languages": ["${lang}"]},
                },
                "marks": {
                    "stage": "score",
                    "foreach": {"lang": ["eng_Latn", "swh_Latn"]},
                    "inputs": {"rows": "rows", "scorers": ["reward[${lang}]"]},
                },
                "all": {"stage": "score", "inputs": {"rows": "rows", "scorers": "reward[*]"}},
            }
        }
    )
    assert found["reward[swh_Latn]"].config == {"languages": ["swh_Latn"]}
    assert found["marks[eng_Latn]"].inputs["scorers"] == [Ref("reward[eng_Latn]")]
    assert found["all"].inputs["scorers"] == [Ref("reward[eng_Latn]"), Ref("reward[swh_Latn]")]


def test_several_variables_give_every_combination():
    found = steps(
        {
            "steps": {
                "arm": {
                    "stage": "sft",
                    "foreach": {"cluster": {"a": [1], "b": [2]}, "size": [100, 200]},
                    "config": {"n": "${size}"},
                },
                "all": {"stage": "select", "inputs": {"candidates": "arm[*]"}},
                "of_a": {"stage": "select", "inputs": {"candidates": "arm[a,*]"}},
                "small": {"stage": "select", "inputs": {"candidates": "arm[*,100]"}},
            }
        }
    )
    assert found["arm[b,200]"].config == {"n": "200"}
    assert found["all"].inputs["candidates"] == [
        Ref(f"arm[{c},{n}]") for c in "ab" for n in (100, 200)
    ]
    assert found["of_a"].inputs["candidates"] == [Ref("arm[a,100]"), Ref("arm[a,200]")]
    assert found["small"].inputs["candidates"] == [Ref("arm[a,100]"), Ref("arm[b,100]")]


def per_language(init, base_foreach):
    langs = {"lang": ["eng", "spa"]}
    return {
        "steps": {"base": {"stage": "sft", **({"foreach": langs} if base_foreach else {})}},
        "rounds": {
            "count": 2,
            "init": init,
            "guards": ["guard"],
            "steps": {
                "policy": {
                    "stage": "sft",
                    "foreach": langs,
                    "inputs": {"model": "previous.policy[${lang}]"},
                },
                "guard": {
                    "stage": "select",
                    "foreach": langs,
                    "inputs": {"candidates": ["previous.policy[${lang}]", "policy[${lang}]"]},
                },
            },
        },
    }


@pytest.mark.parametrize(
    ("init", "of_base", "first"),
    [
        ({"policy": "base"}, True, Ref("base[spa]")),
        ({"policy": "base"}, False, Ref("base")),
        ({"policy[spa]": "base[eng]", "policy[eng]": "base[eng]"}, True, Ref("base[eng]")),
        ({"policy": {"path": "org/model"}}, False, {"path": "org/model"}),
    ],
)
def test_rounds_under_foreach_start_where_init_says(init, of_base, first):
    found = steps(per_language(init, of_base))
    assert found["policy.r1[spa]"].inputs["model"] == first
    assert found["policy.r2[spa]"].inputs["model"] == Ref("policy.r1[spa]")
    assert found["guard.r1[spa]"].inputs["candidates"] == [first, Ref("policy.r1[spa]")]


def test_a_guard_stops_the_steps_of_its_own_value_only():
    found = steps(per_language({"policy": "base"}, True))
    assert found["policy.r2[spa]"].guards == ["guard.r1[spa]"]


def test_a_select_that_is_no_guard_stops_nothing():
    recipe = {
        **LOOP,
        "rounds": {key: value for key, value in LOOP["rounds"].items() if key != "guards"},
    }
    assert all(step.guards == [] for step in steps(recipe).values())


def test_the_number_of_the_round_is_a_variable():
    recipe = {
        "steps": {"base": {"stage": "sft"}},
        "rounds": {"count": 2, "steps": {"a": {"stage": "sft", "config": {"seed": "${round}"}}}},
    }
    assert [steps(recipe)[f"a.r{n}"].config for n in (1, 2)] == [{"seed": "1"}, {"seed": "2"}]


def test_a_scorer_may_be_named():
    found = steps(
        {
            "steps": {
                "rm": {"stage": "reward"},
                "a": {"stage": "score", "inputs": {"scorers": [{"step": "rm", "name": "judge"}]}},
            }
        }
    )
    assert found["a"].inputs["scorers"] == [Ref("rm", "judge")]


def test_a_wrong_init_is_one_mistake():
    recipe = {**LOOP, "rounds": {**LOOP["rounds"], "init": {"polcy": "base"}}}
    assert len(errors_of(recipe)) == 1


def test_steps_come_in_an_order_that_can_run():
    names = list(
        steps(
            {"steps": {"b": {"stage": "sft", "inputs": {"rows": "a"}}, "a": {"stage": "prepare"}}}
        )
    )
    assert names == ["a", "b"]


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"stepz": {}}, "stepz: unknown key; did you mean 'steps'"),
        (
            {"steps": {"a": {"stage": "sft", "input": {}}}},
            "steps.a.input: unknown key; did you mean 'inputs'",
        ),
        ({"steps": {"a": {"inputs": {}}}}, "steps.a.stage: missing"),
        (
            {
                "steps": {
                    "a": {"stage": "sft", "inputs": {"rows": "rowz"}},
                    "rows": {"stage": "prepare"},
                }
            },
            "there is no step 'rowz'; did you mean 'rows'",
        ),
        (
            {"steps": {"a": {"stage": "sft", "inputs": {"rows": "previous.rows"}}}},
            "only inside `rounds`",
        ),
        (
            {"steps": {"a": {"stage": "sft", "inputs": {"rows": 3}}}},
            "3 is neither a step nor a mapping",
        ),
        (
            {"steps": {"a": {"stage": "sft", "foreach": {"l": "x"}}}},
            "steps.a.foreach.l: expected a list",
        ),
        (
            {**LOOP, "rounds": {**LOOP["rounds"], "count": 21}},
            "rounds.count: 21 rounds are more than max_rounds=20",
        ),
        (
            {**LOOP, "rounds": {**LOOP["rounds"], "count": "x"}},
            "rounds.count: expected a whole number from 0, got 'x'",
        ),
        (
            {**LOOP, "rounds": {**LOOP["rounds"], "init": {"polcy": "base"}}},
            "rounds.init.polcy: no step of the rounds has this name; did you mean 'policy'",
        ),
        (
            {**LOOP, "rounds": {**LOOP["rounds"], "guards": ["gard"]}},
            "rounds.guards: the rounds have no step 'gard'; did you mean 'guard'",
        ),
        ({"steps": {"previous": {"stage": "sft"}}}, "'previous' means another round"),
        ({"steps": {"a": {"stage": "${x}"}}}, "steps.a.stage: the name of a stage, got '${x}'"),
        (
            {"steps": {"a": {"stage": "sft", "foreach": {"l": ["x,y"]}}}},
            "'x,y' cannot be part of a step's name",
        ),
        (
            {"steps": {"a": {"stage": "sft", "foreach": {"l": ["x", "x"]}}}},
            "steps.a.foreach.l: duplicate value x",
        ),
        (
            {
                "steps": {
                    "a": {"stage": "sft", "foreach": {"l": ["x"]}},
                    "b": {"stage": "sft", "inputs": {"model": "a"}},
                }
            },
            "one for each value of its `foreach`: a[x]",
        ),
        ({}, "the recipe has no steps"),
        (
            {
                "steps": {
                    "a": {"stage": "sft", "inputs": {"rows": "b"}},
                    "b": {"stage": "sft", "inputs": {"rows": "a"}},
                }
            },
            "a cycle",
        ),
    ],
)
def test_mistakes_are_named(recipe, told):
    assert any(told in e for e in errors_of(recipe)), errors_of(recipe)


def test_all_mistakes_come_together():
    recipe = {
        "steps": {
            "a": {"stage": "sft", "inputs": {"rows": "x"}},
            "b": {"stage": "sft", "inputs": {"rows": "y"}},
        }
    }
    assert len(errors_of(recipe)) == 2
