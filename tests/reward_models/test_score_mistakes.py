"""`rm-score score`: what a person is told of bad rows and full disks, of how far it is, and of what
it did.
"""

import contextlib
import json
import os
import resource
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from score_cases import ROWS, process, read, write

import reward_models
from reward_models.items import Scores
from reward_models.jobs import scoring, survey

# ---------------------------------------------------------------------------------------- bad input


BAD = [
    (b'{"prompt": \n', "rows.jsonl:2: is not JSON", "line"),
    (b'{"prompt": "\xff", "response": "a"}\n', "rows.jsonl:2: is not UTF-8", "line_base64"),
    (
        b'{"prompt": "q", "response": "a", "more": ' + b"[" * 200 + b"]" * 200 + b"}\n",
        "rows.jsonl:2: is not JSON that can be read: it is nested",
        "line",
    ),
    (b'["a"]\n', "rows.jsonl:2: expected an object with prompt and response", "line"),
    (b'{"prompt": "q"}\n', "rows.jsonl:2: needs prompt and response", "row"),
    (b'{"prompt": "", "response": "a"}\n', "rows.jsonl:2: needs prompt and response", "row"),
    (
        b'{"prompt": "q", "response": "a", "language": "swahilli"}\n',
        "rows.jsonl:2: language 'swahilli'",
        "row",
    ),
    (
        b'{"prompt": "q", "response": "a", "language": ["sw"]}\n',
        "rows.jsonl:2: language ['sw']",
        "row",
    ),
    (
        b'{"prompt": "q", "responses": "abc"}\n',
        "rows.jsonl:2: responses: expected a list, got str",
        "row",
    ),
    (
        b'{"prompt": "q", "response": "\\ud800"}\n',
        "rows.jsonl:2: has half of a surrogate pair",
        "line",
    ),
    (b"[" * 100_000 + b"\n", "rows.jsonl:2: is not JSON", "line"),
    (b'{"prompt": "q", "response": "a"} {}\n', "rows.jsonl:2: is not JSON (Extra data", "line"),
]


@pytest.mark.parametrize(("line", "message", "kept_as"), BAD, ids=[m[13:40] for _, m, _ in BAD])
@pytest.mark.slow
def test_bad_rows_are_named_before_anything_starts_or_put_aside(
    score, tmp_path, line, message, kept_as
):
    good = b'{"prompt": "q", "response": "a"}\n'
    (tmp_path / "rows.jsonl").write_bytes(good + line + good)
    status, said = score("--input", "rows.jsonl")
    assert status == 2 and message in said and "--on-bad-row skip" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]
    status, said = score("--input", "rows.jsonl", "--on-bad-row", "skip")
    assert status == 1 and "2 rows, 2 answers, 1 rejected" in said
    assert [r["score"] for r in read(tmp_path / "scores.jsonl")] == [1.0, 1.0]
    (aside,) = read(tmp_path / "scores.rejected.jsonl")
    assert (
        aside["where"] == "rows.jsonl:2"
        and aside["reason"].startswith(message)
        and kept_as in aside
    )
    assert score("--input", "rows.jsonl", "--on-bad-row", "skip", output="s.parquet")[0] == 1
    assert pq.read_table(tmp_path / "s.parquet")["score"].to_pylist() == [1.0, 1.0]


REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}{%"
    " endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
)


@pytest.mark.slow
def test_what_a_template_refuses_is_told_before_the_first_row_is_scored(
    score, tmp_path, classifier, monkeypatch
):
    from reward_models.families import classifier as family

    model = tmp_path / "rm"
    shutil.copytree(classifier, model)
    (model / "chat_template.jinja").write_text(REFUSING)
    good = {"prompt": "q", "response": "a"}
    refused = {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ]
    }
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    unseen = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
    }
    write(tmp_path / "rows.jsonl", [good, refused, good, unseen, good])
    told = ("--input", "rows.jsonl", "--window", "1")
    with monkeypatch.context() as patch:
        patch.setattr(family, "prepare", lambda settings: pytest.fail("a model was opened"))
        status, said = score(*told, family=("--model", str(model)))
    assert status == 2 and "2 bad rows" in said
    assert (
        "rows.jsonl:2: rows.jsonl:2: the chat template of" in said
        and "refuses this conversation: no system turns" in said
    )
    assert (
        "rows.jsonl:4: rows.jsonl:4: the scorer's chat template does not write the tool_calls"
        in said
    )
    status, said = score(*told, "--on-bad-row", "skip", family=("--model", str(model)))
    assert status == 1 and "3 rows, 3 answers, 2 rejected" in said
    assert [aside["where"] for aside in read(tmp_path / "scores.rejected.jsonl")] == [
        "rows.jsonl:2",
        "rows.jsonl:4",
    ]
    assert len({row["score"] for row in read(tmp_path / "scores.jsonl")}) == 1


def test_columns_that_would_be_lost_are_told_before_the_first_row_is_scored(score, tmp_path):
    pair = {"prompt": "q", "chosen": "a", "rejected": "bb"}
    write(
        tmp_path / "rows.jsonl",
        [
            pair,
            {**pair, "score_chosen": None},
            {**pair, "score_chosen": 7.5},
            {**pair, "longest_run_rejected": 1},
        ],
    )
    told, family = ("--input", "rows.jsonl", "--window", "1"), ("--family", "repetition")
    status, said = score(*told, family=family)
    assert (
        status == 2
        and "rows.jsonl:3: has a column 'score_chosen' already" in said
        and "2 bad rows" in said
    )
    assert (
        "rows.jsonl:4: has a column 'longest_run_rejected' already" in said
        and not (tmp_path / "scores.jsonl.parts").exists()
    )
    assert score(*told, "--on-bad-row", "skip", family=family)[0] == 1
    assert (
        len(read(tmp_path / "scores.jsonl")) == 2
        and len(read(tmp_path / "scores.rejected.jsonl")) == 2
    )
    status, said = score(*told, "--column", "mine", output="mine.jsonl", family=family)
    assert status == 0 and read(tmp_path / "mine.jsonl")[3]["longest_run_rejected"] == 1


