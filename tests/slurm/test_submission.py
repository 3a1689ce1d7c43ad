"""Submitting to a real Slurm, and everything that can be wrong with it: one message that names the
key and the mend.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from slurm_cases import Run, until

from mlalign import cli
from mlalign.running.slurm import commands

pytestmark = pytest.mark.slow
ONLY = ("recipe=chain", "launcher=slurm", "only=[rows,prompts]")


@pytest.fixture
def run(slurm, tmp_path):
    made = Run(tmp_path, slurm.env)
    yield made
    slurm.run("scancel", "--full", "-u", os.environ.get("USER", "root"), check=False)
    until(lambda: not slurm.queue(), "an empty queue")


def test_what_is_done_is_not_submitted_and_what_is_queued_is_refused(slurm, run):
    held = "launcher.sbatch={hold: true}"
    done = run.call("run", *ONLY, held)
    assert done.returncode == 0, done.stderr
    assert "2 jobs submitted" in done.stdout and "mlalign status name=r" in done.stdout
    assert [e["step"] for e in run.jobs()] == ["rows", "prompts"]
    again = run.call("run", *ONLY, held)
    assert again.returncode == 1
    assert "is in the queue already" in again.stderr and "mlalign cancel name=r" in again.stderr
    other = run.call("run", *ONLY, held, "seed=5")
    assert "submitted with other settings" in other.stderr
    slurm.run("scontrol", "release", *(e["job"] for e in run.jobs()))
    until(lambda: not slurm.queue(), "both")
    assert "nothing to submit" in run.call("run", *ONLY).stdout
    assert len(run.jobs()) == 2
    assert (run.folder() / "environment.json").is_file()
    held = run.call("run", *ONLY, "force=rows", "launcher.sbatch={begin: now+3}")
    assert held.returncode == 0, held.stderr
    anew = run.call("run", *ONLY, "launcher.wait=true")  # stays with what is in the queue
    assert "is in the queue already" in anew.stdout and "rows: done" in anew.stdout
    assert anew.returncode == 0 and [e["step"] for e in run.jobs()] == [
        "rows",
        "prompts",
        "rows",
    ], anew.stderr


def test_what_is_queued_stays_as_it_was_submitted(slurm, run, tmp_path):
    copy = tmp_path / "checkout"
    for package in ("mlalign", "reward_models", "conf"):
        shutil.copytree(
            Path(run.env["PYTHONPATH"]) / package,
            copy / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    run.env = {**run.env, "PYTHONPATH": str(copy)}
    done = run.call("run", *ONLY, "launcher.sbatch={hold: true}", cwd=copy)
    assert done.returncode == 0, done.stderr
    (copy / "mlalign/stages/prepare.py").write_text("raise SystemExit('edited')")
    (run.root / "conf/recipe/chain.yaml").write_text("steps: {}")
    slurm.run("scontrol", "release", *(e["job"] for e in run.jobs()))
    until(lambda: not slurm.queue(), "both")
    assert len(run.digests()) == 2


@pytest.mark.long
def test_uncommitted_changes_are_refused_where_a_commit_is_asked_for(run, tmp_path):
    copy = tmp_path / "checkout"
    for package in ("mlalign", "reward_models", "conf"):
        shutil.copytree(
            Path(run.env["PYTHONPATH"]) / package,
            copy / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    run.env = {**run.env, "PYTHONPATH": str(copy)}
    git = ["git", "-C", str(copy), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True, timeout=60)
    (copy / "mlalign/stages/new.py").write_text("")
    done = run.call("run", *ONLY, "launcher.source=commit")
    assert "uncommitted changes" in done.stderr and "mlalign/stages/new.py" in done.stderr
    (copy / "mlalign/stages/new.py").unlink()
    done = run.call("run", *ONLY, "launcher.source=commit", "launcher.wait=true")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("asked", "slurms_words", "key"),
    [
        (
            "launcher.partition=nope",
            "invalid partition specified: nope",
            "launcher.partition (nope)",
        ),
        ("steps.base.resources.nodes=3", "", "steps.base.resources.nodes (3)"),
        ("steps.base.resources.memory=900G", "", "steps.base.resources.memory (900G)"),
        ("launcher.reservation=nope", "reservation", "launcher.reservation (nope)"),
        ("launcher.sbatch={no-such-option: 1}", "unrecognized option", "launcher.sbatch"),
    ],
)
def test_what_slurm_refuses_is_told_with_the_key(slurm, run, asked, slurms_words, key):
    """And nothing of the submission is left in the queue."""
    done = run.call("run", "recipe=chain", "launcher=slurm", asked)
    assert done.returncode == 1
    assert (
        "Slurm refused the job: " in done.stderr
        and slurms_words in done.stderr
        and key in done.stderr
    ), done.stderr
    assert "Traceback" not in done.stderr
    if asked.startswith("steps.base"):
        assert "jobs submitted before it were cancelled" in done.stderr
    until(lambda: not slurm.queue(), "an empty queue", 20)


@pytest.mark.long
def test_an_unknown_account_is_told_with_the_key(make_cluster, tmp_path):
    if not shutil.which("slurmdbd", path=os.environ["PATH"] + ":/usr/sbin"):
        why = "accounts need slurmdbd: CLUSTER_ACCOUNTS=1 tests/slurm-up.sh install"
        pytest.fail(why) if os.environ.get("REQUIRE_SLURM") == "1" else pytest.skip(why)
    with make_cluster(nodes=1, accounts=1) as slurm:
        run = Run(tmp_path, slurm.env)
        done = run.call("run", *ONLY, "launcher.account=nope")
        assert "Invalid account" in done.stderr and "launcher.account (nope)" in done.stderr
        assert (
            run.call(
                "run", *ONLY, "launcher.account=known", "launcher.sbatch={hold: true}"
            ).returncode
            == 0
        )


def test_an_input_that_will_never_be_there(run):
    done = run.call("run", "recipe=chain", "launcher=slurm", "only=base")
    assert done.returncode == 1
    assert (
        "base: its input rows is neither there nor in the queue; run without only=, or with"
        " from=rows" in done.stderr
    )


def test_a_failing_step_explains_itself_and_cancels_what_waits_for_it(slurm, run):
    (run.root / "conf/data/small.yaml").write_text(
        (run.root / "conf/data/small.yaml")
        .read_text()
        .replace(
            "demonstrations: [",
            f"demonstrations: [{{path: {run.root}/bad.jsonl, language: eng_Latn}}, ",
        )
    )
    (run.root / "bad.jsonl").write_text('{"prompt": "x"\n')
    done = run.call("run", "recipe=chain", "launcher=slurm", "launcher.wait=true")
    assert done.returncode == 1
    told = run.failed("rows")
    assert (
        "rows ended with status 2: job 1" in told.replace(run.job("rows"), "1") and " on n" in told
    )
    assert "bad.jsonl" in told and "cancelled with it: base, answers" in told
    assert len(told.splitlines()) <= 24
    assert told.splitlines()[0] in run.log("rows") and told.splitlines()[0] in done.stderr
    assert "prompts: done" in done.stdout and "ended without a result" in done.stdout
    slurm.wait(run.job("base"), "CANCELLED")
    (run.root / "bad.jsonl").write_text('{"prompt": "x", "completion": "y"}\n')
    until(lambda: not slurm.queue(), "an empty queue")


def test_hand_cancelled_jobs_are_submitted_again(slurm, run):
    assert run.call("run", *ONLY, "launcher.sbatch={hold: true}").returncode == 0
    slurm.run("scancel", run.job("rows"))
    done = run.call("run", *ONLY)
    assert done.returncode == 0, done.stderr
    assert [e["step"] for e in run.jobs()] == ["rows", "prompts", "rows"]


def test_two_submissions_at_once(run):
    options = {
        "cwd": run.root,
        "env": run.env,
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    import sys

    words = [
        sys.executable,
        "-m",
        "mlalign",
        "run",
        "name=r",
        f"root={run.root}",
        f"conf_dir={run.root / 'conf'}",
        "data=small",
        *ONLY,
    ]
    both = [subprocess.Popen([*words, "launcher.sbatch={hold: true}"], **options) for _ in range(2)]
    told = [(p.communicate(timeout=120), p.returncode) for p in both]
    assert sorted(status for _, status in told) == [0, 1]
    refused = next(text[1] for text, status in told if status)
    assert "another process is submitting" in refused or "in the queue already" in refused
    assert len(run.jobs()) == 2


@pytest.mark.parametrize(
    "name",
    [
        "two words",
        "$HOME `id` '%j\"",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("it's", 'say "hi"', "100%j")),
    ],
)
def test_hostile_run_names(run, slurm, name):
    done = run.call(
        "run",
        "recipe=chain",
        "launcher=slurm",
        "only=rows",
        "launcher.wait=true",
        name=name_quoted(name),
    )
    assert done.returncode == 0, done.stderr
    assert "rows: done" in done.stdout
    job = run.jobs(name)[0]["job"]
    assert (run.folder(name) / f"logs/rows-{job}.log").is_file()


def name_quoted(name: str) -> str:
    """As a person quotes a value of Hydra's grammar."""
    escaped = name.replace("'", "\\'")
    return f"'{escaped}'"


