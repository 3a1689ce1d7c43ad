"""The command line as people use it: what it says, how fast it answers, and what it never does (a
traceback).
"""

import subprocess
import sys

import pytest

TRAIN = (
    "steps: {rows: {stage: prepare, config: {kind: prompt, sources: '${data.prompts}'}}, base:"
    " {stage: sft, inputs: {model: {path: '${model.path}'}, rows: rows}}}"
)


def recipe(folder, text, name="mine"):
    (folder / "recipe").mkdir(exist_ok=True)
    (folder / "recipe" / f"{name}.yaml").write_text(text)
    return [f"recipe={name}", f"conf_dir={folder}"]


def check_refused(done, *told):
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for text in told:
        assert text in done.stderr, done.stderr
    return done.stderr.strip().splitlines()


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["launcher=slurm"],
        ["n=2,4", "-m"],
        ["n=choice(2,4)", "search.trials=2", "metric=accuracy"],
    ],
)
@pytest.mark.slow
def test_a_root_that_cannot_be_made_is_told(mlalign, tmp_path, more):
    (tmp_path / "file").write_text("")
    done = mlalign(
        "run",
        "recipe=reuse_your_rewards",
        "engine=transformers",
        f"root={tmp_path / 'file'}",
        *more,
    )
    assert done.returncode == 1
    assert "cannot be made (Not a directory); choose another root=" in done.stderr
    assert "Traceback" not in done.stderr and "waits for" not in done.stdout


def test_help_names_every_command_and_stage(mlalign):
    done = mlalign("--help")
    assert done.returncode == 0
    for word in (
        "run",
        "plan",
        "results",
        "sweep",
        "status",
        "logs",
        "cancel",
        "recipes",
        "languages",
        "doctor",
        "prepare",
        "preference",
    ):
        assert word in done.stdout
    assert mlalign().stdout == done.stdout


