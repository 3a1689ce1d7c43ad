"""`status`, `logs`, `cancel` and `freeze` of runs on this machine, and what a person may get wrong."""

import json
import signal
import subprocess
import sys
import time

import pytest

CLAIM = (
    "import sys, time; from pathlib import Path; from mlalign.core import claims; c ="
    " claims.claim(Path(sys.argv[1])); c.__enter__(); print('mine', flush=True); time.sleep(60)"
)


@pytest.fixture
def partial(tmp_path):
    """The begun first step of a run of two."""
    steps = [
        {
            "step": f"{name}[swh_Latn]",
            "stage": "sft",
            "artifact": f"sft-{i:016x}",
            "round": 1,
            "inputs": [],
            "resources": {},
        }
        for i, name in enumerate(("base.r1", "policy.r1"))
    ]
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "plan.json").write_text(
        json.dumps({"recipe": "tried", "name": "mine", "languages": [], "steps": steps})
    )
    path = tmp_path / "store" / "sft-0000000000000000.partial"
    (path / "logs").mkdir(parents=True)
    (path / "config.yaml").write_text("inputs: {}\n")
    (path / "logs" / "step.log").write_bytes(
        b"one\r\ntwo 10%\rtwo 100%\n\x1b]0;title\x07three \xff\n\xe2\x80\xaelast\n"
    )
    return path


@pytest.fixture
def owner(partial):
    """A process in a session of its own that has claimed the step."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, partial],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.wait()


def states(mlalign):
    return {
        s["step"]: s["state"]
        for s in json.loads(mlalign("status", "name=mine", "json=true").stdout)["runs"][0]["steps"]
    }


def test_states_from_claims_and_last_words(mlalign, partial, owner):
    (partial / "progress.json").write_text(
        '{"done": 3, "total": 9, "unit": "steps", "by_language": {"swh_Latn": 2}, "time": 0}'
    )
    assert states(mlalign) == {"base.r1[swh_Latn]": "running", "policy.r1[swh_Latn]": "waiting"}
    line = mlalign("status", "name=mine").stdout.splitlines()[2].split()
    assert line[:5] == ["1", "base.r1[swh_Latn]", "swh_Latn", "sft", "running"] and line[-4:] == [
        "3/9",
        "steps",
        "(swh_Latn",
        "2)",
    ]
    owner.kill()
    owner.wait()
    assert states(mlalign)["base.r1[swh_Latn]"] == "interrupted"
    (partial / "outcome.json").write_text(
        '{"status": 2, "message": "rows: \\u001b[2Jempty\\nmore"}'
    )
    told = mlalign("status", "name=mine").stdout
    assert states(mlalign)["base.r1[swh_Latn]"] == "failed" and "rows: ⟨U+001B⟩[2Jempty\n" in told


def test_logs_cannot_steer_the_terminal(mlalign, partial):
    told = mlalign("logs", "name=mine").stdout
    assert told.splitlines()[1:] == [
        "one",
        "two 10%",
        "two 100%",
        "⟨U+001B⟩]0;title⟨U+0007⟩three \ufffd",
        "⟨U+202E⟩last",
    ]
    assert mlalign("logs", "name=mine", "step=base", "lines=1").stdout.splitlines()[1:] == [
        "… 3 lines before these: lines=all shows them",
        "⟨U+202E⟩last",
    ]


@pytest.mark.slow
def test_follow_ends_with_the_step(mlalign, partial, owner, monkeypatch):
    monkeypatch.setattr("mlalign.cli.commands.logs.ASK_S", 0.5)
    code = (
        f"import os, time; time.sleep(1.5); f = open({str(partial / 'logs' / 'step.log')!r}, 'a');"
        f" f.write('end\\n'); f.close(); os.kill({owner.pid}, 9)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code])
    reaper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)"])
    told = mlalign("logs", "name=mine", "follow=true").stdout
    assert told.splitlines()[-1] == "end"
    writer.wait()
    reaper.wait()


def test_cancel_asks_and_now_kills(mlalign, partial, owner):
    assert (
        mlalign("cancel", "name=mine").stdout
        == "base.r1[swh_Latn]: asked to save its state and stop\n"
    )
    assert (partial / "STOP").exists() and owner.poll() is None
    assert (
        mlalign("cancel", "name=mine", "step=base", "now=true").stdout
        == "base.r1[swh_Latn]: killed\n"
    )
    assert owner.wait(10) == -signal.SIGKILL
    assert (
        mlalign("cancel", "name=mine", "step=policy").stdout
        == "no step of this run is running or waiting in the queue\n"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status", "name=mine", "watch=often"], "watch: expected a number from 0 up, got 'often'"),
        (["status", "name=mine", "json=maybe"], "json: expected true or false"),
        (["status", "name=mien"], "there is no run 'mien'"),
        (
            ["logs", "name=mine", "step=polycy"],
            "step: the run has no step 'polycy'; did you mean 'policy",
        ),
        (["logs", "name=mine", "step=policy"], "step=policy: no log yet"),
        (["logs", "name=mine", "lines=-1"], "lines: expected a number of lines, or all"),
        (["logs", "name=mine", "follow=perhaps"], "follow: expected true or false"),
        (["cancel", "name=mine", "step=x"], "step: the run has no step 'x'"),
        (["cancel", "nmae=mine"], "nmae: unknown key; did you mean 'name'"),
        (["freeze", "recipe=candidates"], "only: name the one step to freeze"),
        (
            ["freeze", "recipe=candidates", "only=candidates"],
            "its input rows.prompts is not there yet",
        ),
        (["fetch"], "recipe: missing"),
    ],
)
@pytest.mark.slow
def test_mistakes(mlalign, partial, arguments, told):
    done = mlalign(*arguments)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )


def test_a_broken_list_of_jobs_is_named(mlalign, partial, tmp_path):
    (tmp_path / "runs" / "mine" / "slurm").mkdir()
    (tmp_path / "runs" / "mine" / "slurm" / "jobs.jsonl").write_text("not json\n")
    for command in (["status"], ["cancel", "name=mine"], ["gc"]):
        done = mlalign(*command)
        assert (
            done.returncode == 1
            and "jobs.jsonl, line 1: is no JSON; remove the line" in done.stderr
        )


@pytest.mark.slow
def test_elapsed_is_the_time_since_the_step_began(mlalign, partial, owner):
    time.sleep(1.1)
    told = json.loads(mlalign("status", "name=mine", "json=true").stdout)["runs"][0]["steps"][0]
    assert 1 <= told["elapsed_s"] < 60