def test_slurm_is_not_there(run):
    done = run.call("run", *ONLY)
    run.env = {**run.env, "PATH": str(run.root)}
    done = run.call("run", *ONLY, "force=rows")  # the jobs of the first call may have ended by now
    assert done.returncode == 1
    assert (
        "Slurm's `" in done.stderr
        and "is not on the PATH" in done.stderr
        and "launcher=local" in done.stderr
    )


def test_slurm_does_not_answer(make_cluster, tmp_path, monkeypatch, capfd):
    with make_cluster(nodes=1) as slurm:
        run = Run(tmp_path, slurm.env)
        controller = int((Path(slurm.env["SLURM_CONF"]).parent / "pids/slurmctld").read_text())
        monkeypatch.setattr(commands, "TIMEOUT_S", 2)
        monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
        os.kill(controller, signal.SIGSTOP)
        try:
            status = cli.main(
                [
                    "run",
                    "name=r",
                    f"root={run.root}",
                    f"conf_dir={run.root / 'conf'}",
                    "data=small",
                    *ONLY,
                ]
            )
        finally:
            os.kill(controller, signal.SIGCONT)
    assert status == 1
    assert "said nothing for 2 s" in capfd.readouterr().err


@contextlib.contextmanager
def elsewhere(base: Path):
    """A place outside the folders that are known to be a machine's own."""
    place = Path("/opt") / f"mlalign-{os.getpid()}-{time.monotonic_ns()}"
    try:
        place.mkdir()
    except OSError:
        pytest.skip("needs root")
    try:
        yield place
    finally:
        shutil.rmtree(place)


def test_a_root_below_tmp_is_refused_where_nodes_are_other_machines(make_cluster, tmp_path):
    with make_cluster(nodes=1, hostname="node7") as slurm:
        done = Run(tmp_path, slurm.env).call("run", *ONLY)
    assert done.returncode == 1
    assert "is below /tmp, which the nodes of the cluster (node7) do not see" in done.stderr


def test_a_node_that_does_not_see_the_root(make_cluster, tmp_path):
    with elsewhere(tmp_path) as place, make_cluster(nodes=1, blind=place) as slurm:
        done = Run(place, slurm.env).call("run", *ONLY, "launcher.wait=true")
        assert done.returncode == 1
        assert "root= must lie on a disk that the nodes share" in done.stderr
