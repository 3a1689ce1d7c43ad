"""`rm-score score`: what a person gets, whatever happens on the way. Most tests call the command within this process."""

import contextlib
import gzip
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import PROJECT

from reward_models import files
from reward_models.__main__ import main
from reward_models.items import Scores
from reward_models.jobs import job, parallel, scoring, survey

ROWS = [{"id": f"r{i}", "prompt": f"What is {i} + 1?", "response": "x" * (i % 17), "n": i, "language": "en"} for i in range(50)]
COMMAND = (sys.executable, "-m", "reward_models", "score")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


def write(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def score(tmp_path, monkeypatch, capfd):
    """The command with the family `length`, in `tmp_path`: `score("--input", …)` -> (exit status, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, family=("--family", "length"), output="scores.jsonl"):
        capfd.readouterr()
        status = main(["score", *family, "--output", str(output), *map(str, arguments)])
        return status, capfd.readouterr().err

    return call


def process(folder, *arguments, env=None, **options):
    told = {
        "text": True,
        "capture_output": True,
        "timeout": 120,
        "cwd": folder,
        "env": {**ENVIRONMENT, **(env or {})},
        **options,
    }
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, **told)


# ------------------------------------------------------------------------------------------------------------ row shapes


def test_every_shape_of_row_in_one_file(score, tmp_path):
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "four"}
    rows = [
        {"prompt": "q", "response": "a", "extra": 1.50},
        {"prompt": [user], "responses": ["a", "bb"], "extra": None},
        {"prompt": "q", "responses": []},
        {"messages": [user, answer]},
        {"prompt": "q", "chosen": "aaa", "rejected": [answer]},
        {"chosen": [user, answer], "rejected": [user, {**answer, "content": ""}]},
    ]
    write(tmp_path / "rows.jsonl", rows)
    assert score("--input", "rows.jsonl") == (0, "scores.jsonl: 6 rows, 8 answers\n")
    added = [
        {"score": 1.0}, {"scores": [1.0, 2.0]}, {"scores": []}, {"score": 4.0}, {"score_chosen": 3.0, "score_rejected": 4.0},
        {"score_chosen": 4.0, "score_rejected": 0.0},
    ]  # fmt: skip
    assert read(tmp_path / "scores.jsonl") == [{**row, **more} for row, more in zip(rows, added, strict=True)]


def test_a_line_is_kept_as_it_was_written(score, tmp_path):
    lines = [
        '{"prompt":"q","response":"é","big":123456789012345678901234567890,"f":1.10}',
        '  {"prompt": "q" , "response": "\\u00e9", "nan": NaN }\r',
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n\n".join(lines).encode())
    assert score("--input", "rows.jsonl")[0] == 0
    assert (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines() == [
        '{"prompt":"q","response":"é","big":123456789012345678901234567890,"f":1.10, "score": 1.0}',
        '{"prompt": "q" , "response": "\\u00e9", "nan": NaN, "score": 1.0}',
    ]


def test_rows_of_mlalign(score, tmp_path):
    from mlalign import rows

    common = {"group_id": "g", "prompt_lang": "swh_Latn", "source": "s", "origin": "native", "split": "eval", "prompt": rows.messages("q")}
    answers = [{"candidate_id": f"c{i}", "text": "x" * i, "reasoning": None, "n_tokens": i, "finish_reason": "stop"} for i in (1, 2)]
    candidates = [{**common, "id": "a", "response_lang_requested": None, "reference": None, "responses": answers}]
    sides = {"chosen": rows.messages("yes", "assistant"), "rejected": rows.messages("n", "assistant")}
    rows.write_shard(tmp_path / "candidates.parquet", "candidates", candidates)
    rows.write_shard(tmp_path / "preferences.parquet", "preference", [{**common, "id": "b", **sides}])
    assert score("--input", "candidates.parquet", output="c.parquet")[0] == 0
    assert score("--input", "preferences.parquet", output="p.parquet") == (0, "p.parquet: 1 rows, 2 answers\n")
    assert pq.read_table(tmp_path / "c.parquet")["scores"].to_pylist() == [[1.0, 2.0]]
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.select(["score_chosen", "score_rejected", "id"]).to_pylist() == [{"score_chosen": 3.0, "score_rejected": 1.0, "id": "b"}]
    assert table.column_names.count("score_chosen") == 1 and table.schema.field("score_chosen").type == pa.float64()
    assert score("--input", "preferences.parquet", output="p.jsonl")[0] == 0
    assert (tmp_path / "p.jsonl").read_text().count('"score_chosen": 3.0') == 1
    status, said = score("--input", "p.jsonl", output="again.jsonl")
    assert status == 2 and "has a column 'score_chosen', 'score_rejected' already" in said
    assert json.loads((tmp_path / "p.parquet.json").read_text())["counts"]["languages"] == {"swh_Latn": {"answers": 2}}


def test_columns_under_other_names_and_a_language_for_rows_that_name_none(score, tmp_path):
    rows = [{"question": "q", "answer": "jibu ni nne", "score": 7}, {"question": "q", "answer": "It is four.", "language": "en"}]
    write(tmp_path / "rows.jsonl", rows)
    told = ("--prompt-column", "question", "--response-column", "answer", "--language", "sw")
    status, said = score("--input", "rows.jsonl", *told)
    assert status == 2 and "rows.jsonl:1: has a column 'score' already" in said and "--column NAME" in said
    assert score("--input", "rows.jsonl", *told, "--column", "adherence", "--restart", family=("--family", "language_adherence"))[0] == 0
    row, _ = read(tmp_path / "scores.jsonl")
    assert row["score"] == 7 and "language" not in row and row["question"] == "q" and row["adherence.detected"]
    assert list(json.loads((tmp_path / "scores.jsonl.json").read_text())["counts"]["languages"]) == ["eng_Latn", "swh_Latn"]
    status, said = score("--input", "rows.jsonl", "--prompt-column", "qestion", "--response-column", "answer", output="o.jsonl")
    assert status == 2 and "rows.jsonl:1: has nothing under --prompt-column qestion" in said


def test_rows_that_share_an_id_are_not_compared():
    """Translations under one id are rows of their own to a scorer that compares answers within a row."""
    source = survey.Source(Path("rows.jsonl"), "rows.jsonl")
    entries = [survey.Entry(source, i, {"id": name, "prompt": "q", "responses": ["a", "b"]}) for i, name in enumerate(("x", "x", "y"))]
    seen = []

    class Compares:
        def score_items(self, items):
            seen.extend(item.row for item in items)
            return Scores([0.0] * len(items))

    scoring.of_window(Compares(), entries, scoring.Reading())
    assert seen == ["x#0", "x#0", "x#1", "x#1", "y", "y"]


# --------------------------------------------------------------------------------------------------------- several inputs


def test_gzip_folder_glob_and_several_files_give_one_output(score, tmp_path):
    write(tmp_path / "all.jsonl", ROWS)
    (tmp_path / "in").mkdir()
    for i, part in enumerate((ROWS[:20], ROWS[20:30], ROWS[30:])):
        with gzip.open(tmp_path / "in" / f"{i}.jsonl.gz", "wt", encoding="utf-8") as f:
            f.writelines(json.dumps(r) + "\n" for r in part)
    assert score("--input", "all.jsonl", output="a.jsonl")[0] == 0
    given = (["in"], ["in/*.gz"], ["in/0.jsonl.gz", "in/1.jsonl.gz", "in/2.jsonl.gz"])
    for i, inputs in enumerate(given):
        assert score("--window", 7, "--input", *inputs, output=f"b{i}.jsonl")[0] == 0
        assert read(tmp_path / f"b{i}.jsonl") == read(tmp_path / "a.jsonl")
    (tmp_path / "in" / "3.jsonl.gz").write_bytes((tmp_path / "in" / "2.jsonl.gz").read_bytes()[:-9])
    status, said = score("--input", "in", output="c.jsonl")
    assert status == 2 and "3.jsonl.gz: is not a whole gzip file" in said
    for inputs, message in (
        (["none"], "none: expected a name ending"),
        (["*.csv"], "no file has a name like this"),
        (["no.jsonl"], "there is no such file"),
    ):
        status, said = score("--input", *inputs, output="c.jsonl")
        assert status == 2 and message in said


def test_stdin_to_stdout(tmp_path):
    rows = write(tmp_path / "rows.jsonl", ROWS[:3]).read_text()
    done = process(tmp_path, "--family", "length", "--input", "-", "--output", "-", input=rows)
    assert done.returncode == 0 and [json.loads(x)["score"] for x in done.stdout.splitlines()] == [0.0, 1.0, 2.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


# ----------------------------------------------------------------------------------------------------------------- formats


def test_parquet_keeps_its_schema(score, tmp_path):
    import datetime
    import decimal

    when = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "prompt": ["q", "r"], "response": ["a", "bb"], "f32": pa.array([float("nan"), 1.5], pa.float32()),
            "when": pa.array([when, None], pa.timestamp("ns", "UTC")), "us": pa.array([when, None], pa.timestamp("us", "UTC")),
            "bytes": pa.array([b"\xff", None]), "money": pa.array([decimal.Decimal("1.10"), None]), "day": pa.array([when.date(), None]),
            "tag": pa.array(["x", "y"]).dictionary_encode(), "nested": [{"a": [1, None]}, None], "inf": [float("inf"), 0.0],
        }
    ).replace_schema_metadata({"kind": "mine"})  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    assert score("--input", "rows.parquet", output="scores.parquet")[0] == 0
    found = pq.read_table(tmp_path / "scores.parquet")
    assert found.schema.metadata[b"kind"] == b"mine"
    assert found.drop_columns(["score"]).schema.equals(pq.read_table(tmp_path / "rows.parquet").schema)
    assert str(found.drop_columns(["score"]).to_pylist()) == str(pq.read_table(tmp_path / "rows.parquet").to_pylist())
    assert found["score"].to_pylist() == [1.0, 2.0] and found["score"].type == pa.float64()

    assert score("--input", "rows.parquet")[0] == 0
    first, second = read(tmp_path / "scores.jsonl")
    assert first == {
        "prompt": "q", "response": "a", "f32": None, "when": "2026-01-02 03:04:05.000000000Z", "us": "2026-01-02T03:04:05+00:00", "bytes": "/w==",
        "money": "1.10", "day": "2026-01-02", "tag": "x", "nested": {"a": [1, None]}, "inf": None, "score": 1.0,
    }  # fmt: skip
    assert second["f32"] == 1.5 and second["when"] is None and second["score"] == 2.0


def test_jsonl_to_parquet_finds_types_and_loses_nothing(score, tmp_path):
    extras = [
        {"a": 1, "b": 1, "mixed": 1, "s": {"x": 1}, "empty": {}, "big": 1, "l": []},
        {"a": 2.5, "c": "late", "mixed": "one", "s": {"y": "z"}, "empty": {}, "big": 2**70, "l": [1.5]},
        {"a": None, "b": 2**53 + 1, "mixed": [1], "big": None},
        {"b": 0.5, "c": None, "mixed": None, "list_or_not": [1]},
        {"list_or_not": 1},
    ]
    write(tmp_path / "rows.jsonl", [{"prompt": "q", "response": "x", **e} for e in extras])
    for window, name in ((1, "one"), (2, "two"), (100, "all")):
        status, said = score("--window", window, "--input", "rows.jsonl", output=f"{name}.parquet")
        assert status == 0 and "written as JSON text: " in said
        for column in ("b", "mixed", "empty", "big", "list_or_not"):
            assert column in said.partition("JSON text: ")[2]
    found = pq.read_table(tmp_path / "two.parquet").to_pylist()
    assert [r["a"] for r in found] == [1.0, 2.5, None, None, None] and [r["c"] for r in found] == [None, "late", None, None, None]
    assert [r["mixed"] for r in found] == ["1", '"one"', "[1]", None, None] and found[1]["big"] == str(2**70)
    assert [json.loads(r["b"]) if r["b"] else None for r in found] == [1, None, 2**53 + 1, 0.5, None]
    assert found[0]["s"] == {"x": 1, "y": None} and found[1]["l"] == [1.5] and {r["score"] for r in found} == {1.0}
    tables = [pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two", "all")]
    assert tables[0].to_pylist() == tables[1].to_pylist() == tables[2].to_pylist()


def test_parquet_files_of_several_schemas(score, tmp_path):
    pq.write_table(pa.table({"prompt": ["q"], "response": ["a"], "n": pa.array([1], pa.int32())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"prompt": ["q"], "response": ["bb"], "n": pa.array([2**40]), "m": ["x"]}), tmp_path / "b.parquet")
    assert score("--input", "a.parquet", "b.parquet", output="s.parquet")[0] == 0
    assert pq.read_table(tmp_path / "s.parquet").select(["n", "m", "score"]).to_pylist() == [
        {"n": 1, "m": None, "score": 1.0}, {"n": 2**40, "m": "x", "score": 2.0},
    ]  # fmt: skip
    pq.write_table(pa.table({"prompt": ["q"], "response": ["a"], "n": ["text"]}), tmp_path / "c.parquet")
    status, said = score("--input", "a.parquet", "c.parquet", output="t.parquet")
    assert status == 2 and "c.parquet: its columns do not fit those of a.parquet" in said


def test_scores_may_all_be_null(score, tmp_path):
    write(tmp_path / "rows.jsonl", ROWS[:3])
    status, said = score("--input", "rows.jsonl", family=("--family", "verifier"), output="s.parquet")
    assert status == 1 and "3 without a score" in said and "without a score: rows.jsonl:1" in said
    assert pq.read_schema(tmp_path / "s.parquet").field("score").type == pa.float64()


# --------------------------------------------------------------------------------------------------------- shards, windows


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("source", ["jsonl", "parquet"])
def test_shards_windows_and_restarts_give_the_same_bytes(score, tmp_path, source, ending, monkeypatch):
    monkeypatch.setattr(job, "PART_S", 0.0)
    rows = write(tmp_path / "rows.jsonl", ROWS)
    if source == "parquet":
        rows = tmp_path / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(ROWS), rows, row_group_size=13)
    told = ("--window", 4, "--input", rows)
    assert score(*told, output=f"whole.{ending}")[0] == 0
    output = tmp_path / f"scores.{ending}"
    for i in (2, 0, 1):
        assert not output.exists()
        status, said = score(*told, "--shard", f"{i}/3", output=output.name)
        assert status == 0 and ("50 rows, 50 answers" in said if i == 1 else "the last one finishes the file" in said)
    assert output.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert not (tmp_path / f"scores.{ending}.parts").exists()
    assert score(*told, "--shard", "1/2", output=f"again.{ending}")[0] == 0  # then the rest, with another number of shards
    assert score(*told, output=f"again.{ending}")[0] == 0
    assert (tmp_path / f"again.{ending}").read_bytes() == output.read_bytes()


def test_shard_of_a_slurm_array(score, tmp_path, monkeypatch):
    write(tmp_path / "rows.jsonl", ROWS)
    status, said = score("--input", "rows.jsonl", "--shard", "slurm")
    assert status == 2 and "this is no task of a Slurm array" in said
    for name, value in {"MIN": "3", "COUNT": "2", "STEP": "4"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for task in ("7", "3"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert score("--input", "rows.jsonl", "--window", 4, "--shard", "slurm")[0] == 0
    assert len(read(tmp_path / "scores.jsonl")) == 50
    for bad in ("2/2", "x", "1/", "-1/2"):
        status, said = score("--input", "rows.jsonl", f"--shard={bad}", output="o.jsonl")
        assert status == 2 and f"--shard {bad}: expected I/N" in said


def test_windows_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "WINDOW_BYTES", 1000)
    rows = [{"prompt": "q", "response": "x" * size} for size in (10, 10, 5000, 10, 900, 900, 10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", compression="none", use_dictionary=False)
    inputs = survey.sources([write(tmp_path / "rows.jsonl", rows)])
    found = survey.take(inputs, 1024, scoring.Reading().check)
    assert [w.rows for w in found.windows] == [3, 3, 1] and found.rows == 7
    parquet = survey.take(survey.sources([tmp_path / "rows.parquet"]), 1024, scoring.Reading().check)
    assert max(w.rows for w in parquet.windows) == 1 and parquet.rows == 7
    assert [e.number for w in found.windows for e in survey.Reader(inputs).entries(w)] == [1, 2, 3, 4, 5, 6, 7]


def test_devices_on_a_machine_without_gpus(tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    assert process(tmp_path, "--family", "length", "--input", "rows.jsonl", "--window", 4, "--output", "whole.jsonl").returncode == 0
    done = process(tmp_path, "--family", "length", "--input", "rows.jsonl", "--window", 4, "--output", "scores.jsonl", "--devices", 2)
    assert done.returncode == 0, done.stderr
    assert "50 rows, 50 answers" in done.stderr
    assert (tmp_path / "scores.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_process_that_dies_is_told_and_the_others_finish(tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    broken = tmp_path / "site" / "sitecustomize.py"
    broken.parent.mkdir()
    broken.write_text(
        "import sys, os, signal\nif '0/2' in sys.argv:\n    print('out of luck', file=sys.stderr, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    told = ("--family", "length", "--input", "rows.jsonl", "--window", 4, "--output", "scores.jsonl", "--devices", 2)
    done = process(tmp_path, *told, env={"PYTHONPATH": f"{broken.parent}:{PROJECT}"})
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "1 of 2 processes did not end well: one was ended by signal 9" in done.stderr and "out of luck" in done.stderr
    finished = sum(len(json.loads(p.read_text())["windows"]) for p in (tmp_path / "scores.jsonl.parts").glob("part-*.json"))
    assert finished == 6  # of 13: the other process's whole share
    done = process(tmp_path, *told)
    assert done.returncode == 0 and len(read(tmp_path / "scores.jsonl")) == 50, done.stderr


def test_processes_end_with_the_one_that_started_them(tmp_path):
    code = "from reward_models.jobs import parallel\nimport time\nparallel.end_with_parent()\nprint('ready', flush=True)\ntime.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert child.stdout.readline() == b"ready\n"
    began = time.monotonic()
    child.communicate()
    assert child.returncode != 0 and time.monotonic() - began < 2 * parallel.GRACE_S


# ------------------------------------------------------------------------------------------------- killed, and other runs'


def stopped_after(monkeypatch, n):
    """Let the command end as by Ctrl-C after n windows."""
    real, calls = scoring.of_window, []

    def some(*arguments):
        if len(calls) == n:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(scoring, "of_window", some)
    return calls


def test_ctrl_c_keeps_what_is_finished(score, tmp_path, monkeypatch):
    write(tmp_path / "rows.jsonl", ROWS)
    with monkeypatch.context() as patch:
        stopped_after(patch, 3)
        status, said = score("--input", "rows.jsonl", "--window", 10)
    assert status == 130 and "the same command goes on" in said and not (tmp_path / "scores.jsonl").exists()
    calls = stopped_after(monkeypatch, 99)
    assert score("--input", "rows.jsonl", "--window", 10)[0] == 0
    assert len(calls) == 2 and len(read(tmp_path / "scores.jsonl")) == 50


@pytest.mark.parametrize("place", ["jobs.assembly.write", "files.publish", "jobs.job.Job.throw_away"])
def test_stopped_while_the_output_is_put_together(score, tmp_path, monkeypatch, place):
    write(tmp_path / "rows.jsonl", ROWS)
    with monkeypatch.context() as patch:
        owner, _, name = f"reward_models.{place}".rpartition(".")
        calls = []

        def stop(*arguments):
            if place != "files.publish" or str(arguments[1]) == "scores.jsonl":
                calls.append(1)
                raise KeyboardInterrupt

        real = files.publish
        patch.setattr(f"{owner}.{name}", lambda *a: stop(*a) or real(*a))
        assert score("--input", "rows.jsonl")[0] == 130 and calls
    status, said = score("--input", "rows.jsonl")
    assert status == 0 and ("is done already" in said) == (place == "jobs.job.Job.throw_away")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl", "scores.jsonl", "scores.jsonl.json"]
    assert len(read(tmp_path / "scores.jsonl")) == 50


def test_done_already_and_output_of_another_run(score, tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    assert score("--input", "rows.jsonl")[0] == 0
    before = (tmp_path / "scores.jsonl").read_bytes()
    assert score("--input", "rows.jsonl") == (0, "scores.jsonl: is done already\nscores.jsonl: 50 rows, 50 answers\n")
    for arguments, message in (
        (("--language", "fr"), 'language was not set, is "fra_Latn"'),
        (("--window", 7), "window was 1024, is 7"),
    ):
        status, said = score("--input", "rows.jsonl", *arguments)
        assert status == 2 and "exists already, from another run" in said and message in said
    write(tmp_path / "rows.jsonl", ROWS[:40])
    status, said = score("--input", "rows.jsonl")
    assert status == 2 and "exists already, made from other rows" in said
    assert (tmp_path / "scores.jsonl").read_bytes() == before
    (tmp_path / "scores.jsonl").write_text("mine\n")
    assert "the file was changed since" in score("--input", "rows.jsonl")[1]
    (tmp_path / "scores.jsonl.json").unlink()
    assert score("--input", "rows.jsonl") == (2, "error: scores.jsonl: exists already; remove it or choose another --output\n")
    (tmp_path / "scores.jsonl.json").write_text("{}")
    (tmp_path / "scores.jsonl").unlink()
    assert "scores.jsonl.json: exists already, and this run would write there" in score("--input", "rows.jsonl")[1]


def test_unfinished_work_of_another_run_is_refused_or_thrown_away(score, tmp_path, monkeypatch, classifier):
    write(tmp_path / "rows.jsonl", ROWS)
    write(tmp_path / "other.jsonl", ROWS[::-1])
    model = ("--model", str(classifier))
    with monkeypatch.context() as patch:
        stopped_after(patch, 2)
        assert score("--input", "rows.jsonl", "--window", 10, "--set", "max_length=50", family=model)[0] == 130
    for arguments, message in (
        (("rows.jsonl", "--window", 10, "--set", "max_length=60"), "scorer.max_length was 50, is 60"),
        (("other.jsonl", "--window", 10, "--set", "max_length=50"), "is unfinished work on other rows (rows.jsonl of 50 rows)"),
    ):
        status, said = score("--input", *arguments, family=model)
        assert status == 2 and message in said and "--restart" in said
    assert (
        score("--input", "rows.jsonl", "--window", 10, "--set", "max_length=50", "--set", "device_batch_tokens=999", family=model)[0] == 0
    )
    with monkeypatch.context() as patch:
        stopped_after(patch, 2)
        assert score("--input", "rows.jsonl", "--window", 10, family=model, output="two.jsonl")[0] == 130
    assert score("--input", "other.jsonl", "--restart", output="two.jsonl")[0] == 0
    assert [r["id"] for r in read(tmp_path / "two.jsonl")] == [r["id"] for r in ROWS[::-1]]
    with monkeypatch.context() as patch:  # no window is finished: nothing would be lost
        stopped_after(patch, 0)
        assert score("--input", "rows.jsonl", output="zero.jsonl")[0] == 130
    assert score("--input", "rows.jsonl", "--window", 10, output="zero.jsonl")[0] == 0
    (tmp_path / "three.jsonl.parts").mkdir()
    (tmp_path / "three.jsonl.parts" / "thesis.txt").write_text("years of work")
    status, said = score("--input", "rows.jsonl", "--restart", output="three.jsonl")
    assert status == 2 and "holds other things" in said and (tmp_path / "three.jsonl.parts" / "thesis.txt").exists()


def test_a_mended_row_costs_one_window(score, tmp_path, monkeypatch):
    write(tmp_path / "rows.jsonl", ROWS)
    with monkeypatch.context() as patch:
        stopped_after(patch, 4)
        assert score("--input", "rows.jsonl", "--window", 10)[0] == 130
    mended = [*ROWS[:15], {**ROWS[15], "response": "mended"}, *ROWS[16:]]
    write(tmp_path / "rows.jsonl", mended)
    calls = stopped_after(monkeypatch, 99)
    status, said = score("--input", "rows.jsonl", "--window", 10)
    assert status == 0 and "the input was changed since: 3 of 4 finished windows still stand in it and are kept" in said
    assert len(calls) == 2 and [r["score"] for r in read(tmp_path / "scores.jsonl")] == [len(r["response"]) for r in mended]


def test_a_model_with_other_weights_is_another_run(score, tmp_path, tmp_path_factory, classifier, monkeypatch):
    import shutil

    write(tmp_path / "rows.jsonl", ROWS)
    model, moved = tmp_path / "model", tmp_path / "moved"
    shutil.copytree(classifier, model)
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        assert score("--input", "rows.jsonl", "--window", 10, family=("--model", str(model)))[0] == 130
    model.rename(moved)
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        assert score("--input", "rows.jsonl", "--window", 10, family=("--model", str(moved)))[0] == 130  # it is the same model
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    status, said = score("--input", "rows.jsonl", "--window", 10, family=("--model", str(moved)))
    assert status == 2 and "scorer.path.content was" in said


@pytest.fixture
def forked(monkeypatch):
    """`forked(argv)` starts the command in a process of its own that has everything imported: it is at work in a moment."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "peft", "transformers.models.qwen3.modeling_qwen3", "reward_models.families.classifier"])

    def start(argv):
        child = context.Process(target=main, args=([str(a) for a in argv],))
        child.start()
        return child

    return start


@pytest.mark.slow
def test_shards_that_end_together(tmp_path, forked):
    """Shards side by side, one of them twice: whoever finishes last, the file is whole."""
    source = write(tmp_path / "rows.jsonl", ROWS)
    for i in range(4):
        output = tmp_path / f"{i}.jsonl"
        told = ("score", "--family", "length", "--input", source, "--window", 3, "--output", output)
        children = [forked([*told, "--shard", f"{k % 4}/4"]) for k in range(5)]
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 5
        assert [r["score"] for r in read(output)] == [float(len(r["response"])) for r in ROWS]
    assert {p.name.partition(".")[2] for p in tmp_path.iterdir()} == {"jsonl", "jsonl.json"}


@pytest.mark.slow
def test_twenty_kills(tmp_path, classifier, forked):
    """kill -9 at twenty random moments, while one of three shards, or all of it, is at work: the file equals the unbroken one."""
    rows = [
        {"prompt": f"Which number is the largest: {i} {i % 7}?", "response": f"It is {i}. " * (1 + i % 9), "language": "en"}
        for i in range(5000)
    ]
    source = write(tmp_path / "rows.jsonl", rows)
    told = ("score", "--model", classifier, "--input", source, "--window", 8, "--quiet", "--set", "device_batch_tokens=64")
    began = time.monotonic()
    whole = forked([*told, "--output", tmp_path / "whole.jsonl"])
    whole.join()
    took = time.monotonic() - began
    draw = random.Random(5)
    kept = []
    while len(kept) < 20:
        share = () if draw.random() < 0.3 else ("--shard", f"{draw.randrange(3)}/3")
        child = forked([*told, "--output", tmp_path / "scores.jsonl", *share])
        child.join(timeout=draw.uniform(0.005, 0.06) * took)
        if child.is_alive():
            child.kill()
            child.join()
            kept.append(sum(len(json.loads(p.read_text())["windows"]) for p in tmp_path.glob("*.parts/part-*.json")))
        assert not (tmp_path / "scores.jsonl").exists(), f"done after {kept}: there is nothing left to kill"
    last = forked([*told, "--output", tmp_path / "scores.jsonl"])
    last.join()
    assert (tmp_path / "scores.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(set(kept)) > 3  # work was done between the kills
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["rows.jsonl", "scores.jsonl", "scores.jsonl.json", "whole.jsonl", "whole.jsonl.json"]


# -------------------------------------------------------------------------------------------------------------- bad input


BAD = [
    (b'{"prompt": \n', "rows.jsonl:2: is not JSON", "line"),
    (b'{"prompt": "\xff", "response": "a"}\n', "rows.jsonl:2: is not UTF-8", "line_base64"),
    (b'["a"]\n', "rows.jsonl:2: expected an object with prompt and response", "line"),
    (b'{"prompt": "q"}\n', "rows.jsonl:2: needs prompt and response", "row"),
    (b'{"prompt": "", "response": "a"}\n', "rows.jsonl:2: needs prompt and response", "row"),
    (b'{"prompt": "q", "response": "a", "language": "swahilli"}\n', "rows.jsonl:2: language 'swahilli'", "row"),
    (b'{"prompt": "q", "response": "a", "language": ["sw"]}\n', "rows.jsonl:2: language ['sw']", "row"),
    (b'{"prompt": "q", "responses": "abc"}\n', "rows.jsonl:2: responses: expected a list, got str", "row"),
    (b'{"prompt": "q", "response": "\\ud800"}\n', "rows.jsonl:2: has half of a surrogate pair", "line"),
    (b"[" * 100_000 + b"\n", "rows.jsonl:2: is not JSON", "line"),
    (b'{"prompt": "q", "response": "a"} {}\n', "rows.jsonl:2: is not JSON (Extra data", "line"),
]


@pytest.mark.parametrize(("line", "message", "kept_as"), BAD, ids=[m[13:40] for _, m, _ in BAD])
def test_bad_rows_are_named_before_anything_starts_or_put_aside(score, tmp_path, line, message, kept_as):
    good = b'{"prompt": "q", "response": "a"}\n'
    (tmp_path / "rows.jsonl").write_bytes(good + line + good)
    status, said = score("--input", "rows.jsonl")
    assert status == 2 and message in said and "--on-bad-row skip" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]
    status, said = score("--input", "rows.jsonl", "--on-bad-row", "skip")
    assert status == 1 and "2 rows, 2 answers, 1 rejected" in said
    assert [r["score"] for r in read(tmp_path / "scores.jsonl")] == [1.0, 1.0]
    (aside,) = read(tmp_path / "scores.rejected.jsonl")
    assert aside["where"] == "rows.jsonl:2" and aside["reason"].startswith(message) and kept_as in aside
    assert score("--input", "rows.jsonl", "--on-bad-row", "skip", output="s.parquet")[0] == 1
    assert pq.read_table(tmp_path / "s.parquet")["score"].to_pylist() == [1.0, 1.0]


def test_many_bad_rows_are_counted(score, tmp_path):
    pq.write_table(pa.table({"prompt": ["q"] * 30, "response": ["a", None, None] * 10, "b": [b"x"] * 30}), tmp_path / "rows.parquet")
    status, said = score("--input", "rows.parquet")
    assert status == 2 and said.count("needs prompt") == 10 and "rows.parquet: row 2: needs" in said
    assert "… and 10 further bad rows" in said and "20 bad rows" in said
    assert (
        score(
            "--input",
            "rows.parquet",
            "--on-bad-row",
            "skip",
            output="s.parquet",
        )[0]
        == 1
    )
    assert pq.read_table(tmp_path / "s.parquet").num_rows == 10 and len(read(tmp_path / "s.rejected.jsonl")) == 20


def test_nothing_to_score(score, tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n\n")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.parquet"):
        assert score("--input", name) == (2, f"error: {name}: holds no rows\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    status, said = score("--input", "broken.parquet")
    assert status == 2 and "broken.parquet: cannot be read as Parquet" in said
    status, said = score("--input", "rows.jsonl", output="scores.csv")
    assert status == 2 and "scores.csv: expected a name ending in .jsonl or .parquet" in said


def test_values_that_are_no_numbers_are_counted_and_named():
    source = survey.Source(Path("rows.jsonl"), "rows.jsonl")
    entries = [survey.Entry(source, i, {"prompt": "q", "response": "a", "language": "sw"}) for i in range(1, 5)]

    class Odd:
        def score_items(self, items):
            return Scores([1.0, float("nan"), float("inf"), None], flags={"unsure": [False, False, False, True]})

    found = scoring.of_window(Odd(), entries, scoring.Reading())
    assert [c["score"] for c in found.columns] == [1.0, None, None, None]
    assert [c["not_finite"] for c in found.columns] == [False, True, True, False]
    assert found.counts["languages"] == {"swh_Latn": {"answers": 4, "without a score": 3, "unsure": 1, "not_finite": 2}}
    assert found.counts["examples"] == ["rows.jsonl:2 (not_finite)", "rows.jsonl:3 (not_finite)", "rows.jsonl:4 (unsure)"]


def test_output_that_cannot_be_written(score, tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "file").write_text("")
    status, said = score("--input", "rows.jsonl", output="file/scores.jsonl")
    assert status == 2 and "Not a directory: file" in said and "Traceback" not in said


def test_full_disk_keeps_what_is_finished(tmp_path):
    write(tmp_path / "rows.jsonl", [{"prompt": "q", "response": "a", "text": "x" * 2000}] * 200)
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))}
    told = ("--family", "length", "--input", "rows.jsonl", "--output", "scores.jsonl")
    done = process(tmp_path, *told, **limited)
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: a file would be larger than is allowed here")
        and "Traceback" not in done.stderr
    )
    assert len(list((tmp_path / "scores.jsonl.parts").glob("part-*.json"))) == 1 and not list(
        (tmp_path / "scores.jsonl.parts").glob("*.tmp")
    )
    assert process(tmp_path, *told).returncode == 0 and len(read(tmp_path / "scores.jsonl")) == 200


