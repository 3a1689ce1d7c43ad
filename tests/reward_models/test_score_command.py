"""`rm-score score`: which rows it reads and what it writes.

Most tests call the command within this process.
"""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import PROJECT
from score_cases import ROWS, process, read, write

from reward_models.items import Scores
from reward_models.jobs import scoring, survey

# --------------------------------------------------------------------------------------- row shapes


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
        {"score": 1.0},
        {"scores": [1.0, 2.0]},
        {"scores": []},
        {"score": 4.0},
        {"score_chosen": 3.0, "score_rejected": 4.0},
        {"score_chosen": 4.0, "score_rejected": 0.0},
    ]
    assert read(tmp_path / "scores.jsonl") == [
        {**row, **more} for row, more in zip(rows, added, strict=True)
    ]


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


@pytest.mark.slow
def test_rows_of_mlalign(score, tmp_path):
    from mlalign.core import rows

    common = {
        "group_id": "g",
        "prompt_lang": "swh_Latn",
        "source": "s",
        "origin": "native",
        "split": "eval",
        "prompt": rows.messages("q"),
    }
    answers = [
        {
            "candidate_id": f"c{i}",
            "text": "x" * i,
            "reasoning": None,
            "n_tokens": i,
            "finish_reason": "stop",
        }
        for i in (1, 2)
    ]
    candidates = [
        {
            **common,
            "id": "a",
            "response_lang_requested": None,
            "reference": None,
            "responses": answers,
        }
    ]
    sides = {
        "chosen": rows.messages("yes", "assistant"),
        "rejected": rows.messages("n", "assistant"),
    }
    rows.write_shard(tmp_path / "candidates.parquet", "candidates", candidates)
    rows.write_shard(
        tmp_path / "preferences.parquet", "preference", [{**common, "id": "b", **sides}]
    )
    assert score("--input", "candidates.parquet", output="c.parquet")[0] == 0
    assert score("--input", "preferences.parquet", output="p.parquet") == (
        0,
        "p.parquet: 1 rows, 2 answers\n",
    )
    assert pq.read_table(tmp_path / "c.parquet")["scores"].to_pylist() == [[1.0, 2.0]]
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.select(["score_chosen", "score_rejected", "id"]).to_pylist() == [
        {"score_chosen": 3.0, "score_rejected": 1.0, "id": "b"}
    ]
    assert (
        table.column_names.count("score_chosen") == 1
        and table.schema.field("score_chosen").type == pa.float64()
    )
    assert score("--input", "preferences.parquet", output="p.jsonl")[0] == 0
    assert (tmp_path / "p.jsonl").read_text().count('"score_chosen": 3.0') == 1
    status, said = score("--input", "p.jsonl", output="again.jsonl")
    assert status == 2 and "has a column 'score_chosen', 'score_rejected' already" in said
    assert json.loads((tmp_path / "p.parquet.json").read_text())["counts"]["languages"] == {
        "swh_Latn": {"answers": 2}
    }


def test_columns_under_other_names_and_a_language_for_rows_that_name_none(score, tmp_path):
    rows = [
        {"question": "q", "answer": "jibu ni nne", "score": 7},
        {"question": "q", "answer": "It is four.", "language": "en"},
    ]
    write(tmp_path / "rows.jsonl", rows)
    told = ("--prompt-column", "question", "--response-column", "answer", "--language", "sw")
    status, said = score("--input", "rows.jsonl", *told)
    assert (
        status == 2
        and "rows.jsonl:1: has a column 'score' already" in said
        and "--column NAME" in said
    )
    assert (
        score(
            "--input",
            "rows.jsonl",
            *told,
            "--column",
            "adherence",
            "--restart",
            family=("--family", "language_adherence"),
        )[0]
        == 0
    )
    row, _ = read(tmp_path / "scores.jsonl")
    assert (
        row["score"] == 7
        and "language" not in row
        and row["question"] == "q"
        and row["adherence.detected"]
    )
    assert list(
        json.loads((tmp_path / "scores.jsonl.json").read_text())["counts"]["languages"]
    ) == ["eng_Latn", "swh_Latn"]
    status, said = score(
        "--input",
        "rows.jsonl",
        "--prompt-column",
        "qestion",
        "--response-column",
        "answer",
        output="o.jsonl",
    )
    assert status == 2 and "rows.jsonl:1: has nothing under --prompt-column qestion" in said


