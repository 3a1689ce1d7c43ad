"""`rm-score score` in shards, killed, stopped and run again: the same bytes, and nothing lost."""

import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import PROJECT
from score_cases import ENVIRONMENT, ROWS, process, read, write
from training_cases import TINY

from mlalign.core import durable, resume
from reward_models.__main__ import main
from reward_models.jobs import job, parallel, scoring, survey


def parts(tmp_path):
    """The markers of a run that was stopped; the results of each part lie beside it."""
    return sorted((tmp_path / "scores.jsonl.parts").glob("part-*.json"))


def n_finished(tmp_path):
    """How many windows the markers of a run list."""
    return sum(len(json.loads(marker.read_text())["value"]) for marker in parts(tmp_path))


# --------------------------------------------------------------------------------- shards, windows


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("source", ["jsonl", "parquet"])
@pytest.mark.slow
def test_shards_windows_and_restarts_give_the_same_bytes(
    score, tmp_path, source, ending, monkeypatch
):
    monkeypatch.setattr(resume, "PART_S", 0.0)
    rows = write(tmp_path / "rows.jsonl", ROWS)
    if source == "parquet":
        rows = tmp_path / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(ROWS), rows, row_group_size=13)
    options = ("--window", 4, "--input", rows)
    assert score(*options, output=f"whole.{ending}")[0] == 0
    output = tmp_path / f"scores.{ending}"
    for i in (2, 0, 1):
        assert not output.exists()
        status, message = score(*options, "--shard", f"{i}/3", output=output.name)
        expected = "50 rows, 50 answers" if i == 1 else "the last one finishes the file"
        assert status == 0 and expected in message
    assert output.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert not (tmp_path / f"scores.{ending}.parts").exists()

    # Half of it, and then the rest with another number of shards.
    assert score(*options, "--shard", "1/2", output=f"again.{ending}")[0] == 0
    assert score(*options, output=f"again.{ending}")[0] == 0
    assert (tmp_path / f"again.{ending}").read_bytes() == output.read_bytes()


