"""What recipes can say: small ones that must plan, and ones whose mistake must be told before
anything runs.
"""

import pytest
import yaml
from training_cases import write

from mlalign.core.errors import UserError
from mlalign.recipes import config, plan

START = '{path: "${model.path}"}'
PREFERENCES = (
    '  preferences: {stage: prepare, config: {kind: preference, sources: "${data.preferences}"}}\n'
)
PROMPTS = '  prompts: {stage: prepare, config: {kind: prompt, sources: "${data.prompts}"}}\n'
ANSWERS = (
    f"  answers: {{stage: generate, inputs: {{model: {START}, rows: prompts}}, config: {{split:"
    " train, n: 2}}\n"
)
MARKS = (
    "  marks: {stage: score, inputs: {rows: answers, scorers: [{family: length}, {family:"
    " language_adherence}]}}\n"
)
SCORED = "steps:\n" + PROMPTS + ANSWERS + MARKS


def build(tmp_path, text, *arguments):
    recipe = yaml.safe_load(text)
    return plan.build(config.load([f"root={tmp_path}", "engine=transformers", *arguments], recipe))


def nodes(tmp_path, text, *arguments):
    return {node.name: node for node in build(tmp_path, text, *arguments).nodes}


def errors_of(tmp_path, text, *arguments):
    with pytest.raises(UserError) as caught:
        build(tmp_path, text, *arguments)
    return caught.value.messages


# ------------------------------------------------------------------------------------ rounds, loops


@pytest.mark.slow
def test_rounds_may_begin_with_a_model_from_outside(tmp_path):
    text = (
        f"steps:\n{PREFERENCES}"
        + f"""
rounds:
  count: 2
  init: {{policy: {START}}}
  steps:
    policy: {{stage: preference, inputs: {{model: previous.policy, rows: preferences}}}}
"""
    )
    found = nodes(tmp_path, text)
    assert found["policy.r1"].inputs["model"]["path"].endswith("tiny")
    assert found["policy.r2"].inputs["model"]["step"] == "policy.r1"


@pytest.mark.slow
def test_each_language_has_its_own_model_and_guard_in_every_round(tmp_path):
    text = (
        f"steps:\n{PREFERENCES}"
        + f"""
  base: {{stage: preference, foreach: {{lang: [en, es]}}, inputs: {{model: {START}, rows: preferences}}, config: {{languages: ["${{lang}}"]}}}}
rounds:
  count: 2
  init: {{policy: base}}
  guards: [guard]
  steps:
    policy:
      stage: preference
      foreach: {{lang: [en, es]}}
      inputs: {{model: "previous.policy[${{lang}}]", rows: preferences}}
      config: {{languages: ["${{lang}}"]}}
    guard:
      stage: select
      foreach: {{lang: [en, es]}}
      inputs: {{candidates: ["previous.policy[${{lang}}]", "policy[${{lang}}]"], evidence: []}}
"""
    )
    found = nodes(tmp_path, text)
    assert found["policy.r1[spa_Latn]"].inputs["model"]["step"] == "base[spa_Latn]"
    assert [guard["step"] for guard in found["policy.r2[spa_Latn]"].guards] == [
        "guard.r1[spa_Latn]"
    ]


def test_the_best_of_several_variants_may_be_chosen_within_a_round(tmp_path):
    text = (
        f"steps:\n{PREFERENCES}"
        + f"""
  base: {{stage: preference, inputs: {{model: {START}, rows: preferences}}}}
rounds:
  count: 2
  init: {{policy: base}}
  steps:
    variant: {{stage: preference, foreach: {{beta: [0.1, 0.05]}}, inputs: {{model: previous.policy, rows: preferences}}, config: {{beta: "${{beta}}"}}}}
    policy: {{stage: select, inputs: {{candidates: "variant[*]", evidence: []}}}}
"""
    )
    found = nodes(tmp_path, text)
    assert [c["step"] for c in found["policy.r2"].inputs["candidates"]] == [
        "variant.r2[0.1]",
        "variant.r2[0.05]",
    ]
    assert (
        found["variant.r2[0.1]"].inputs["model"]["step"] == "policy.r1"
        and found["variant.r2[0.1]"].guards == []
    )


