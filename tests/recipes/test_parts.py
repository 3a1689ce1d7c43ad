"""Parts become the steps that they stand for."""

import pytest
import yaml

from mlalign.recipes import outline, parts
from mlalign.recipes.graph import Ref, unroll
from tests.recipes.test_graph import resolve

PAIRS = """
takes: {policy: "???", prompts: "???", n: 8, method: best_worst, scorers: []}
steps:
  candidates: {stage: generate, inputs: {model: "${policy}", rows: "${prompts}"}, config: {n: "${n}", label: "n is ${n}"}}
  scores: {stage: score, inputs: {rows: candidates, scorers: ["${scorers}", {family: length}]}}
  unread: {stage: score, inputs: {rows: candidates}}
  pairs: {stage: pairs, inputs: {rows: candidates, scores: scores}, config: {method: "${method}"}}
gives: pairs
"""
ROWS = """
takes: {source: eng}
steps:
  prompts: {stage: prepare, config: {kind: prompt}}
  demonstrations: {stage: prepare, config: {kind: demonstration}}
"""
OUTER = """
takes: {start: "???", n: 2}
steps:
  rows: {part: rows}
  inner: {part: own_pairs, with: {policy: "${start}", prompts: rows.prompts, n: "${n}", scorers: [judge]}}
  judge: {stage: reward, inputs: {rows: rows.demonstrations}}
  policy: {stage: preference, inputs: {model: "${start}", rows: inner}}
gives: policy
"""
BY_NAME = """
takes: {policies: "???"}
steps:
  answers: {stage: generate, foreach: {policy: "${policies}"}, inputs: {model: "${policies.${policy}}"}}
  metrics: {stage: evaluate, foreach: {policy: "${policies}"}, inputs: {rows: "answers[${policy}]"}}
gives: metrics
"""


@pytest.fixture
def library(tmp_path):
    def make(defaults=None, **more):
        texts = {"own_pairs": PAIRS, "rows": ROWS, "outer": OUTER, "by_name": BY_NAME, **more}
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        files = {name: tmp_path / f"{name}.yaml" for name in texts}
        return parts.Library(files, ("model", "data", "languages"), defaults or {}, [])

    return make


def expanded(recipe, library):
    out = parts.expand(recipe, library)
    assert library.errors == []
    return outline.templates(out)


def errors_of(recipe, library):
    parts.expand(recipe, library)
    return library.errors


CALL = {
    "steps": {
        "base": {"stage": "sft"},
        "p": {"stage": "prepare"},
        "mine": {"part": "own_pairs", "with": {"policy": "base", "prompts": "p"}},
    }
}


def test_the_given_step_has_the_name_of_the_part(library):
    steps = expanded(CALL, library())
    assert list(steps) == ["base", "p", "mine.candidates", "mine.scores", "mine.unread", "mine"]
    assert steps["mine.candidates"]["inputs"] == {"model": "base", "rows": "p"}
    assert steps["mine.candidates"]["config"] == {"n": 8, "label": "n is 8"}
    assert steps["mine"]["inputs"] == {"rows": "mine.candidates", "scores": "mine.scores"}
    assert steps["mine.scores"]["inputs"]["scorers"] == [{"family": "length"}]


def test_inner_steps_that_nothing_reads_are_left_out(library):
    errors = []
    names = [step.name for step in unroll(parts.expand(CALL, library()), resolve, errors)]
    assert errors == [] and "mine.unread" not in names and "mine.scores" in names


def test_parts_of_parts_and_steps_that_a_part_passes_on(library):
    steps = expanded(
        {"steps": {"base": {"stage": "sft"}, "a": {"part": "outer", "with": {"start": "base"}}}},
        library(),
    )
    assert set(steps) == {
        "base", "a", "a.judge", "a.rows.prompts", "a.rows.demonstrations",
        "a.inner", "a.inner.candidates", "a.inner.scores", "a.inner.unread",
    }  # fmt: skip
    assert steps["a.inner.candidates"]["inputs"] == {"model": "base", "rows": "a.rows.prompts"}
    assert steps["a.inner.scores"]["inputs"]["scorers"] == ["a.judge", {"family": "length"}]
    assert steps["a.judge"]["inputs"] == {"rows": "a.rows.demonstrations"}
    assert steps["a"]["inputs"] == {"model": "base", "rows": "a.inner"}


def test_a_text_that_happens_to_name_a_step_stays_a_text_in_a_configuration(library):
    part = (
        "takes: {}\nsteps:\n  best_worst: {stage: sft}\n  inner: {part: own_pairs, with: {policy:"
        " best_worst, prompts: best_worst, method: best_worst}}\n"
    )
    steps = expanded({"steps": {"a": {"part": "both", "with": {}}}}, library(both=part))
    assert steps["a.inner"]["config"] == {"method": "best_worst"}
    assert steps["a.inner.candidates"]["inputs"] == {
        "model": "a.best_worst",
        "rows": "a.best_worst",
    }


