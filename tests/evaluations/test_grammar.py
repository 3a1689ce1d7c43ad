"""What `evaluation=` means: files, lists, settings, and every mistake told once, at `plan`."""

from pathlib import Path

import pytest
import yaml
from evaluation_cases import write_lines
from helpers import PROJECT

from mlalign.core.errors import UserError
from mlalign.recipes import config, plan

FILES = sorted((PROJECT / "conf" / "evaluation").glob("*.yaml"))
NAMES = (
    "held_out",
    "mgsm",
    "xcopa",
    "rewardbench",
    "rewardbench2",
    "m_rewardbench",
    "language_confusion",
    "m_arenahard",
    "x_alpacaeval",
    "omgeval",
)
MEASURED = """
steps:
  rows: {part: rows}
  base: {stage: sft, inputs: {model: {path: "${model.path}"}, rows: rows.demonstrations}}
  policy: {stage: sft, inputs: {model: base, rows: rows.demonstrations}}
measure: {policies: [base, policy], prompts: rows.prompts}
"""
ROUNDS = """
steps:
  rows: {part: rows}
  base: {stage: sft, inputs: {model: {path: "${model.path}"}, rows: rows.demonstrations}}
rounds:
  count: 2
  init: {policy: base}
  steps: {policy: {stage: sft, inputs: {model: previous.policy, rows: rows.demonstrations}}}
  measure: {policies: [policy], prompts: rows.prompts}
"""


@pytest.fixture
def data(tmp_path) -> Path:
    """MGSM and XCOPA in two languages each."""
    for code in ("en", "sw"):
        (tmp_path / f"mgsm_{code}.tsv").write_text("2 + 2?\t4\n3 + 4?\t7\n", encoding="utf-8")
    choice = {
        "premise": "Alianguka.",
        "choice1": "A",
        "choice2": "B",
        "question": "effect",
        "label": 0,
        "idx": 1,
    }
    for code in ("sw", "ta"):
        write_lines(tmp_path / f"test.{code}.jsonl", [{**choice, "changed": False}])
    return tmp_path


def build(tmp_path, *arguments, recipe=None):
    argv = [f"root={tmp_path / 'root'}", "engine=transformers", *arguments]
    content = None if recipe is None else yaml.safe_load(recipe)
    return plan.build(config.load(argv, content))


def nodes(tmp_path, *arguments, recipe=None):
    return {node.name: node for node in build(tmp_path, *arguments, recipe=recipe).nodes}


def errors_of(tmp_path, *arguments, recipe=None):
    with pytest.raises(UserError) as caught:
        build(tmp_path, *arguments, recipe=recipe)
    return caught.value.messages


def of_data(data):
    return [f"evaluation.mgsm.root={data}", f"evaluation.xcopa.root={data}"]


def test_the_ten_evaluations_ship():
    assert set(NAMES) <= {path.stem for path in FILES}
    assert len(FILES) == 12


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_says_where_it_is_from(path):
    about = yaml.safe_load(path.read_text(encoding="utf-8"))["about"]
    assert about["origin"] in ("native", "localised", "translated") and about["title"]


@pytest.mark.slow
def test_two_policies_on_three_evaluations_need_no_yaml(tmp_path, data):
    plain = nodes(tmp_path, recipe=MEASURED)
    found = nodes(tmp_path, "evaluation=[held_out,mgsm,xcopa]", *of_data(data), recipe=MEASURED)
    assert {name: node.fingerprint for name, node in plain.items()}.items() <= {
        n: node.fingerprint for n, node in found.items()
    }.items()
    added = set(found) - set(plain)
    assert added == {
        "rows_mgsm",
        "measure_mgsm.answers[base]",
        "measure_mgsm.answers[policy]",
        "measure_mgsm.marks[base]",
        "measure_mgsm.marks[policy]",
        "measure_mgsm[base]",
        "measure_mgsm[policy]",
        "rows_xcopa",
        "measure_xcopa.marks[base]",
        "measure_xcopa.marks[policy]",
        "measure_xcopa[base]",
        "measure_xcopa[policy]",
    }
    step = found["measure_mgsm[policy]"]
    assert step.config.evaluation == {
        "name": "mgsm",
        "origin": "translated",
        "headline": ["accuracy"],
    }
    assert step.inputs["baseline"]["step"] == "measure_mgsm.answers[base]"
    assert found["measure_mgsm.answers[base]"].config.temperature == 0.0
    assert found["measure_xcopa.marks[policy]"].inputs["scorers"][0]["path"]["step"] == "policy"