@pytest.mark.parametrize(
    "stage",
    [
        "prepare",
        "sft",
        "reward",
        "generate",
        "score",
        "pairs",
        "preference",
        "evaluate",
        "select",
        "report",
    ],
)
def test_every_stage_has_help(mlalign, stage):
    done = mlalign(stage, "--help")
    assert done.returncode == 0
    assert "meaning" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean 'run'"),
        (["run"], "recipe: missing"),
        (
            ["run", "recipe=reuse_your_reward"],
            "there is no recipe 'reuse_your_reward'; did you mean 'reuse_your_rewards'",
        ),
        (["plan", "recipe=candidates", "scale=huge"], "scale: there is no scale 'huge'"),
        (["plan", "recipe=candidates", "model=qwen3_8"], "did you mean 'qwen3_8b'"),
        (["plan", "recipe=candidates", "model=./nowhere"], "there is no file or directory"),
        (
            ["plan", "recipe=candidates", "tempurature=1"],
            "tempurature: unknown key; did you mean 'temperature'",
        ),
        (
            ["plan", "recipe=candidates", "steps.candidate.config.n=1"],
            "steps.candidate: the recipe has no such step; did you mean 'candidates'",
        ),
        (
            ["plan", "recipe=candidates", "steps.candidates.config.nn=1"],
            "steps.candidates.config.nn: unknown key",
        ),
        (
            ["plan", "recipe=candidates", "steps.candidates.config.engine.args.max_model_length=1"],
            "did you mean 'max_model_len'",
        ),
        (
            ["plan", "recipe=candidates", "n=many"],
            "steps.candidates.config.n: expected a whole number, got 'many'",
        ),
        (["plan", "recipe=candidates", "languages=[swahilli]"], "wahili"),
        (["plan", "recipe=candidates", "n=1,2"], "several values at once make a sweep"),
        (["plan", "recipe=candidates", "n"], "n: expected key=value"),
        (["plan", "recipe=candidates", "name=a/b"], "name: 'a/b' cannot be a directory's name"),
        (["plan", "recipe=candidates", "conf_dir=nowhere"], "conf_dir: there is no folder"),
        (
            ["plan", "recipe=candidates", "only=candidatez"],
            "only: the recipe has no step 'candidatez'; did you mean 'candidates'",
        ),
        (
            ["plan", "recipe=candidates", "use.promptz=x"],
            "use.promptz: the recipe has no such step; did you mean 'rows.prompts'",
        ),
        (
            ["plan", "recipe=iterative_dpo", "rounds=99"],
            "rounds.count: 99 rounds, and max_rounds=20",
        ),
        (
            ["plan", "recipe=reuse_your_rewards", "deepspeed=zero9"],
            "there is no DeepSpeed configuration 'zero9'",
        ),
        (
            ["plan", "recipe=reuse_your_rewards", "devices=0"],
            "error: devices: expected a whole number from 1, got 0",
        ),
        (
            ["plan", "recipe=reuse_your_rewards", "data.params.bta=1"],
            "data.params.bta: the recipe has no such parameter; did you mean 'beta'",
        ),
        (
            ["plan", "recipe=candidates", "data.rooot=x"],
            "data.rooot: unknown key; did you mean 'root'",
        ),
        (
            ["plan", "recipe=candidates", "launcher.nme=x"],
            "launcher.nme: unknown key; did you mean 'name'",
        ),
        (
            ["plan", "recipe=candidates", "scale.engine_args.vlm.x=1"],
            "scale.engine_args.vlm: unknown; did you mean 'vllm'",
        ),
        (["plan", "recipe=candidates", "data.prompts.0.path=x"], "prompts is no mapping"),
        (["plan", "recipe=candidates", "steps.candidates.config.n.x=1"], "n is no mapping"),
        (
            ["plan", "recipe=candidates", "use.rows.prompts=rows.jsonl"],
            "is no rows artifact; bring files in with `mlalign prepare`",
        ),
        (["recipes", "bogus=1"], "bogus: unknown key"),
        (["status", "name=none"], "there is no run 'none'"),
        (["status", "nam=x"], "nam: unknown key; did you mean 'name'"),
        (["logs"], "name: missing"),
        (["run", "recipe=candidates", "launcher=slurm"], "launcher"),
    ],
)
@pytest.mark.slow
def test_mistakes_get_one_message_and_no_traceback(mlalign, arguments, told):
    check_refused(mlalign(*arguments), told)


@pytest.mark.slow
def test_all_mistakes_are_reported_together(mlalign):
    done = mlalign(
        "plan",
        "recipe=reuse_your_rewards",
        "bta=1",
        "languages=[swahilli,eng]",
        "steps.policy.config.trainer.learning_rat=1",
        "scale=hue",
    )
    lines = check_refused(done, "bta", "learning_rat", "wahili", "scale")
    assert len(lines) == 4