def test_rows_that_share_an_id_are_not_compared():
    """Translations under one id are rows of their own to a scorer that compares answers within a
    row.
    """
    source = survey.Source(Path("rows.jsonl"), "rows.jsonl")
    entries = [
        survey.Entry(source, i, {"id": name, "prompt": "q", "responses": ["a", "b"]})
        for i, name in enumerate(("x", "x", "y"))
    ]
    seen = []

    class Compares:
        def score_items(self, items):
            seen.extend(item.row for item in items)
            return Scores([0.0] * len(items))

    scoring.of_window(Compares(), entries, scoring.Reading())
    assert seen == ["x#0", "x#0", "x#1", "x#1", "y", "y"]


# ----------------------------------------------------------------------------------- several inputs


@pytest.mark.slow
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


@pytest.mark.slow
def test_stdin_to_stdout(tmp_path):
    rows = write(tmp_path / "rows.jsonl", ROWS[:3]).read_text()
    done = process(tmp_path, "--family", "length", "--input", "-", "--output", "-", input=rows)
    assert done.returncode == 0 and [json.loads(x)["score"] for x in done.stdout.splitlines()] == [
        0.0,
        1.0,
        2.0,
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


# ------------------------------------------------------------------------------------------ formats


def test_parquet_keeps_its_schema(score, tmp_path):
    import datetime
    import decimal

    when = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "prompt": ["q", "r"],
            "response": ["a", "bb"],
            "f32": pa.array([float("nan"), 1.5], pa.float32()),
            "when": pa.array([when, None], pa.timestamp("ns", "UTC")),
            "us": pa.array([when, None], pa.timestamp("us", "UTC")),
            "bytes": pa.array([b"\xff", None]),
            "money": pa.array([decimal.Decimal("1.10"), None]),
            "day": pa.array([when.date(), None]),
            "tag": pa.array(["x", "y"]).dictionary_encode(),
            "nested": [{"a": [1, None]}, None],
            "inf": [float("inf"), 0.0],
        }
    ).replace_schema_metadata({"kind": "mine"})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert score("--input", "rows.parquet", output="scores.parquet")[0] == 0
    found = pq.read_table(tmp_path / "scores.parquet")
    assert found.schema.metadata[b"kind"] == b"mine"
    assert found.drop_columns(["score"]).schema.equals(
        pq.read_table(tmp_path / "rows.parquet").schema
    )
    assert str(found.drop_columns(["score"]).to_pylist()) == str(
        pq.read_table(tmp_path / "rows.parquet").to_pylist()
    )
    assert found["score"].to_pylist() == [1.0, 2.0] and found["score"].type == pa.float64()

    assert score("--input", "rows.parquet")[0] == 0
    first, second = read(tmp_path / "scores.jsonl")
    assert first == {
        "prompt": "q",
        "response": "a",
        "f32": None,
        "when": "2026-01-02 03:04:05.000000000Z",
        "us": "2026-01-02T03:04:05+00:00",
        "bytes": "/w==",
        "money": "1.10",
        "day": "2026-01-02",
        "tag": "x",
        "nested": {"a": [1, None]},
        "inf": None,
        "score": 1.0,
    }
    assert second["f32"] == 1.5 and second["when"] is None and second["score"] == 2.0


