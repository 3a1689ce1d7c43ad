"""SFT, reward and DPO as two ranks under torchrun, with ZeRO-2 and ZeRO-3: the losses and the
weights of one process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import PROJECT
from safetensors.torch import load_file
from training_cases import FAST, TINY, write

from mlalign.core import store
from mlalign.running.step import main

pytestmark = pytest.mark.slow
ROWS = {"sft": "demonstration", "reward": "preference", "preference": "preference"}
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def step(
    root: Path, stage: str, source: Path, n_ranks: int, stop: bool = False, **config
) -> subprocess.CompletedProcess:
    """Run a step in `root` the way `mlalign run` does, one without DeepSpeed in this process.

    With `stop` it is asked to stop from the
    beginning, so it stops at step 1.
    """
    partial = root / f"{stage}-test.partial"
    partial.mkdir(parents=True, exist_ok=True)
    inputs = {"model": {"path": str(TINY)}, "rows": {"path": str(source)}}
    told = {
        "stage": stage,
        "step": stage,
        "fingerprint": "test",
        "config": {**FAST, **config},
        "inputs": inputs,
    }
    (partial / "config.yaml").write_text(yaml.safe_dump(told))
    (partial / "STOP").touch() if stop else (partial / "STOP").unlink(missing_ok=True)
    if n_ranks == 1 and "deepspeed" not in config:
        return subprocess.CompletedProcess([], main([str(partial / "config.yaml")]))
    launcher = (
        []
        if n_ranks == 1
        else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_ranks)]
    )
    command = [sys.executable, *launcher, "-m", "mlalign.step", str(partial / "config.yaml")]
    env = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return subprocess.run(
        command, env=env, text=True, capture_output=True, timeout=900, check=False
    )


def deepspeed(name: str) -> dict:
    return yaml.safe_load((PROJECT / "conf" / "deepspeed" / f"{name}.yaml").read_text())


def finished(done: subprocess.CompletedProcess, root: Path, stage: str) -> Path:
    assert done.returncode == 0, done.stderr[-3000:]
    return root / f"{stage}-test"


def losses(path: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((path / "log_history.json").read_text())]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process gives, by stage."""
    root = tmp_path_factory.mktemp("alone")
    sources = {stage: write(root / "rows" / kind, kind) for stage, kind in ROWS.items()}
    return sources, {
        stage: finished(step(root, stage, sources[stage], 1), root, stage) for stage in ROWS
    }


@pytest.mark.parametrize(("stage", "zero"), [
    ("sft", "zero2"), pytest.param("preference", "zero3", marks=pytest.mark.long), pytest.param("reward", "zero3", marks=pytest.mark.long),
    pytest.param("sft", "zero3", marks=pytest.mark.long),
    pytest.param("reward", "zero2", marks=pytest.mark.long), pytest.param("preference", "zero2", marks=pytest.mark.long),
])  # fmt: skip
def test_two_ranks_give_the_losses_of_one_process(stage, zero, alone, tmp_path):
    sources, expected = alone
    path = finished(
        step(tmp_path, stage, sources[stage], 2, deepspeed=deepspeed(zero)), tmp_path, stage
    )
    assert losses(path) == pytest.approx(losses(expected[stage]), abs=2e-5)
    assert not (path / "checkpoints").exists()
    assert sorted(p.name for p in (path / "model").iterdir()) == sorted(
        p.name for p in (expected[stage] / "model").iterdir()
    )
    ours, theirs = (
        load_file(path / "model" / "model.safetensors"),
        load_file(expected[stage] / "model" / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    # Adam divides by the gradient's size: where that is nearly 0, rounding decides a sign. So:
    # close on average, and one step at most.
    apart = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours])
    assert float(apart.mean()) < 1e-6 and float(apart.max()) < FAST["trainer"]["learning_rate"]
    manifest = store.read_json(path / "manifest.json")
    assert manifest["ranks"] == 2 and manifest["train"]["trainable_parameters"] == sum(
        t.numel() for t in ours.values()
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("stage", "zero", "n_rows", "batch_size"),
    [
        # the last step has 3 rows: 2 and 1
        ("sft", None, 11, 8), ("reward", None, 11, 8), ("preference", None, 11, 8),
        # and here 1 row for two ranks
        ("sft", "zero2", 9, 4), ("reward", "zero2", 9, 4), ("preference", "zero3", 9, 4),
    ],
)  # fmt: skip
def test_two_ranks_train_on_the_same_rows_to_the_end_of_an_epoch(
    stage, zero, n_rows, batch_size, tmp_path
):
    source = write(tmp_path / "rows", ROWS[stage], n_train=n_rows)
    epoch = {"learning_rate": 1e-3, "max_steps": -1, "num_train_epochs": 1}
    given = {"batch_size": batch_size, "languages": ["eng_Latn"], "trainer": epoch}
    one = finished(step(tmp_path / "one", stage, source, 1, **given), tmp_path / "one", stage)
    sharded = {"deepspeed": deepspeed(zero)} if zero else {}
    two = finished(
        step(tmp_path / "two", stage, source, 2, **given, **sharded), tmp_path / "two", stage
    )
    assert losses(two) == pytest.approx(losses(one), abs=2e-5)
    counted = [store.read_json(path / "manifest.json")["train"]["rows"] for path in (one, two)]
    assert counted == [n_rows, n_rows]