@pytest.mark.parametrize("family", ["repetition", "classifier"])
@pytest.mark.slow
def test_families_write_the_columns_that_they_name(family, classifier):
    told = {"family": family, **({"path": str(classifier)} if family == "classifier" else {})}
    found = reward_models.open_scorer(told).score_items(
        [reward_models.Item("i", [{"role": "user", "content": "q"}], "a b c")]
    )
    assert {*found.flags, *found.columns, *found.texts} == set(reward_models.reports(told))


def test_many_bad_rows_are_counted(score, tmp_path):
    pq.write_table(
        pa.table({"prompt": ["q"] * 30, "response": ["a", None, None] * 10, "b": [b"x"] * 30}),
        tmp_path / "rows.parquet",
    )
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
    assert (
        pq.read_table(tmp_path / "s.parquet").num_rows == 10
        and len(read(tmp_path / "s.rejected.jsonl")) == 20
    )


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
    entries = [
        survey.Entry(source, i, {"prompt": "q", "response": "a", "language": "sw"})
        for i in range(1, 5)
    ]

    class Odd:
        def score_items(self, items):
            return Scores(
                [1.0, float("nan"), float("inf"), None],
                flags={"unsure": [False, False, False, True]},
            )

    found = scoring.of_window(Odd(), entries, scoring.Reading())
    assert [c["score"] for c in found.columns] == [1.0, None, None, None]
    assert [c["not_finite"] for c in found.columns] == [False, True, True, False]
    assert found.counts["languages"] == {
        "swh_Latn": {"answers": 4, "without a score": 3, "unsure": 1, "not_finite": 2}
    }
    assert found.counts["examples"] == [
        "rows.jsonl:2 (not_finite)",
        "rows.jsonl:3 (not_finite)",
        "rows.jsonl:4 (unsure)",
    ]


def test_output_that_cannot_be_written(score, tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "file").write_text("")
    status, said = score("--input", "rows.jsonl", output="file/scores.jsonl")
    assert status == 2 and "Not a directory: file" in said and "Traceback" not in said


@pytest.mark.slow
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


# ----------------------------------------------------------------------------- progress, provenance


@pytest.mark.long
def test_progress_without_and_with_a_terminal(tmp_path):
    import pty
    import termios

    write(tmp_path / "rows.jsonl", ROWS * 2000)
    told = ("--family", "length", "--input", "rows.jsonl")
    done = process(tmp_path, *told, "--output", "a.jsonl")
    assert (
        done.stderr == "a.jsonl: 100000 rows, 100000 answers\n"
    )  # done before there was anything to say
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    assert (
        process(
            tmp_path, *told, "--output", "b.jsonl", capture_output=False, stderr=theirs
        ).returncode
        == 0
    )
    assert (
        process(
            tmp_path, *told, "--output", "c.jsonl", "--quiet", capture_output=False, stderr=theirs
        ).returncode
        == 0
    )
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
    assert (
        progress.line(10.0)
        == "scores.jsonl: 1,200 of 4,000 rows, 100 rows/s, 3.00k tokens/s, 00:28 left"
    )


@pytest.mark.slow
def test_provenance(score, tmp_path, classifier, monkeypatch):
    from transformers import AutoTokenizer

    from reward_models import card
    from reward_models.jobs import identity, provenance

    write(
        tmp_path / "rows.jsonl",
        [{**row, "language": "sw" if i % 3 else "en"} for i, row in enumerate(ROWS)],
    )
    assert (
        score(
            "--input", "rows.jsonl", "--set", "max_length=10", family=("--model", str(classifier))
        )[0]
        == 0
    )
    told = json.loads((tmp_path / "scores.jsonl.json").read_text())
    assert (
        told["sha256"] == identity.KNOWN.file(tmp_path / "scores.jsonl")
        and told["input"][0]["rows"] == 50
    )
    scorer = told["scorer"]
    assert (
        scorer["family"] == "classifier"
        and scorer["settings"]["max_length"] == 10
        and scorer["dtype"] == "float32"
    )
    assert scorer["direction"] == "higher is better"
    assert scorer["template_hash"] == card.template_hash(
        AutoTokenizer.from_pretrained(classifier).get_chat_template()
    )
    assert told["identity"]["scorer"]["path"]["content"] and told["packages"]["torch"]
    assert {code: by["answers"] for code, by in told["counts"]["languages"].items()} == {
        "eng_Latn": 17,
        "swh_Latn": 33,
    }
    assert (
        told["counts"]["truncated"]
        == sum(r["truncated"] for r in read(tmp_path / "scores.jsonl"))
        > 0
    )
    secret = {
        "family": "length",
        "engine": {
            "api_key": "sk-1",
            "hf_token": "t",
            "max_tokens": 5,
            "url": "https://me:pw@host/v1",
        },
    }
    assert provenance.public(secret) == {
        "family": "length",
        "engine": {"max_tokens": 5, "url": "https://host/v1"},
    }
    assert identity.of_run(secret)["scorer"] == {
        "family": "length",
        "engine": {"max_tokens": 5, "url": "https://host/v1"},
    }