@pytest.mark.slow
def test_jsonl_to_parquet_finds_types_and_loses_nothing(score, tmp_path):
    extras = [
        {"a": 1, "b": 1, "mixed": 1, "s": {"x": 1}, "empty": {}, "big": 1, "l": []},
        {
            "a": 2.5,
            "c": "late",
            "mixed": "one",
            "s": {"y": "z"},
            "empty": {},
            "big": 2**70,
            "l": [1.5],
        },
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
    assert [r["a"] for r in found] == [1.0, 2.5, None, None, None] and [r["c"] for r in found] == [
        None,
        "late",
        None,
        None,
        None,
    ]
    assert [r["mixed"] for r in found] == ["1", '"one"', "[1]", None, None] and found[1][
        "big"
    ] == str(2**70)
    assert [json.loads(r["b"]) if r["b"] else None for r in found] == [
        1,
        None,
        2**53 + 1,
        0.5,
        None,
    ]
    assert (
        found[0]["s"] == {"x": 1, "y": None}
        and found[1]["l"] == [1.5]
        and {r["score"] for r in found} == {1.0}
    )
    tables = [pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two", "all")]
    assert tables[0].to_pylist() == tables[1].to_pylist() == tables[2].to_pylist()


def test_parquet_files_of_several_schemas(score, tmp_path):
    pq.write_table(
        pa.table({"prompt": ["q"], "response": ["a"], "n": pa.array([1], pa.int32())}),
        tmp_path / "a.parquet",
    )
    pq.write_table(
        pa.table({"prompt": ["q"], "response": ["bb"], "n": pa.array([2**40]), "m": ["x"]}),
        tmp_path / "b.parquet",
    )
    assert score("--input", "a.parquet", "b.parquet", output="s.parquet")[0] == 0
    assert pq.read_table(tmp_path / "s.parquet").select(["n", "m", "score"]).to_pylist() == [
        {"n": 1, "m": None, "score": 1.0}, {"n": 2**40, "m": "x", "score": 2.0},
    ]  # fmt: skip
    pq.write_table(
        pa.table({"prompt": ["q"], "response": ["a"], "n": ["text"]}), tmp_path / "c.parquet"
    )
    status, said = score("--input", "a.parquet", "c.parquet", output="t.parquet")
    assert status == 2 and "c.parquet: its columns do not fit those of a.parquet" in said


def test_scores_may_all_be_null(score, tmp_path):
    write(tmp_path / "rows.jsonl", ROWS[:3])
    status, said = score(
        "--input", "rows.jsonl", family=("--family", "verifier"), output="s.parquet"
    )
    assert status == 1 and "3 without a score" in said and "without a score: rows.jsonl:1" in said
    assert pq.read_schema(tmp_path / "s.parquet").field("score").type == pa.float64()


# ------------------------------------------------------------------------------------- installation


@pytest.mark.long
def test_scores_a_file_without_training_packages(tmp_path, classifier):
    blocker = tmp_path / "site"
    blocker.mkdir()
    names = (
        "trl",
        "deepspeed",
        "hydra",
        "omegaconf",
        "vllm",
        "datasets",
        "sacrebleu",
        "openai",
        "matplotlib",
    )
    (blocker / "sitecustomize.py").write_text(
        f"import sys\nfor name in {names!r}:\n    sys.modules[name] = None\n"
    )
    write(tmp_path / "rows.jsonl", ROWS[:5])
    told = ("--model", classifier, "--input", "rows.jsonl", "--output", "scores.parquet")
    done = process(tmp_path, *told, env={"PYTHONPATH": f"{blocker}:{PROJECT}"})
    assert done.returncode == 0, done.stderr
    assert all(
        isinstance(s, float)
        for s in pq.read_table(tmp_path / "scores.parquet")["score"].to_pylist()
    )
    assert process(tmp_path, *told, env={"PYTHONPATH": f"{blocker}:{PROJECT}"}).stderr.startswith(
        "scores.parquet: is done already"
    )


# --------------------------------------------------------------------- arrays, tables, joined files


@pytest.mark.slow
def test_arrays_and_tables_are_read_like_lines(score, tmp_path):
    """A JSON array, CSV and TSV give the scores of the same rows as JSONL, with their columns kept."""
    rows = [
        {"id": "a", "prompt": "q", "chosen": "one", "rejected": "fifteen"},
        {"id": "b", "prompt": "r, s", "chosen": "", "rejected": "x"},
    ]
    write(tmp_path / "lines.jsonl", rows)
    (tmp_path / "array.json").write_text("\ufeff" + json.dumps(rows, indent=1))
    (tmp_path / "lines.json").write_bytes((tmp_path / "lines.jsonl").read_bytes())
    (tmp_path / "table.csv").write_text('id,prompt,chosen,rejected\na,q,one,fifteen\nb,"r, s",,x\n')
    (tmp_path / "table.tsv").write_text(
        "id\tprompt\tchosen\trejected\na\tq\tone\tfifteen\nb\tr, s\t\tx\n"
    )
    assert score("--input", "lines.jsonl", output="whole.jsonl")[0] == 0
    wanted = read(tmp_path / "whole.jsonl")
    assert [r["score_rejected"] for r in wanted] == [7.0, 1.0]
    for name in ("array.json", "lines.json", "table.csv", "table.tsv"):
        assert score("--input", name, "--window", "1", output=f"{name}.jsonl") == (
            0,
            f"{name}.jsonl: 2 rows, 4 answers\n",
        )
        assert read(tmp_path / f"{name}.jsonl") == wanted
    assert score("--input", "array.json", output="array.parquet")[0] == 0
    assert pq.read_table(tmp_path / "array.parquet")["score_chosen"].to_pylist() == [3.0, 0.0]


def test_an_array_under_another_name_and_one_that_is_broken(score, tmp_path):
    (tmp_path / "array.jsonl").write_text('[\n{"prompt": "q", "response": "a"}\n]\n')
    assert score("--input", "array.jsonl") == (
        2,
        "error: array.jsonl: is a JSON array, and no row a line; give it the ending .json\n",
    )
    (tmp_path / "broken.json").write_text('[{"prompt": "q", "response": "a"},\n{"prompt": }]')
    status, said = score("--input", "broken.json")
    assert status == 2 and "broken.json: the JSON array is broken: line 2: is not JSON" in said


def test_byte_order_marks_within_joined_files(score, tmp_path):
    line = b'{"prompt": "q", "response": "a"}\n'
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\xef\xbb\xbf" + line)
    assert score("--input", "rows.jsonl") == (0, "scores.jsonl: 2 rows, 2 answers\n")
    assert [row["prompt"] for row in read(tmp_path / "scores.jsonl")] == ["q", "q"]


def test_published_forms_by_name_and_columns_by_name(score, tmp_path):
    record = {
        "premise": "It rained.",
        "choice1": "It got wet.",
        "choice2": "It burnt.",
        "question": "effect",
        "label": 0,
        "idx": 7,
    }
    write(tmp_path / "test.sw.jsonl", [{**record, "premise": "Mvua."}])
    assert score("--input", "test.sw.jsonl", "--format", "xcopa")[0] == 0
    assert read(tmp_path / "scores.jsonl")[0]["score_chosen"] == 11.0
    write(
        tmp_path / "rows.jsonl",
        [{"q": "q", "a": "four", "messages": [{"role": "user", "content": "x"}]}],
    )
    assert (
        score(
            "--input",
            "rows.jsonl",
            "--prompt-column",
            "q",
            "--response-column",
            "a",
            output="s.jsonl",
        )[0]
        == 0
    )
    assert read(tmp_path / "s.jsonl")[0]["score"] == 4.0
    write(tmp_path / "odd.jsonl", [{"history": "q", "answer": "a"}])
    status, said = score("--input", "odd.jsonl", output="o.jsonl")
    assert (
        status == 2
        and "it has history, answer; if `history` is the prompt, say so with --prompt-column history"
        in said
    )