def test_a_setting_may_differ_by_round(tmp_path):
    text = (
        f"params: {{betas: [0.1, 0.05]}}\nsteps:\n{PREFERENCES}"
        + f"""
  base: {{stage: preference, inputs: {{model: {START}, rows: preferences}}}}
rounds:
  count: 3
  init: {{policy: base}}
  steps:
    policy: {{stage: preference, inputs: {{model: previous.policy, rows: preferences}}, config: {{beta: "${{of_round:${{params.betas}}}}", seed: "${{round}}"}}}}
"""
    )
    found = nodes(tmp_path, text)
    assert [found[f"policy.r{n}"].config.beta for n in (1, 2, 3)] == [0.1, 0.05, 0.05]
    assert [found[f"policy.r{n}"].config.seed for n in (1, 2, 3)] == [1, 2, 3]
    wrong = text.replace("${of_round:${params.betas}}", "${params.betas.${round}}")
    assert errors_of(tmp_path, wrong) == [
        "steps.policy.config.beta: ${params.betas.${round}} takes no element of a list; write"
        " ${of_round:${params.betas}} for the one of this round"
    ]


def test_the_languages_of_a_cluster(tmp_path):
    text = (
        "params: {clusters: {a: [spa_Latn, fra_Latn], b: [rus_Cyrl]}}\nsteps:\n"
        + PREFERENCES
        + f"""
  arm:
    stage: preference
    foreach: {{cluster: "${{params.clusters}}", steps: [10, 20]}}
    inputs: {{model: {START}, rows: preferences}}
    config: {{languages: "${{params.clusters.${{cluster}}}}", trainer: {{max_steps: "${{steps}}"}}}}
"""
    )
    found = nodes(tmp_path, text)
    assert found["arm[a,20]"].config.languages == ["spa_Latn", "fra_Latn"]
    assert found["arm[b,10]"].config.trainer["max_steps"] == 10


@pytest.mark.slow
def test_a_scorer_of_a_round_has_one_name_in_every_round(tmp_path):
    text = (
        f"steps:\n{PREFERENCES}{PROMPTS}{ANSWERS}"
        + f"""
  first: {{stage: reward, inputs: {{model: {START}, rows: preferences}}}}
rounds:
  count: 2
  init: {{student: first}}
  steps:
    scores: {{stage: score, inputs: {{rows: answers, scorers: [{{step: previous.student, name: student}}, {{family: language_adherence}}]}}}}
    pairs: {{stage: pairs, inputs: {{rows: answers, scores: scores}}, config: {{score: student}}}}
    student: {{stage: reward, inputs: {{model: previous.student, rows: pairs}}}}
"""
    )
    found = nodes(tmp_path, text)
    assert [found[f"scores.r{n}"].inputs["scorers"][0]["name"] for n in (1, 2)] == [
        "student",
        "student",
    ]
    wrong = text.replace("{step: previous.student, name: student}", "previous.student")
    assert any("have no column 'student'" in message for message in errors_of(tmp_path, wrong))


@pytest.mark.slow
def test_a_recipe_within_the_cap_on_rounds(tmp_path):
    text = (
        'params: {n: 25}\nsteps: {a: {stage: prepare}}\nrounds: {count: "${params.n}", steps: {b:'
        " {stage: prepare}}}"
    )
    (message,) = [m for m in errors_of(tmp_path, text) if m.startswith("rounds")]
    assert message.startswith(
        "rounds.count: 25 rounds are more than max_rounds=20,"
    ) and message.endswith("set max_rounds=25 if you mean it")
    assert not any(m.startswith("rounds") for m in errors_of(tmp_path, text, "max_rounds=25"))


# --------------------------------------------------------------------------------- data, parameters


@pytest.mark.slow
def test_a_data_set_may_have_roles_of_its_own(tmp_path):
    (tmp_path / "conf" / "data").mkdir(parents=True)
    source = "{adapter: tiny_world, split: train, options: {n: 4}}"
    (tmp_path / "conf" / "data" / "mine.yaml").write_text(f"languages: tiny\njudging: [{source}]\n")
    arguments = ("data=mine", f"conf_dir={tmp_path / 'conf'}")
    text = (
        "steps: {judging: {stage: prepare, config: {kind: demonstration, sources:"
        ' "${data.judging}"}}}'
    )
    assert nodes(tmp_path, text, *arguments)["judging"].config.sources
    (message,) = errors_of(tmp_path, text.replace("data.judging", "data.judgin"), *arguments)
    assert (
        message
        == "steps.judging.config.sources: ${data.judgin} means nothing: data=mine has no role"
        " 'judgin'; did you mean 'judging'?"
    )


@pytest.mark.slow
def test_parameters_of_parts_are_set_by_model_and_command_line(tmp_path):
    rates = {
        arguments: (
            nodes(
                tmp_path,
                "steps: {rows: {part: rows}, policy: {part: sft, with: {start: {path: org}, rows:"
                " rows.demonstrations}}}".replace("{path: org}", START),
                *arguments,
            )["policy"].config.trainer["learning_rate"]
        )
        for arguments in ((), ("sft_learning_rate=5e-6",), ("model.params.sft_learning_rate=7e-6",))
    }
    assert list(rates.values()) == [3e-4, 5e-6, 7e-6]  # the first is what model=tiny says


