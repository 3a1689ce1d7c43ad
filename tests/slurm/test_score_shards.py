"""`rm-score score --shard slurm` in a real array: a task is killed, returns to the queue, and the
file is that of an unbroken run.
"""

import json
import sys
import time

import pytest
from helpers import PROJECT
from tiny_classifier import save_classifier

from reward_models.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.long]
OPTIONS = ("--gpus-per-node=0", "--mem=1000", "--cpus-per-task=1", "--array=2-4", "--requeue")


def states(slurm, job):
    told = slurm.run(
        "squeue", "-h", "-r", "-t", "all", "-j", job, "-O", "ArrayTaskID:8,State:16,RestartCnt:8"
    ).stdout
    return {
        task: (state, int(restarts))
        for task, state, restarts in (line.split() for line in told.splitlines() if line.strip())
    }


def test_a_killed_task_returns_and_the_file_equals_the_unbroken_one(slurm, tmp_path):
    model = save_classifier(tmp_path / "model")
    rows = [
        {
            "id": f"r{i}",
            "prompt": f"What is {i} + 1?",
            "response": f"It is {i + 1}. " * (i % 12 + 1),
        }
        for i in range(900)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [
        "--model",
        str(model),
        "--input",
        str(tmp_path / "rows.jsonl"),
        "--window",
        "8",
        "--quiet",
    ]
    output = tmp_path / "scores.jsonl"
    job = slurm.run(
        "env",
        f"PYTHON={sys.executable}",
        "sbatch",
        "--parsable",
        f"--output={tmp_path}/%a.log",
        *OPTIONS,
        PROJECT / "slurm" / "score_array.sbatch",
        *given,
        "--output",
        output,
    ).stdout.strip()
    end = time.monotonic() + 240
    while not list(tmp_path.glob("scores.jsonl.parts/part-*.json")):
        assert time.monotonic() < end, (tmp_path / "3.log").read_text()
        time.sleep(0.05)
    slurm.run("scancel", f"{job}_3")
    while states(slurm, job)["3"][0] != "CANCELLED":
        assert time.monotonic() < end, states(slurm, job)
        time.sleep(0.1)
    slurm.run("scontrol", "requeue", f"{job}_3")
    while not all(state == "COMPLETED" for state, _ in states(slurm, job).values()):
        assert time.monotonic() < end, [
            states(slurm, job),
            *(p.read_text() for p in tmp_path.glob("*.log")),
        ]
        time.sleep(0.2)
    assert {task: restarts for task, (_, restarts) in states(slurm, job).items()} == {
        "2": 0,
        "3": 1,
        "4": 0,
    }
    whole = tmp_path / "unbroken.jsonl"
    assert main(["score", *given, "--output", str(whole)]) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.parts"))