def test_shard_of_a_slurm_array(score, tmp_path, monkeypatch):
    write(tmp_path / "rows.jsonl", ROWS)
    status, message = score("--input", "rows.jsonl", "--shard", "slurm")
    assert status == 2 and "this is no task of a Slurm array" in message
    for name, value in {"MIN": "3", "COUNT": "2", "STEP": "4"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for task in ("7", "3"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert score("--input", "rows.jsonl", "--window", 4, "--shard", "slurm")[0] == 0
    assert len(read(tmp_path / "scores.jsonl")) == 50
    for bad in ("2/2", "x", "1/", "-1/2"):
        status, message = score("--input", "rows.jsonl", f"--shard={bad}", output="o.jsonl")
        assert status == 2 and f"--shard {bad}: expected I/N" in message


def test_windows_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "WINDOW_BYTES", 1000)
    rows = [{"prompt": "q", "response": "x" * size} for size in (10, 10, 5000, 10, 900, 900, 10)]
    pq.write_table(
        pa.Table.from_pylist(rows),
        tmp_path / "rows.parquet",
        compression="none",
        use_dictionary=False,
    )
    inputs = survey.sources([write(tmp_path / "rows.jsonl", rows)])
    check = scoring.Reading().check
    lines = survey.take(inputs, 1024, check)
    assert [window.rows for window in lines.windows] == [3, 3, 1] and lines.rows == 7
    parquet = survey.take(survey.sources([tmp_path / "rows.parquet"]), 1024, check)
    assert max(window.rows for window in parquet.windows) == 1 and parquet.rows == 7

    reader = survey.Reader(inputs)
    numbers = []
    for window in lines.windows:
        numbers += [entry.number for entry in reader.entries(window)]
    assert numbers == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.slow
def test_devices_on_a_machine_without_gpus(tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    options = ("--family", "length", "--input", "rows.jsonl", "--window", 4)
    assert process(tmp_path, *options, "--output", "whole.jsonl").returncode == 0
    done = process(tmp_path, *options, "--output", "scores.jsonl", "--devices", 2)
    assert done.returncode == 0, done.stderr
    assert "50 rows, 50 answers" in done.stderr
    assert (tmp_path / "scores.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.long
def test_a_process_that_dies_is_reported_and_the_others_finish(tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    broken = tmp_path / "site" / "sitecustomize.py"
    broken.parent.mkdir()
    broken.write_text(
        "import sys, os, signal\nif '0/2' in sys.argv:\n    print('out of luck', file=sys.stderr,"
        " flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    options = ("--family", "length", "--input", "rows.jsonl", "--window", 4)
    options = (*options, "--output", "scores.jsonl", "--devices", 2)
    done = process(tmp_path, *options, env={"PYTHONPATH": f"{broken.parent}:{PROJECT}"})
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert (
        "1 of 2 processes did not end well: one was ended by signal 9" in done.stderr
        and "out of luck" in done.stderr
    )
    assert n_finished(tmp_path) == 6  # of 13: the other process's whole share
    done = process(tmp_path, *options)
    assert done.returncode == 0 and len(read(tmp_path / "scores.jsonl")) == 50, done.stderr


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    code = (
        "from reward_models.jobs import parallel\nimport"
        " time\nparallel.end_with_parent()\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert child.stdout.readline() == b"ready\n"
    began = time.monotonic()
    child.communicate()
    assert child.returncode != 0 and time.monotonic() - began < 2 * parallel.GRACE_S


# -------------------------------------------------------------------------- killed, and other runs'


def stopped_after(monkeypatch, n):
    """Let the command end as by Ctrl-C after n windows."""
    real, calls = scoring.of_window, []

    def some(*arguments, **options):
        if len(calls) == n:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(scoring, "of_window", some)
    return calls


def test_ctrl_c_keeps_what_is_finished(score, tmp_path, monkeypatch):
    write(tmp_path / "rows.jsonl", ROWS)
    with monkeypatch.context() as patch:
        stopped_after(patch, 3)
        status, message = score("--input", "rows.jsonl", "--window", 10)
    assert (
        status == 130
        and "the same command goes on" in message
        and not (tmp_path / "scores.jsonl").exists()
    )
    calls = stopped_after(monkeypatch, 99)
    assert score("--input", "rows.jsonl", "--window", 10)[0] == 0
    assert len(calls) == 2 and len(read(tmp_path / "scores.jsonl")) == 50


@pytest.mark.parametrize(
    "place",
    [
        "reward_models.jobs.assembly.write",
        "mlalign.core.durable.publish",
        "reward_models.jobs.job.Job.throw_away",
    ],
)
def test_stopped_while_the_output_is_put_together(score, tmp_path, monkeypatch, place):
    write(tmp_path / "rows.jsonl", ROWS)
    with monkeypatch.context() as patch:
        calls = []

        def stop(*arguments):
            if "publish" not in place or str(arguments[1]) == "scores.jsonl":
                calls.append(1)
                raise KeyboardInterrupt

        real = durable.publish
        patch.setattr(place, lambda *a: stop(*a) or real(*a))
        assert score("--input", "rows.jsonl")[0] == 130 and calls
    status, message = score("--input", "rows.jsonl")
    assert status == 0 and ("is done already" in message) == ("throw_away" in place)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "rows.jsonl",
        "scores.jsonl",
        "scores.jsonl.json",
    ]
    assert len(read(tmp_path / "scores.jsonl")) == 50


def test_done_already_and_output_of_another_run(score, tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    assert score("--input", "rows.jsonl")[0] == 0
    before = (tmp_path / "scores.jsonl").read_bytes()
    assert score("--input", "rows.jsonl") == (
        0,
        "scores.jsonl: is done already\nscores.jsonl: 50 rows, 50 answers\n",
    )
    for arguments, expected in (
        (("--language", "fr"), 'language was not set, is "fra_Latn"'),
        (("--window", 7), "window was 1024, is 7"),
    ):
        status, message = score("--input", "rows.jsonl", *arguments)
        assert status == 2 and "exists already, from another run" in message and expected in message
    write(tmp_path / "rows.jsonl", ROWS[:40])
    status, message = score("--input", "rows.jsonl")
    assert status == 2 and "exists already, made from other rows" in message
    assert (tmp_path / "scores.jsonl").read_bytes() == before
    (tmp_path / "scores.jsonl").write_text("mine\n")
    assert "the file was changed since" in score("--input", "rows.jsonl")[1]
    (tmp_path / "scores.jsonl.json").unlink()
    assert score("--input", "rows.jsonl") == (
        2,
        "error: scores.jsonl: exists already; remove it or choose another --output\n",
    )
    (tmp_path / "scores.jsonl.json").write_text("{}")
    (tmp_path / "scores.jsonl").unlink()
    assert (
        "scores.jsonl.json: exists already, and this run would write there"
        in score("--input", "rows.jsonl")[1]
    )


@pytest.mark.slow
def test_unfinished_work_of_another_run_is_refused_or_thrown_away(
    score, tmp_path, monkeypatch, classifier
):
    write(tmp_path / "rows.jsonl", ROWS)
    write(tmp_path / "other.jsonl", ROWS[::-1])
    model = ("--model", str(classifier))
    rows = ("--input", "rows.jsonl", "--window", 10)
    short = ("--set", "max_length=50")
    with monkeypatch.context() as patch:
        stopped_after(patch, 2)
        assert score(*rows, *short, family=model)[0] == 130
    other = ("--input", "other.jsonl", "--window", 10)
    for arguments, expected in (
        ((*rows, "--set", "max_length=60"), "scorer.max_length was 50, is 60"),
        ((*other, *short), "is unfinished work on other rows (rows.jsonl of 50 rows)"),
    ):
        status, message = score(*arguments, family=model)
        assert status == 2 and expected in message and "--restart" in message
    assert score(*rows, *short, "--set", "device_batch_tokens=999", family=model)[0] == 0

    with monkeypatch.context() as patch:
        stopped_after(patch, 2)
        assert score(*rows, family=model, output="two.jsonl")[0] == 130
    assert score("--input", "other.jsonl", "--restart", output="two.jsonl")[0] == 0
    assert [r["id"] for r in read(tmp_path / "two.jsonl")] == [r["id"] for r in ROWS[::-1]]

    with monkeypatch.context() as patch:  # no window is finished: nothing would be lost
        stopped_after(patch, 0)
        assert score("--input", "rows.jsonl", output="zero.jsonl")[0] == 130
    assert score(*rows, output="zero.jsonl")[0] == 0

    thesis = tmp_path / "three.jsonl.parts" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    status, message = score("--input", "rows.jsonl", "--restart", output="three.jsonl")
    assert status == 2 and "holds other things" in message and thesis.exists()


def test_a_mended_row_costs_one_window(score, tmp_path, monkeypatch):
    write(tmp_path / "rows.jsonl", ROWS)
    with monkeypatch.context() as patch:
        stopped_after(patch, 4)
        assert score("--input", "rows.jsonl", "--window", 10)[0] == 130
    mended = [*ROWS[:15], {**ROWS[15], "response": "mended"}, *ROWS[16:]]
    write(tmp_path / "rows.jsonl", mended)
    calls = stopped_after(monkeypatch, 99)
    status, message = score("--input", "rows.jsonl", "--window", 10)
    kept = "3 of 4 finished windows still stand in it and are kept"
    assert status == 0 and f"the input was changed since: {kept}" in message
    scores = [row["score"] for row in read(tmp_path / "scores.jsonl")]
    assert len(calls) == 2 and scores == [len(row["response"]) for row in mended]


@pytest.mark.slow
def test_a_model_with_other_weights_is_another_run(
    score, tmp_path, tmp_path_factory, classifier, monkeypatch
):
    import shutil

    write(tmp_path / "rows.jsonl", ROWS)
    model, moved = tmp_path / "model", tmp_path / "moved"
    shutil.copytree(classifier, model)
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        assert (
            score("--input", "rows.jsonl", "--window", 10, family=("--model", str(model)))[0] == 130
        )
    model.rename(moved)
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        assert (
            score("--input", "rows.jsonl", "--window", 10, family=("--model", str(moved)))[0] == 130
        )  # it is the same model
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    status, message = score("--input", "rows.jsonl", "--window", 10, family=("--model", str(moved)))
    assert status == 2 and "scorer.path.content was" in message


@pytest.fixture
def forked(monkeypatch):
    """`forked(argv)` starts the command in a process that has everything imported already."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch",
            "peft",
            "transformers.models.qwen3.modeling_qwen3",
            "reward_models.families.classifier",
        ]
    )

    def start(argv):
        child = context.Process(target=main, args=([str(a) for a in argv],))
        child.start()
        return child

    return start


@pytest.mark.slow
@pytest.mark.long
def test_shards_that_end_together(tmp_path, forked):
    """Shards side by side, one of them twice: whoever finishes last, the file is whole."""
    source = write(tmp_path / "rows.jsonl", ROWS)
    for i in range(4):
        output = tmp_path / f"{i}.jsonl"
        options = ("score", "--family", "length", "--input", source, "--window", 3)
        options = (*options, "--output", output)
        children = [forked([*options, "--shard", f"{k % 4}/4"]) for k in range(5)]
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 5
        assert [r["score"] for r in read(output)] == [float(len(r["response"])) for r in ROWS]
    assert {p.name.partition(".")[2] for p in tmp_path.iterdir()} == {"jsonl", "jsonl.json"}


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [5, pytest.param(20, marks=pytest.mark.long)])
def test_kills(tmp_path, classifier, forked, n_kills):
    """kill -9 at random moments, in one of three shards or all of it: the file equals the
    unbroken one.
    """
    rows = []
    for i in range(250 * n_kills):
        prompt = f"Which number is the largest: {i} {i % 7}?"
        response = f"It is {i}. " * (1 + i % 9)
        rows.append({"prompt": prompt, "response": response, "language": "en"})
    source = write(tmp_path / "rows.jsonl", rows)
    options = ("score", "--model", classifier, "--input", source, "--window", 8, "--quiet")
    options = (*options, "--set", "device_batch_tokens=64")
    began = time.monotonic()
    whole = forked([*options, "--output", tmp_path / "whole.jsonl"])
    whole.join()
    took = time.monotonic() - began
    draw = random.Random(5)
    kept = []
    while len(kept) < n_kills:
        share = () if draw.random() < 0.3 else ("--shard", f"{draw.randrange(3)}/3")
        child = forked([*options, "--output", tmp_path / "scores.jsonl", *share])
        child.join(timeout=draw.uniform(0.05, 0.9) / n_kills * took)
        if child.is_alive():
            child.kill()
            child.join()
            kept.append(n_finished(tmp_path))
        # The machine is faster than it was: all kills once more, and sooner.
        if (tmp_path / "scores.jsonl").exists():
            for path in tmp_path.glob("scores.jsonl*"):
                path.unlink()
            kept.clear()
            took /= 2
    last = forked([*options, "--output", tmp_path / "scores.jsonl"])
    last.join()
    assert (tmp_path / "scores.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(set(kept)) > 2  # work was done between the kills
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == [
        "rows.jsonl",
        "scores.jsonl",
        "scores.jsonl.json",
        "whole.jsonl",
        "whole.jsonl.json",
    ]


# ------------------------------------------------------------------- what is there is checked first


def results_of(marker):
    return marker.with_suffix(".jsonl")


def cut(first, second):
    results_of(first).write_bytes(results_of(first).read_bytes()[:-9])


def swap_results(first, second):
    content = results_of(first).read_bytes()
    results_of(first).write_bytes(results_of(second).read_bytes())
    results_of(second).write_bytes(content)


def change_scores(first, second):
    results = results_of(first).read_text()
    results_of(first).write_text(results.replace('"score": ', '"score": 1'))


def swap_keys(first, second):
    """The scores of some rows are called those of others."""
    marker = json.loads(first.read_text())
    keys = json.loads(second.read_text())["value"]
    places = dict(zip(keys, marker["value"].values(), strict=False))
    first.write_text(json.dumps({**marker, "value": places}))


def of_another_run(first, second):
    first.write_text(json.dumps({**json.loads(first.read_text()), "key": "0" * 16}))


# What happens to the marker of the first of two parts, or to the results beside it.
DAMAGES = {
    "results cut": cut,
    "no results": lambda first, second: results_of(first).write_bytes(b""),
    "results gone": lambda first, second: results_of(first).unlink(),
    "results of another part": swap_results,
    "a score of one's own": change_scores,
    "scores under other rows' keys": swap_keys,
    "marker cut": lambda first, second: first.write_text(first.read_text()[:-20]),
    "marker empty": lambda first, second: first.write_text(""),
    "marker a list": lambda first, second: first.write_text("[]"),
    "marker of another run": of_another_run,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.slow
def test_parts_are_checked_before_they_are_trusted(score, tmp_path, damage, monkeypatch):
    write(tmp_path / "rows.jsonl", ROWS)
    options = ("--window", 4, "--input", "rows.jsonl")
    assert score(*options, output="whole.jsonl")[0] == 0
    for share in ("0/3", "1/3"):
        score(*options, "--shard", share)
    DAMAGES[damage](*parts(tmp_path)[:2])
    status, message = score(*options)
    assert status == 0 and "not what was written there; computed again" in message, message
    assert (tmp_path / "scores.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("change", ["cut", "fewer windows"])
def test_the_survey_of_a_run_is_checked_too(score, tmp_path, change):
    write(tmp_path / "rows.jsonl", ROWS)
    options = ("--window", 4, "--input", "rows.jsonl")
    score(*options, "--shard", "0/3")
    path = tmp_path / "scores.jsonl.parts" / "run.json"
    run = json.loads(path.read_text())
    surveyed = run["value"]["survey"]
    surveyed["windows"] = surveyed["windows"][:3]
    path.write_text(json.dumps(run) if change == "fewer windows" else path.read_text()[:50])
    status, message = score(*options)
    assert status == 0 and f"{path.name}: is not what was written there; computed again" in message
    assert len(read(tmp_path / "scores.jsonl")) == 50


def test_an_output_that_was_changed_is_not_taken_for_done(score, tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    assert score("--input", "rows.jsonl")[0] == 0
    path = tmp_path / "scores.jsonl"
    path.write_text(path.read_text().replace('"score": 1', '"score": 9', 1))
    status, message = score("--input", "rows.jsonl")
    assert status == 2 and "the file was changed since" in message


def test_a_model_that_is_swapped_while_it_scores_gives_nothing(score, tmp_path, monkeypatch):
    """Neither the output nor a part that the next run would take."""
    shutil.copytree(TINY, tmp_path / "model")
    write(tmp_path / "rows.jsonl", ROWS)
    options = (
        "--input",
        "rows.jsonl",
        "--set",
        "unit=tokens",
        "--set",
        f"path={tmp_path / 'model'}",
    )
    real, weights = scoring.of_window, tmp_path / "model" / "model.safetensors"

    def swapping(*given, **more):
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        return real(*given, **more)

    monkeypatch.setattr(scoring, "of_window", swapping)
    status, message = score(*options)
    assert status == 2 and f"{weights}: was changed while it was in use" in message
    assert parts(tmp_path) == [] and not (tmp_path / "scores.jsonl").exists()


def test_a_parquet_input_that_changes_while_it_is_scored_is_an_error(score, tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    real = scoring.of_window

    def changing(*given, **more):
        pq.write_table(pa.Table.from_pylist([{**r, "response": "other"} for r in ROWS]), path)
        return real(*given, **more)

    monkeypatch.setattr(scoring, "of_window", changing)
    status, message = score("--input", path, "--window", 10)
    assert status == 2 and "rows.parquet: was changed while it was being scored" in message


def test_a_run_that_begins_meanwhile_is_not_taken_for_other_things(tmp_path, monkeypatch):
    """Another process writes run.json after this one has looked for it."""
    the_job = job.Job(tmp_path / "scores.jsonl", {})
    iterdir = Path.iterdir
    the_job.folder.mkdir()

    def begins(folder):
        (the_job.folder / "run.json").write_text("{}")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", begins)
    the_job.check_folder(restart=False)