@pytest.mark.parametrize(
    "argument",
    ["seed=abc", "devices=two", "engine.dtype=float99", "model.chat_template=none.jinja"],
)
@pytest.mark.slow
def test_a_mistake_that_many_steps_share_is_told_once_under_the_key_that_set_it(mlalign, argument):
    (line,) = check_refused(mlalign("plan", "recipe=reuse_your_rewards", argument))
    assert line.startswith(f"error: {argument.partition('=')[0]}: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            TRAIN.replace("rows: rows}", "rows: rowz}"),
            "there is no step 'rowz'; did you mean 'rows'",
        ),
        (TRAIN.replace("stage: sft", "stage: stf"), "unknown stage 'stf'; did you mean 'sft'"),
        (
            TRAIN.replace("rows: rows}", "row: rows}"),
            "steps.base.inputs.row: sft has no such input; did you mean 'rows'",
        ),
        (TRAIN.replace(", rows: rows}", "}"), "steps.base.inputs.rows: missing"),
        (TRAIN.replace("rows: rows}", "rows: base}"), "a cycle"),
        (TRAIN.replace("${model.path}", "${modle.path}"), "cannot be resolved"),
        ("rounds: {count: 1}", "rounds.steps: missing"),
        ("rounds: [1]", "rounds: expected a mapping"),
        ("[1, 2]", "mine.yaml: expected a mapping"),
        ("params: [a]", "params: expected a mapping"),
        ("steps: {a: {stage: sft, inputs: [x, y]}}", "steps.a.inputs: expected a mapping"),
        ("steps: {a: {stage: sft, config: 3}}", "steps.a.config: expected a mapping"),
        ("steps: {no: {stage: sft}}", "quote it"),
        (
            "steps: {a: {stage: sft}}\nfinally: {a: {stage: report}}",
            "steps.a: two steps have this name",
        ),
        ("params: {n: 1}\nsteps: [", "configuration"),
        ("params: {n: 1}", "the recipe has no steps"),
        (
            (
                "steps: {rows: {stage: prepare, config: {kind: prompt, sources:"
                " '${data.prompts}'}}, marks: {stage: score, inputs: {rows: rows, scorers: [{model:"
                " x}]}}}"
            ),
            "give `family` (a scorer), or the name of a step",
        ),
        (
            (
                "steps: {rows: {stage: prepare, config: {kind: prompt, sources:"
                " '${data.prompts}'}}, marks: {stage: score, inputs: {rows: rows, scorers:"
                " [{family: lenth}]}}}"
            ),
            "did you mean 'length'",
        ),
        (TRAIN.replace("kind: prompt", "kind: prompt, languages: [no]"), "quote"),
    ],
)
@pytest.mark.slow
def test_mistakes_in_a_recipe_are_named(mlalign, tmp_path, text, told):
    check_refused(mlalign("plan", *recipe(tmp_path, text)), told)


@pytest.mark.slow
def test_model_directory_without_tokenizer_or_config(mlalign, tmp_path):
    (tmp_path / "model").mkdir()
    check_refused(
        mlalign("plan", "recipe=candidates", "model=./model"),
        "is no model directory (no config.json",
    )
    (tmp_path / "model" / "config.json").write_text("{}")
    check_refused(mlalign("plan", "recipe=candidates", "model=./model"), "has no tokenizer")


@pytest.mark.slow
def test_another_recipes_run_directory_is_check_refused(mlalign, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "plan.json").write_text('{"recipe": "other"}')
    for command in ("plan", "run"):
        check_refused(
            mlalign(command, "recipe=candidates", "name=mine"),
            "belongs to recipe 'other', not 'candidates'; give this run another name=",
        )


@pytest.mark.slow
def test_paths_with_spaces_and_quotes(mlalign, tmp_path):
    root = tmp_path / "a b's = [1]"
    root.mkdir()
    done = mlalign("plan", "recipe=candidates", f"root={root}", "show=commands")
    assert done.returncode == 0, done.stderr
    assert "a b" in done.stdout


@pytest.mark.slow
def test_help_and_errors_do_not_import_what_is_heavy():
    code = (
        "import sys; from mlalign.cli import main; main({}); print([m for m in ('torch',"
        " 'transformers', 'trl', 'vllm', 'datasets') if m in sys.modules])"
    )
    for arguments in (
        ["--help"],
        ["plan", "recipe=reuse_your_rewards"],
        ["plan", "recipe=x"],
        ["plan", "recipe=iterative_dpo", "bta=1"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)],
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "languages"),
    [
        (["sft"], "${languages}"),
        (["sft", "rows=X"], "none of its own"),
        (["sft", "rows=X", "languages=[sw]"], "${languages}"),
        (["pairs", "rows=X", "scores=Y"], "none of its own"),
        (["select", "candidates=X"], "none of its own"),
        (["prepare", "kind=prompt"], "${languages}"),
        (["prepare", "kind=prompt", "sources=[]"], "none of its own"),
    ],
)
def test_a_stage_alone_on_own_rows_takes_the_languages_of_its_rows(
    monkeypatch, arguments, languages
):
    from mlalign import cli

    seen = []
    monkeypatch.setattr(
        cli, "_run_or_plan", lambda arguments, *, dry, recipe: seen.append(recipe) or 0
    )
    assert cli.main(arguments) == 0
    (step,) = seen[0]["steps"].values()
    assert step["config"].get("languages", "none of its own") == languages
