"""The bridge to lm-evaluation-harness: places of tasks, tables, and a real run on task files of
one's own.
"""

import json
from pathlib import Path

import pytest

import mlalign
from mlalign.core import schema, stage
from mlalign.core.errors import UserError
from mlalign.core.store import Store, read_json
from mlalign.stages import lm_eval

TINY = Path(mlalign.__file__).parent / "data" / "tiny"


@pytest.mark.parametrize(
    ("task", "tasks", "told"),
    [
        ("belebele_swh_Latn", [], ("belebele", "swh_Latn")),
        ("xcopa_sw", ["xcopa_sw", "xcopa_ta"], ("xcopa", "swh_Latn")),
        ("mgsm_direct_zh", ["mgsm_direct_zh", "mgsm_direct_en"], ("mgsm_direct", "cmn_Hans")),
        ("hellaswag_cot", ["hellaswag_cot", "arc_easy"], ("hellaswag_cot", "und")),
        ("arc_easy", ["arc_easy", "arc_challenge"], ("arc_easy", "und")),
        ("hellaswag", ["hellaswag"], ("hellaswag", "eng_Latn")),
    ],
)
def test_the_language_of_a_task_is_read_from_its_name(task, tasks, told):
    assert lm_eval.place(task, tasks, {"hellaswag": "eng_Latn"}) == told


def test_rows_have_intervals_average_worst_language_and_gap():
    results = {
        "t_en": {"acc,none": 0.8, "acc_stderr,none": 0.03, "alias": "x"},
        "t_sw": {"acc,none": 0.6, "acc_stderr,none": 0.04},
    }
    told = {
        "results": results,
        "n-samples": {name: {"original": 50, "effective": 40} for name in results},
    }
    rows = {r["language"]: r for r in lm_eval.table(lm_eval.Config(tasks=["t"]), told)}
    assert {(r["metric"], r["by"]) for r in rows.values()} == {("acc", "t")}
    assert rows["swh_Latn"]["low"] == pytest.approx(0.6 - 1.959964 * 0.04)
    assert rows["avg"]["value"] == pytest.approx(0.7) and rows["avg"]["high"] == pytest.approx(
        0.7 + 1.959964 * 0.025
    )
    assert rows["worst"]["which"] == "swh_Latn" and rows["worst"]["n"] == 40
    assert rows["gap_to_english"]["value"] == pytest.approx(0.2)
    assert rows["gap_to_english"]["low"] == pytest.approx(0.2 - 1.959964 * 0.05)


def test_the_command_takes_adapters_on_their_base_and_refuses_what_is_an_input():
    adapter = lm_eval.Model("/m/adapter", "x", base=lm_eval.Model("/m/base", "y"))
    argv = lm_eval.command(
        lm_eval.Config(tasks=["a", "b"], limit=5, model_args={"max_length": 64}),
        adapter,
        Path("/out"),
    )
    assert (
        argv[argv.index("--model_args") + 1]
        == "pretrained=/m/base,dtype=auto,peft=/m/adapter,max_length=64"
    )
    assert argv[argv.index("--tasks") + 1] == "a,b" and argv[argv.index("--limit") + 1] == "5"
    with pytest.raises(UserError, match=r"model_args\.pretrained: .*input of the step"):
        schema.build(lm_eval.Config, {"tasks": ["a"], "model_args": {"pretrained": "x"}})


def write_task(folder: Path, name: str, items: list[tuple[str, list[str], int]]) -> None:
    lines = [
        json.dumps({"q": q, "choices": choices, "gold": gold}, ensure_ascii=False)
        for q, choices, gold in items
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test:"
        f" {folder / name}.jsonl}}}}\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text:"
        " '{{q}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target:"
        " '{{gold}}'\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better:"
        " true}]\n",
        encoding="utf-8",
    )


def run(tmp_path, **values):
    out = stage.Output(tmp_path / "x.partial", Store(tmp_path), step="lm_eval")
    out.path.mkdir(exist_ok=True)
    lm_eval.run(
        schema.build(lm_eval.Config, values),
        stage.Inputs(out.store, {"model": {"path": str(TINY)}}),
        out,
    )
    return out


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    english = [
        (
            f"Which number is the largest: {a} {b} 0 2?",
            [f"The largest number is {x}." for x in (a, b)],
            0,
        )
        for a, b in ((9, 6), (8, 3))
    ]
    swahili = [
        (
            f"Namba gani ni kubwa zaidi: {a} {b} 0 2?",
            [f"Namba kubwa zaidi ni {x}." for x in (a, b)],
            0,
        )
        for a, b in ((9, 6), (8, 3))
    ]
    write_task(folder, "largest_en", english)
    write_task(folder, "largest_sw", swahili)
    return folder


@pytest.mark.slow
@pytest.mark.long
def test_task_files_of_one_s_own_run_in_the_harness_and_are_grouped_by_language(tasks, tmp_path):
    pytest.importorskip(
        "lm_eval", reason="needs the extra `lm-eval`: pip install 'mlalign[lm-eval]'"
    )
    out = run(
        tmp_path,
        tasks=["largest_en", "largest_sw"],
        include_path=str(tasks),
        apply_chat_template=True,
        dtype="float32",
    )
    rows = {
        r["language"]: r
        for r in read_json(out.path / "metrics.json")["rows"]
        if r["metric"] == "acc"
    }
    assert set(rows) == {"eng_Latn", "swh_Latn", "avg", "worst", "gap_to_english"}
    assert {r["by"] for r in rows.values()} == {"largest"} and rows["avg"]["n"] == 4
    assert (
        rows["eng_Latn"]["value"] == rows["swh_Latn"]["value"] == 1.0
    )  # the shipped base knows how to find the largest number
    assert (out.path / "metrics.csv").read_text().startswith("metric,by,language")


@pytest.mark.slow
@pytest.mark.long
def test_a_task_that_the_harness_does_not_know_is_told_with_the_end_of_its_log(tmp_path):
    pytest.importorskip(
        "lm_eval", reason="needs the extra `lm-eval`: pip install 'mlalign[lm-eval]'"
    )
    with pytest.raises(UserError, match=r"lm_eval ended with status \d.*nosuchtask") as error:
        run(tmp_path, tasks=["nosuchtask"])
    assert "end of its log" in str(error.value)


def test_no_tasks_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="tasks: none"):
        run(tmp_path)
    with pytest.raises(UserError, match="include_path: there is no folder"):
        lm_eval.identity(lm_eval.Config(include_path=str(tmp_path / "none")))