@pytest.mark.slow
def test_what_a_recipe_changes_at_scale_tiny(tmp_path):
    text = (
        SCORED.replace("n: 2", 'n: "${params.n}"')
        + "params: {n: 64}\ntiny: {n: 2, steps.answers.config.max_tokens: 7}\n"
    )
    assert [
        getattr(nodes(tmp_path, text)["answers"].config, key) for key in ("n", "max_tokens")
    ] == [2, 7]
    assert nodes(tmp_path, text, "n=3")["answers"].config.n == 3
    assert nodes(tmp_path, text, "scale=one_gpu")["answers"].config.n == 64


def test_a_wrong_key_in_tiny_is_told_as_one_of_tiny(tmp_path):
    [message] = errors_of(tmp_path, SCORED + "tiny: {limit: 2}\n")
    assert message.startswith("tiny.limit: unknown key; allowed: ")
    assert message.endswith("; any setting of a step: steps.STEP.config.KEY")


SIMPO = (
    f"steps:\n{PREFERENCES}  other: {{stage: preference, inputs: {{model: {START}, rows:"
    f" preferences}}}}\n  policy: {{stage: preference, config: {{loss: simpo}}, inputs: {{model:"
    f" {START}, rows: preferences, reference: REFERENCE}}}}\n"
)


def test_a_loss_without_a_reference_ignores_the_model_that_it_trains(tmp_path):
    text = SIMPO.replace("REFERENCE", START)
    assert nodes(tmp_path, text)["policy"].config.loss == "simpo"


def test_a_loss_without_a_reference_refuses_another_model(tmp_path):
    assert errors_of(tmp_path, SIMPO.replace("REFERENCE", "other")) == [
        "steps.policy.inputs.reference: simpo has no reference model; leave it out (in a recipe,"
        " `reference: null`)"
    ]


@pytest.mark.slow
def test_steps_of_parts_are_named_on_the_command_line(tmp_path):
    text = (
        f"steps: {{rows: {{part: rows}}, pairs: {{part: own_pairs, with: {{policy: {START},"
        " prompts: rows.prompts, scorers: [{family: length}]}}}"
    )
    found = nodes(
        tmp_path, text, "steps.pairs.candidates.config.n=3", "steps.pairs.config.min_margin=0.5"
    )
    assert (found["pairs.candidates"].config.n, found["pairs"].config.min_margin) == (3, 0.5)
    planned = build(tmp_path, text, "only=pairs", "force=pairs.scores")
    from mlalign.running import run_dir

    assert run_dir.selection(planned) == {
        "run": {"pairs", "pairs.candidates", "pairs.scores"},
        "anew": {"pairs.scores"},
    }
    assert (
        "steps.pair: the recipe has no such step; did you mean 'pairs'"
        in errors_of(tmp_path, text, "steps.pair.config.n=3")[0]
    )


@pytest.mark.slow
def test_equal_steps_are_one(tmp_path):
    planned = build(tmp_path, SCORED + ANSWERS.replace("answers:", "again:"))
    assert "again" not in [node.name for node in planned.nodes]
    assert [(step.name, name) for step, name in planned.same] == [("again", "answers")]


# ------------------------------------------------------------------------------------------ measure


@pytest.mark.slow
def test_policies_are_measured_against_the_first(tmp_path):
    text = (
        f"steps: {{rows: {{part: rows}}, policy: {{part: sft, with: {{start: {START}, rows:"
        " rows.demonstrations}}}\n"
    )
    text += (
        "measure: {policies: [{path: '${model.path}', name: start}, policy], prompts: rows.prompts,"
        " n_eval: 2}"
    )
    found = nodes(tmp_path, text)
    assert {
        "measure[start]",
        "measure[policy]",
        "measure.answers[start]",
        "measure.marks[policy]",
    } <= found.keys()
    assert "baseline" not in found["measure[start]"].inputs
    assert found["measure[policy]"].inputs["baseline"]["step"] == "measure.answers[start]"
    assert found["measure.answers[start]"].inputs["model"]["path"].endswith("tiny")
    (message,) = errors_of(tmp_path, text.replace(", name: start", ""))
    assert message.startswith("measure.policies: ") and "needs a name" in message


