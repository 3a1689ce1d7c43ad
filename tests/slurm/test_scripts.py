"""The scripts in `slurm/`: clean to shellcheck, and each run on a real Slurm with the tiny model."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from helpers import PROJECT
from training_cases import FAST, TINY, write

SCRIPTS = sorted((PROJECT / "slurm").glob("*.sbatch"))
SMALL = ("--gpus-per-node=0", "--mem=1000", "--cpus-per-task=1", "--time=10")


def test_scripts_pass_shellcheck():
    if not shutil.which("shellcheck"):
        why = "no shellcheck on this machine (package shellcheck)"
        pytest.fail(why) if os.environ.get("REQUIRE_SLURM") else pytest.skip(why)
    assert len(SCRIPTS) == 5
    done = subprocess.run(
        ["shellcheck", "--shell=bash", *SCRIPTS], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_scripts_requeue_say_how_to_be_used_and_are_in_the_readme(path):
    text = path.read_text()
    assert (
        "#SBATCH --requeue" in text
        and "#SBATCH --signal=B:USR1@" in text
        and "scontrol requeue" in text
    )
    assert (
        f"slurm/{path.name}" in text
        and f"({path.name})" in (PROJECT / "slurm" / "README.md").read_text()
    )


@pytest.fixture
def submit(slurm, tmp_path):
    """`submit(script, *arguments, options=…, **variables)` -> job id; its log is `log(job)`."""

    def call(script, *arguments, options=SMALL, **variables):
        env = {
            "PYTHON": sys.executable,
            "ROOT": str(tmp_path),
            "TOKENIZERS_PARALLELISM": "false",
            **variables,
        }
        exported = ["env", *(f"{k}={v}" for k, v in env.items()), "sbatch", "--parsable"]
        done = slurm.run(
            *exported,
            f"--output={tmp_path}/%A_%a.log",
            *options,
            PROJECT / "slurm" / f"{script}.sbatch",
            *arguments,
        )
        jobs.append(done.stdout.strip())
        return jobs[-1]

    jobs = []
    yield call
    slurm.run("scancel", *jobs)


def log(tmp_path, job):
    return "\n".join(p.read_text() for p in sorted(tmp_path.glob(f"{job}_*.log")))


def until(found, what, timeout=120):
    end = time.monotonic() + timeout
    while not (value := found()):
        assert time.monotonic() < end, what()
        time.sleep(0.2)
    return value


def recipe(tmp_path, **steps):
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf" / "recipe" / "mine.yaml").write_text(yaml.safe_dump({"steps": steps}))
    return ["recipe=mine", f"conf_dir={tmp_path / 'conf'}"]


def sft(tmp_path):
    source = write(tmp_path / "rows", "demonstration")
    config = {
        **FAST,
        "device_batch_size": 4,
        "checkpoint_every": 10,
        "trainer": {**FAST["trainer"], "max_steps": 60},
    }
    return recipe(
        tmp_path,
        base={
            "stage": "sft",
            "inputs": {"model": {"path": str(TINY)}, "rows": {"path": str(source)}},
            "config": config,
        },
    )


def interrupted(slurm, tmp_path, job):
    """Wait until the step of a job trains, give the notice of its end, and wait for its second
    start and its end; its log.
    """

    def begun():
        return (
            list((tmp_path / "store").glob("*.partial/progress.json"))
            or slurm.job(job)["JobState"] == "FAILED"
        )

    until(begun, lambda: log(tmp_path, job), 180)
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    until(lambda: slurm.job(job)["Restarts"] == "1", lambda: log(tmp_path, job), 60)
    assert slurm.wait(job, "COMPLETED", "FAILED", timeout=240)["JobState"] == "COMPLETED", log(
        tmp_path, job
    )
    return log(tmp_path, job)


def losses(tmp_path):
    (path,) = (tmp_path / "store").glob("sft-*/log_history.json")
    return [entry["loss"] for entry in json.loads(path.read_text()) if "loss" in entry]


@pytest.mark.slow
def test_one_stage_is_interrupted_and_goes_on(slurm, submit, tmp_path):
    job = submit("one_stage", "run", *sft(tmp_path))
    assert "state saved; back into the queue" in interrupted(slurm, tmp_path, job)
    assert len(losses(tmp_path)) == 60


@pytest.mark.slow
@pytest.mark.long
def test_training_over_two_nodes_is_interrupted_and_goes_on(slurm, submit, tmp_path):
    options = ("--nodes=2", "--gpus-per-node=0", "--mem=1000", "--cpus-per-task=1", "--time=10")
    job = submit(
        "train_multinode", *sft(tmp_path), "name=mine", options=options, STEP="base", PROCESSES="1"
    )
    assert "state saved; back into the queue" in interrupted(slurm, tmp_path, job)
    manifest = json.loads(next((tmp_path / "store").glob("sft-*/manifest.json")).read_text())
    assert manifest["ranks"] == 2 and len(losses(tmp_path)) == 60
    again = submit(
        "train_multinode", *sft_again(tmp_path), options=options, STEP="base", PROCESSES="1"
    )
    slurm.wait(again, "COMPLETED")
    assert "base: is done" in log(tmp_path, again)


def sft_again(tmp_path):
    return ["recipe=mine", f"conf_dir={tmp_path / 'conf'}", "name=mine"]


def generated(tmp_path):
    source = write(tmp_path / "rows", "prompt", n_train=6, n_eval=2)
    step = {
        "stage": "generate",
        "inputs": {"model": {"path": str(TINY)}, "rows": {"path": str(source)}},
        "config": {"max_tokens": 8},
    }
    return [*recipe(tmp_path, answers=step), "engine=transformers", "only=answers", "name=mine"]


def mlalign(*arguments, root, **variables):
    command = [sys.executable, "-m", "mlalign", *arguments, f"root={root}"]
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        command, env=env, cwd=root, text=True, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_an_array_generates_what_one_process_does(slurm, submit, tmp_path):
    arguments = generated(tmp_path)
    config = mlalign("freeze", *arguments, root=tmp_path)
    assert config.endswith(".partial/config.yaml")
    job = submit("generate_array", config, options=(*SMALL, "--array=3-5"))
    until(
        lambda: not [j for j in slurm.queue() if j.startswith(job)], lambda: log(tmp_path, job), 240
    )
    (path,) = (tmp_path / "store").glob("generate-*")
    assert (path / "manifest.json").is_file(), log(tmp_path, job)
    (tmp_path / "alone").mkdir()
    mlalign("run", *arguments, root=tmp_path / "alone")
    alone = tmp_path / "alone" / "store" / path.name
    digests = [
        json.loads((p / "manifest.json").read_text())["content_digest"] for p in (path, alone)
    ]
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.long
def test_a_vllm_server_answers_and_takes_its_address_along_when_it_goes(slurm, submit, tmp_path):
    address = tmp_path / "judge.url"
    arguments = (
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "256",
        "--no-enable-chunked-prefill",
    )
    variables = {
        "MODEL": str(TINY),
        "NAME": "tiny",
        "ADDRESS": str(address),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    job = submit("vllm_server", *arguments, **variables)
    until(address.is_file, lambda: log(tmp_path, job), 300)
    key = tmp_path / "judge.url.key"
    assert key.stat().st_mode & 0o077 == 0 and key.read_text().strip() not in log(tmp_path, job)
    source = write(tmp_path / "rows", "prompt", n_train=2, n_eval=1)
    engine = [
        f"engine.base_url={address.read_text().strip()}",
        "engine.served_model=tiny",
        "engine.api_key_env=VLLM_API_KEY",
    ]
    told = mlalign(
        "generate",
        "engine=openai",
        *engine,
        f"rows={source}",
        "max_tokens=4",
        root=tmp_path,
        VLLM_API_KEY=key.read_text().strip(),
    )
    assert "done, 6 rows" in told
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    until(lambda: slurm.job(job)["Restarts"] == "1", lambda: log(tmp_path, job), 60)
    assert not address.exists()
    slurm.run("scancel", job)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_so(slurm, submit, tmp_path):
    without_vllm = f"{sys.base_prefix}/bin/python3"
    job = submit(
        "vllm_server", MODEL="any", ADDRESS=str(tmp_path / "judge.url"), PYTHON=without_vllm
    )
    assert slurm.wait(job, "COMPLETED", "FAILED", timeout=120)["JobState"] == "FAILED"
    assert (
        "the server ended before it answered" in log(tmp_path, job)
        and not (tmp_path / "judge.url").exists()
    )