@pytest.mark.long
def test_two_ranks_diverge_together(alone, tmp_path):
    sources, _ = alone
    wild = {"learning_rate": 1e30, "max_grad_norm": 0.0, "warmup_steps": 0}
    done = step(
        tmp_path, "preference", sources["preference"], 2, deepspeed=deepspeed("zero3"), trainer=wild
    )
    assert done.returncode != 0 and "training diverged" in done.stderr
    assert not (tmp_path / "preference-test").exists()


@pytest.mark.long
def test_two_ranks_stop_together_and_go_on(alone, tmp_path):
    sources, _ = alone
    given = {"deepspeed": deepspeed("zero2"), "peft": LORA}
    one = finished(
        step(tmp_path / "one", "sft", sources["sft"], 1, peft=LORA), tmp_path / "one", "sft"
    )
    stopped = step(tmp_path, "sft", sources["sft"], 2, stop=True, **given)
    assert stopped.returncode != 0 and stopped.stderr.count("stopped on request") == 2
    folder = tmp_path / "sft-test.partial" / "checkpoints" / "trainer"
    assert [p.name for p in folder.glob("checkpoint-*/complete.json")] == ["complete.json"]
    path = finished(step(tmp_path, "sft", sources["sft"], 2, **given), tmp_path, "sft")
    assert store.read_json(path / "manifest.json")["train"]["resumed_from"] == "checkpoint-1"
    assert losses(path) == pytest.approx(losses(one), abs=2e-5)


@pytest.mark.long
def test_a_checkpoint_of_another_number_of_devices_is_refused(alone, tmp_path):
    sources, _ = alone
    step(tmp_path, "sft", sources["sft"], 1, stop=True, deepspeed=deepspeed("zero2"))
    folder = tmp_path / "sft-test.partial" / "checkpoints" / "trainer"
    complete = folder / "checkpoint-1" / "complete.json"
    store.write_json(complete, {**store.read_json(complete), "ranks": 2})
    done = step(tmp_path, "sft", sources["sft"], 1, deepspeed=deepspeed("zero2"))
    assert done.returncode == 2 and "saved it from 2 devices, and now there are 1" in done.stderr


BUILD = """
from mlalign.models.training import extensions
extensions.build_alone()
from torch.utils.cpp_extension import load_inline
assert load_inline("three", cpp_sources="int three() { return 3; }", functions=["three"]).three() == 3
"""


@pytest.mark.long
def test_what_a_killed_build_has_left_keeps_no_training_waiting(tmp_path):
    """torch's lock file, in the shared place and in ours, and the claim of a builder that was
    killed.
    """
    env = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "XDG_CACHE_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }

    def build():
        done = subprocess.run(
            [sys.executable, "-c", BUILD],
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / "mlalign" / "torch_extensions").glob("mlalign-*/three")
        return folder

    folder = build()
    assert not (tmp_path / ".cache" / "torch_extensions").exists()
    for library in folder.glob("*.so"):
        library.unlink()
    (folder / "lock").touch()
    shared = tmp_path / ".cache" / "torch_extensions" / "py311_cpu" / folder.name
    shared.mkdir(parents=True)
    (shared / "lock").touch()
    code = (
        "import os, sys; from pathlib import Path; from mlalign.core import claims\nwith"
        " claims.claim(Path(sys.argv[1]), 'build'): os._exit(9)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code, folder], env=env, check=False, timeout=120
        ).returncode
        == 9
    )
    assert (folder / "claims" / "build").is_file()
    assert list(build().glob("*.so"))


def test_without_a_gpu_nothing_is_compiled(monkeypatch):
    import deepspeed

    from mlalign.models.training import extensions

    monkeypatch.setitem(deepspeed.ops.__compatible_ops__, "deepspeed_shm_comm", True)
    extensions.leave_reducing_to_gloo()
    assert not deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] or torch.cuda.is_available()