def test_each_round_is_measured_and_compared_with_the_start(tmp_path, data):
    found = nodes(tmp_path, "evaluation=[mgsm,xcopa]", *of_data(data), recipe=ROUNDS)
    step = found["measure_round_mgsm.r2[policy]"]
    assert step.inputs["baseline"]["step"] == "measure_initial_mgsm.answers[policy]"
    assert (
        found["measure_round_xcopa.marks.r1[policy]"].inputs["scorers"][0]["path"]["step"]
        == "policy.r1"
    )
    assert (
        found["measure_initial_xcopa.marks[policy]"].inputs["scorers"][0]["path"]["step"] == "base"
    )


@pytest.mark.slow
def test_a_recipe_names_its_evaluations_and_the_command_line_has_the_last_word(tmp_path, data):
    recipe = MEASURED + "evaluation: [mgsm]\n"
    assert "measure_mgsm[base]" in nodes(tmp_path, *of_data(data)[:1], recipe=recipe)
    assert "measure_mgsm[base]" not in nodes(tmp_path, "evaluation=held_out", recipe=recipe)


@pytest.mark.slow
def test_settings_of_a_list_go_to_what_it_lists(tmp_path):
    for place in (
        "monolingual/aya",
        "monolingual/native",
        "monolingual/dolly",
        "monolingual/okapi",
        "crosslingual/okapi",
    ):
        folder = tmp_path / "lcb" / place
        folder.mkdir(parents=True)
        (folder / "fr.csv").write_text(
            "prompt,source,language\nBonjour ?,okapi,fr\n", encoding="utf-8"
        )
    key = "evaluation.language_confusion"
    found = nodes(
        tmp_path,
        "recipe=evaluate",
        "evaluation=language_confusion",
        f"{key}.root={tmp_path / 'lcb'}",
        f"{key}.ask.max_tokens=7",
    )
    for setting in ("monolingual", "crosslingual"):
        answers = found[f"measure_language_confusion_{setting}.answers[model]"]
        assert answers.config.max_tokens == 7 and answers.config.top_p == 0.75


def test_a_file_of_ones_own_stands_before_ours(tmp_path, data):
    own = tmp_path / "conf" / "evaluation"
    own.mkdir(parents=True)
    mine = yaml.safe_load((PROJECT / "conf/evaluation/mgsm.yaml").read_text(encoding="utf-8"))
    (own / "mgsm.yaml").write_text(
        yaml.safe_dump({**mine, "ask": {"max_tokens": 99}}), encoding="utf-8"
    )
    (own / "both.yaml").write_text(
        "about: {title: both, origin: translated}\nlists: [mgsm, xcopa]\n", encoding="utf-8"
    )
    arguments = [
        "recipe=evaluate",
        "evaluation=both",
        f"evaluation.both.root={data}",
        f"conf_dir={tmp_path / 'conf'}",
    ]
    found = nodes(tmp_path, *arguments)
    assert (
        found["measure_mgsm.answers[model]"].config.max_tokens == 99
        and "measure_xcopa[model]" in found
    )