# ------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("steps", "messages"),
    [
        ("  pairs: {stage: pairs, inputs: {rows: answers, scores: marks}, config: {score: nonsense}}",
         ["steps.pairs.config.score: the scores have no column 'nonsense'; allowed: language_adherence, length"]),
        ("  metrics: {stage: evaluate, inputs: {rows: answers, scores: marks}, config: {select_by: lenght}}",
         ["steps.metrics.config.select_by: the scores have no column 'lenght'; did you mean 'length'?"]),
        ("  metrics: {stage: evaluate, inputs: {rows: answers, scores: marks}}\n"
         "  pick: {stage: select, inputs: {candidates: [{path: '${model.path}'}], evidence: [metrics]}, config: {metric: acuracy}}",
         ["steps.pick.config.metric: evaluations have no column 'acuracy'; did you mean 'accuracy'"]),
        (f"  again: {{stage: generate, inputs: {{model: {START}, rows: answers}}}}",
         ["steps.again.inputs.rows: answers gives candidates rows; generate reads prompt or demonstration or preference rows here"]),
        ("  more: {stage: score, inputs: {rows: prompts, scorers: [{family: length}]}}",
         ["steps.more.inputs.rows: prompts gives prompt rows; score reads candidates or preference or ranking rows here"]),
        (f"  policy: {{stage: preference, inputs: {{model: {START}, rows: answers}}}}",
         ["steps.policy.inputs.rows: answers gives candidates rows; preference reads preference rows here"]),
        (f"  rm: {{stage: reward, inputs: {{model: {START}, rows: prompts}}}}",
         ["steps.rm.inputs.rows: prompts gives prompt rows; reward reads preference rows here"]),
        ("  pairs: {stage: pairs, inputs: {rows: answers, scores: answers}}",
         ["steps.pairs.inputs.scores: answers gives candidates rows; pairs reads scores rows here"]),
        ("  best: {stage: pairs, inputs: {rows: answers, scores: marks}, config: {method: best_of_n}}\n"
         f"  policy: {{stage: preference, inputs: {{model: {START}, rows: best}}}}",
         ["steps.policy.inputs.rows: best gives demonstration rows; preference reads preference rows here"]),
        ("  pairs: {stage: pairs, inputs: {rows: answers, scores: marks}, config: {method: best_worse}}",
         ["steps.pairs.config.method: 'best_worse' is no pairing method; did you mean 'best_worst'"]),
        (f"  policy: {{stage: preference, inputs: {{model: {START}, rows: nothing}}}}",
         ["steps.policy.inputs.rows: there is no step 'nothing'; allowed: answers, marks, policy, prompts"]),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_what_cannot_run_is_refused_with_one_cause(tmp_path, steps, messages):
    found = errors_of(tmp_path, SCORED + steps)
    assert len(found) == len(messages) and all(
        f.startswith(m) for f, m in zip(found, messages, strict=True)
    ), found


@pytest.mark.slow
def test_a_wrong_init_is_told_once(tmp_path):
    text = (
        f"steps:\n{PREFERENCES}"
        + f"""
  base: {{stage: preference, inputs: {{model: {START}, rows: preferences}}}}
rounds: {{count: 2, init: {{polcy: base}}, steps: {{policy: {{stage: preference, inputs: {{model: previous.policy, rows: preferences}}}}}}}}
"""
    )
    assert errors_of(tmp_path, text) == [
        "rounds.init.polcy: no step of the rounds has this name; did you mean 'policy'?"
    ]


def test_rows_from_outside_say_their_kind(tmp_path):
    rows = write(tmp_path / "rows", "demonstration")
    text = f"steps: {{rm: {{stage: reward, inputs: {{model: {START}, rows: {{path: {rows}}}}}}}}}"
    (message,) = errors_of(tmp_path, text)
    assert (
        message
        == "steps.rm.inputs.rows: rows gives demonstration rows; reward reads preference rows here"
    )


@pytest.mark.slow
def test_what_a_recipe_gives_to_a_part_is_not_the_command_lines(tmp_path):
    text = (
        f"steps: {{rows: {{part: rows}}, pairs: {{part: own_pairs, with: {{policy: {START},"
        " prompts: rows.prompts, scorers: [{family: length}], n: 3}}}"
    )
    assert nodes(tmp_path, text, "temperature=0.5")["pairs.candidates"].config.temperature == 0.5
    (message,) = errors_of(tmp_path, text, "n=5")
    assert message.startswith("n: unknown key")


@pytest.mark.slow
def test_an_initial_step_that_no_round_repeats(tmp_path):
    text = (
        f"steps:\n{PREFERENCES}"
        + f"""
  base: {{stage: preference, inputs: {{model: {START}, rows: preferences}}}}
rounds:
  count: 1
  init: {{policy: base, start: base, star: base}}
  steps: {{policy: {{stage: preference, inputs: {{model: previous.policy, rows: preferences, reference: initial.start}}}}}}
"""
    )
    (message,) = errors_of(tmp_path, text)
    assert message.startswith("rounds.init.star: no step of the rounds has this name")
    assert (
        nodes(tmp_path, text.replace(", star: base", ""))["policy.r1"].inputs["reference"]["step"]
        == "base"
    )
