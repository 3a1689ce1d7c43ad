"""Steps that were frozen to run later: beginning them, once for all tasks of an array, and what the
tasks keep apart.
"""

import pytest

from mlalign.core import claims, stage, store
from mlalign.core.progress import describe
from mlalign.evidence import collect
from mlalign.recipes import config, plan
from mlalign.running import run_dir, step


@pytest.fixture
def frozen(tmp_path):
    """A frozen `prepare` step, as submission writes it."""
    recipe = {
        "steps": {
            "rows": {"stage": "prepare", "config": {"kind": "prompt", "sources": "${data.prompts}"}}
        }
    }
    planned = plan.build(config.load([f"root={tmp_path}", "name=r"], recipe))
    path = tmp_path / "rows.json"
    store.write_json(
        path,
        {
            **run_dir.frozen(planned, planned.nodes[0]),
            "store": str(tmp_path / "store"),
            "slurm": {"requeue": True},
        },
    )
    return path


@pytest.mark.slow
def test_beginning_makes_the_partial_artifact(frozen):
    assert step.begin_frozen(frozen, (0, 1)) == 0
    told = (step.partial_of(frozen) / "config.yaml").read_text()
    assert "step: rows" in told and "slurm:" not in told


@pytest.mark.slow
def test_tasks_of_an_array_begin_once_and_keep_their_own_stops_apart(frozen):
    partial = step.partial_of(frozen)
    assert step.begin_frozen(frozen, (0, 2)) == 0
    for i in (0, 1):
        stage.own_file(partial, (i, 2), "STOP").touch()
    with claims.claim(partial, "part-1"):  # the other task is at work
        assert step.begin_frozen(frozen, (0, 2)) == 0
    stops = [
        stage.Output(partial, store.Store(partial.parent), part=(i, 2)).should_stop()
        for i in (0, 1)
    ]
    assert stops == [False, True]
    (partial / "STOP").touch()
    assert stage.Output(partial, store.Store(partial.parent), part=(0, 2)).should_stop()


@pytest.mark.slow
def test_a_whole_step_at_work_keeps_an_array_from_beginning(frozen, monkeypatch):
    step.begin_frozen(frozen, (0, 1))
    monkeypatch.setattr(step, "PATIENCE_S", 0)
    with (
        claims.claim(step.partial_of(frozen)),
        pytest.raises(store.UserError, match="is working on this step"),
    ):
        step.begin_frozen(frozen, (0, 2))


@pytest.mark.slow
def test_a_finished_step_has_nothing_to_begin(frozen, capsys):
    partial = step.partial_of(frozen)
    step.begin_frozen(frozen, (0, 1))
    step.execute(partial / "config.yaml")
    assert step.begin_frozen(frozen, (0, 1)) == stage.NOTHING_TO_DO
    assert "rows: is there already" in capsys.readouterr().out


def test_the_claim_of_this_job_before_a_requeue_is_dead(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with claims.claim(tmp_path):
        with pytest.raises(store.UserError):
            claims.refuse_owned(tmp_path)
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        claims.refuse_owned(tmp_path)


def test_progress_of_tasks_adds_up(tmp_path):
    for i, n in enumerate((3, 4)):
        output = stage.Output(tmp_path, store.Store(tmp_path), part=(i, 2))
        output.tally.keep("eng_Latn", n)
        output.progress(n, 10, "prompts")
    assert describe(tmp_path) == "7/20 prompts (eng_Latn 7)"


@pytest.mark.slow
def test_a_report_says_what_the_recipe_says_of_itself(tmp_path):
    steps = "steps:\n  rows: {stage: prepare, config: {kind: prompt, sources: '${data.prompts}'}}\n"
    steps += "finally:\n  report: {stage: report, inputs: {steps: '*'}}\n"
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(
        f"# My title.\n#\n# Paper      Some 2025, 'P'.\n# Expected   +3%.\n{steps}# not this\n"
    )
    planned = plan.build(config.load(["recipe=mine", f"conf_dir={tmp_path}", f"root={tmp_path}"]))
    rows, report = (run_dir.frozen(planned, node)["run"] for node in planned.nodes)
    told = collect.about(report)
    assert "about" not in rows and (told["title"], told["paper"], told["expected"]) == (
        "My title.",
        "Some 2025, 'P'.",
        "+3%.",
    )
    assert "not this" not in report["about"] and collect.about({})["title"] == ""