# --------------------------------------------------------------------------------------------------- progress, provenance


def test_progress_without_and_with_a_terminal(tmp_path):
    import pty
    import termios

    write(tmp_path / "rows.jsonl", ROWS * 2000)
    told = ("--family", "length", "--input", "rows.jsonl")
    done = process(tmp_path, *told, "--output", "a.jsonl")
    assert done.stderr == "a.jsonl: 100000 rows, 100000 answers\n"  # done before there was anything to say
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    assert process(tmp_path, *told, "--output", "b.jsonl", capture_output=False, stderr=theirs).returncode == 0
    assert process(tmp_path, *told, "--output", "c.jsonl", "--quiet", capture_output=False, stderr=theirs).returncode == 0
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end
        while block := os.read(ours, 1 << 16):
            said += block
    assert b"100k/100k" in said and b"rows/s" in said and b"\nc.jsonl: 100000 rows" in said


def test_a_line_of_progress():
    from reward_models.jobs.progress import Progress

    progress = Progress("scores.jsonl", 4000, 200, quiet=True)
    progress.add(1000, 30_000)
    assert progress.line(10.0) == "scores.jsonl: 1,200 of 4,000 rows, 100 rows/s, 3.00k tokens/s, 00:28 left"


def test_provenance(score, tmp_path, classifier, monkeypatch):
    from transformers import AutoTokenizer

    from reward_models import card
    from reward_models.jobs import identity, provenance

    write(tmp_path / "rows.jsonl", [{**row, "language": "sw" if i % 3 else "en"} for i, row in enumerate(ROWS)])
    assert score("--input", "rows.jsonl", "--set", "max_length=10", family=("--model", str(classifier)))[0] == 0
    told = json.loads((tmp_path / "scores.jsonl.json").read_text())
    assert told["sha256"] == identity.sha256(tmp_path / "scores.jsonl") and told["input"][0]["rows"] == 50
    scorer = told["scorer"]
    assert scorer["family"] == "classifier" and scorer["settings"]["max_length"] == 10 and scorer["dtype"] == "float32"
    assert scorer["direction"] == "higher is better"
    assert scorer["template_hash"] == card.template_hash(AutoTokenizer.from_pretrained(classifier).get_chat_template())
    assert told["identity"]["scorer"]["path"]["content"] and told["packages"]["torch"]
    assert {code: by["answers"] for code, by in told["counts"]["languages"].items()} == {"eng_Latn": 17, "swh_Latn": 33}
    assert told["counts"]["truncated"] == sum(r["truncated"] for r in read(tmp_path / "scores.jsonl")) > 0
    secret = {"family": "length", "engine": {"api_key": "sk-1", "hf_token": "t", "max_tokens": 5, "url": "https://me:pw@host/v1"}}
    assert provenance.public(secret) == {"family": "length", "engine": {"max_tokens": 5, "url": "https://host/v1"}}
    assert identity.of_run(secret)["scorer"] == {"family": "length", "engine": {"max_tokens": 5, "url": "https://host/v1"}}


# ------------------------------------------------------------------------------------------------------------ installation


def test_scores_a_file_without_training_packages(tmp_path, classifier):
    blocker = tmp_path / "site"
    blocker.mkdir()
    names = ("trl", "deepspeed", "hydra", "omegaconf", "vllm", "datasets", "sacrebleu", "openai", "matplotlib")
    (blocker / "sitecustomize.py").write_text(f"import sys\nfor name in {names!r}:\n    sys.modules[name] = None\n")
    write(tmp_path / "rows.jsonl", ROWS[:5])
    told = ("--model", classifier, "--input", "rows.jsonl", "--output", "scores.parquet")
    done = process(tmp_path, *told, env={"PYTHONPATH": f"{blocker}:{PROJECT}"})
    assert done.returncode == 0, done.stderr
    assert all(isinstance(s, float) for s in pq.read_table(tmp_path / "scores.parquet")["score"].to_pylist())
    assert process(tmp_path, *told, env={"PYTHONPATH": f"{blocker}:{PROJECT}"}).stderr.startswith("scores.parquet: is done already")