@pytest.mark.slow
def test_only_the_languages_that_are_asked_for(tmp_path, data):
    found = nodes(
        tmp_path, "recipe=evaluate", "evaluation=mgsm", *of_data(data)[:1], "languages=[sw,tr]"
    )
    assert found["rows_mgsm"].config.languages == ["swh_Latn"]
    (message,) = errors_of(
        tmp_path, "recipe=evaluate", "evaluation=mgsm", *of_data(data)[:1], "languages=[tr]"
    )
    assert message.startswith(
        "evaluation mgsm: languages: it has none of those that are asked for; it has ben_Beng"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["evaluation=mgms"], "evaluation: there is no evaluation 'mgms'; did you mean 'mgsm'?"),
        (["evaluation=3"], "evaluation: expected a name or a list of names, got 3"),
        (
            ["evaluation=mgsm"],
            (
                "evaluation mgsm: root: missing; set it to the folder with the published files:"
                " evaluation.mgsm.root=PATH"
            ),
        ),
        (
            ["evaluation=rewardbench2"],
            (
                "evaluation rewardbench2: root: missing; set it to the folder with the published"
                " files: evaluation.rewardbench2.root=PATH, or evaluation.rewardbench2.revision to"
                " a commit of allenai/reward-bench-2 on the hub"
            ),
        ),
        (
            ["evaluation=mgsm", "evaluation.xcopa.root=x"],
            "evaluation.xcopa.root: 'xcopa' is not asked for; allowed: mgsm; say evaluation=xcopa",
        ),
        (
            ["evaluation.held_out.rot=x"],
            "evaluation held_out: rot: unknown key; did you mean 'root'?",
        ),
        (
            ["evaluation.held_out.ask.temprature=1"],
            "evaluation held_out: ask.temprature: unknown key; did you mean 'temperature'",
        ),
        (
            ["evaluation.held_out.metrics.acuracy_by=x"],
            "evaluation held_out: metrics.acuracy_by: unknown key; did you mean 'accuracy_by'?",
        ),
        (
            ["evaluation.held_out.headline=[acuracy]"],
            "evaluation held_out: headline: there is no metric 'acuracy'; did you mean 'accuracy'",
        ),
        (
            ["evaluation.held_out.scorers=[{family: lenth}]"],
            "evaluation held_out: scorers[0]: unknown family 'lenth'; did you mean 'length'?",
        ),
        (
            ["evaluation.held_out.ask.temperature=0"],
            "evaluation held_out: ask: the recipe's section `measure` says this of held-out rows;",
        ),
        (
            ["evaluation.held_out.about.origin=foreign"],
            "evaluation held_out: about.origin: 'foreign' is not possible; allowed: ",
        ),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_told_once(tmp_path, arguments, told):
    if "evaluation=mgsm" in arguments and len(arguments) == 2:
        arguments = [*arguments, f"evaluation.mgsm.root={tmp_path}"]
    messages = errors_of(tmp_path, "recipe=evaluate", *arguments)
    assert len(messages) == 1 and messages[0].startswith(told), messages


def test_a_recipe_without_measure_has_nothing_to_ask(tmp_path):
    (message,) = errors_of(tmp_path, "recipe=rm_transfer", "evaluation=mgsm")
    assert message.startswith("evaluation: the recipe has no section `measure`")


@pytest.mark.slow
def test_reward_models_must_be_named(tmp_path):
    write_lines(
        tmp_path / "rb" / "a.jsonl",
        [{"id": 1, "prompt": "a", "chosen": "b", "rejected": "c", "subset": "hep-go"}],
    )
    root = f"evaluation.rewardbench.root={tmp_path / 'rb'}"
    (message,) = errors_of(tmp_path, "evaluation=rewardbench", root, recipe=MEASURED)
    assert message.startswith(
        "evaluation: rewardbench is for reward models, and `measure` names none; add reward_models:"
        " [STEP]"
    )
    found = nodes(tmp_path, "recipe=reuse_your_rewards", "evaluation=[held_out,rewardbench]", root)
    assert found["measure_rewardbench.marks[reward]"].inputs["scorers"][0]["step"] == "reward"


def test_a_step_of_ones_own_may_not_be_named_like_one_of_measure(tmp_path):
    recipe = MEASURED + 'finally: {measure: {stage: report, inputs: {steps: "*"}}}\n'
    (message,) = errors_of(tmp_path, recipe=recipe)
    assert message == "steps.measure: `measure` makes a step of this name; rename yours"


@pytest.mark.slow
def test_files_that_list_each_other_are_refused(tmp_path):
    own = tmp_path / "conf" / "evaluation"
    own.mkdir(parents=True)
    for name, other in (("one", "two"), ("two", "one")):
        (own / f"{name}.yaml").write_text(
            f"about: {{title: x, origin: native}}\nlists: [{other}]\n", encoding="utf-8"
        )
    (message,) = errors_of(
        tmp_path, "recipe=evaluate", "evaluation=one", f"conf_dir={tmp_path / 'conf'}"
    )
    assert message == "evaluation two: lists: one -> two -> one list each other"