def test_under_foreach_inner_names_mean_the_same_value(library):
    call = {
        "part": "own_pairs",
        "foreach": {"arm": ["x", "y"]},
        "with": {"policy": "base", "prompts": "p", "method": "${arm}"},
    }
    recipe = {"steps": {"base": {"stage": "sft"}, "p": {"stage": "prepare"}, "mine": call}}
    errors = []
    steps = {step.name: step for step in unroll(parts.expand(recipe, library()), resolve, errors)}
    assert errors == []
    assert steps["mine[y]"].config == {"method": "y"}
    assert steps["mine[y]"].inputs == {
        "rows": Ref("mine.candidates[y]"),
        "scores": Ref("mine.scores[y]"),
    }


def test_within_rounds(library):
    recipe = {
        "steps": {"base": {"stage": "sft"}, "p": {"stage": "prepare"}},
        "rounds": {
            "count": 2,
            "init": {"policy": "base"},
            "steps": {
                "mine": {
                    "part": "own_pairs",
                    "with": {"policy": "previous.policy", "prompts": "p"},
                },
                "policy": {
                    "stage": "preference",
                    "inputs": {"model": "previous.policy", "rows": "mine"},
                },
            },
        },
    }
    errors = []
    steps = {step.name: step for step in unroll(parts.expand(recipe, library()), resolve, errors)}
    assert errors == []
    assert steps["mine.candidates.r1"].inputs["model"] == Ref("base")
    assert steps["mine.candidates.r2"].inputs["model"] == Ref("policy.r1")
    assert steps["policy.r2"].inputs["rows"] == Ref("mine.r2")


def test_model_and_data_replace_the_defaults_of_parts(library):
    steps = expanded(CALL, library(defaults={"n": 3}))
    assert steps["mine.candidates"]["config"]["n"] == 3
    call = {**CALL["steps"]["mine"], "with": {**CALL["steps"]["mine"]["with"], "n": 5}}
    assert (
        expanded({"steps": {**CALL["steps"], "mine": call}}, library(defaults={"n": 3}))[
            "mine.candidates"
        ]["config"]["n"]
        == 5
    )


def test_what_is_chosen_by_a_loop_variable_is_passed_with_the_step(library):
    policies = {"start": {"path": "org/model"}, "aligned": "base"}
    steps = expanded(
        {
            "steps": {
                "base": {"stage": "sft"},
                "m": {"part": "by_name", "with": {"policies": policies}},
            }
        },
        library(),
    )
    assert steps["m.answers"]["passed"]["inputs"] == {"policies": policies}
    assert steps["m.answers"]["foreach"] == {"policy": policies}
    assert steps["m"]["inputs"] == {"rows": "m.answers[${policy}]"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"part": "own_pair"}, "steps.mine.part: there is no part 'own_pair'; did you mean 'own_pairs'"),
        ({"part": "own_pairs", "with": {"policy": "base"}}, "steps.mine.with.prompts: missing; the part 'own_pairs' needs it"),
        ({"part": "own_pairs", "with": {"policy": "b", "prompts": "p", "k": 1}}, "steps.mine.with.k: unknown key"),
        ({"part": "bad", "with": {}}, "part bad: ${params}: a part sees what it takes and the groups; take it as a parameter"),
        ({"part": "typo", "with": {}}, "part typo: ${m}: a part sees what it takes and the groups; allowed: data, languages, model, n, round"),
        ({"part": "stray", "with": {}}, "steps.mine.x.inputs.rows: the part 'stray' has no step 'base'"),
        ({"part": "self", "with": {}}, "parts within parts more than 10 deep; does 'self' use itself?"),
        ({"part": "group", "with": {}}, "part group: model: a parameter cannot be named like a group or a value"),
        ({"part": "gives", "with": {}}, "part gives: gives: there is no step 'y'; did you mean"),
        ({"part": "reserved", "with": {}}, "part reserved: steps.r1: reserved"),
        ({"part": "broken", "with": {}}, "cannot be read as YAML"),
    ],
)  # fmt: skip
def test_mistakes(library, call, message):
    more = {
        "bad": 'steps: {x: {stage: sft, config: {n: "${params.n}"}}}',
        "typo": 'takes: {n: 1}\nsteps: {x: {stage: sft, config: {n: "${m}"}}}',
        "stray": "steps: {x: {stage: sft, inputs: {rows: base}}}",
        "self": "steps: {x: {part: self}}",
        "group": "takes: {model: 1}\nsteps: {x: {stage: sft}}",
        "gives": "steps: {yy: {stage: sft}}\ngives: y",
        "reserved": "steps: {r1: {stage: sft}}",
        "broken": "steps: [",
    }
    errors = errors_of({"steps": {**CALL["steps"], "mine": call}}, library(**more))
    assert len(errors) == 1 and message in errors[0], errors


def test_every_shipped_part_is_read():
    from mlalign.recipes import command_line, conf_files

    files = conf_files.options("part", [conf_files.conf_home()])
    assert len(files) >= 1
    library = parts.Library(files, (*command_line.GROUPS, *command_line.VALUES), {}, [])
    for name, path in files.items():
        assert library.get(name, name) is not None, library.errors
        assert path.read_text().startswith("# "), f"{name}: say what the part is for"
        assert set(yaml.safe_load(path.read_text())) <= set(parts.KEYS)
