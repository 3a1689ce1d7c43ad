"""SFT, reward and DPO as two ranks under torchrun, with ZeRO-2 and ZeRO-3: the losses and the weights of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT
from training_cases import FAST, TINY, write

from mlalign import store

pytestmark = pytest.mark.slow
ROWS = {"sft": "demonstration", "reward": "preference", "preference": "preference"}
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def step(root: Path, stage: str, source: Path, n_ranks: int, **config) -> subprocess.CompletedProcess:
    """Run a step the way `mlalign run` does, in `root`."""
    partial = root / f"{stage}-test.partial"
    partial.mkdir(parents=True, exist_ok=True)
    inputs = {"model": {"path": str(TINY)}, "rows": {"path": str(source)}}
    told = {"stage": stage, "step": stage, "fingerprint": "test", "config": {**FAST, **config}, "inputs": inputs}
    (partial / "config.yaml").write_text(yaml.safe_dump(told))
    launcher = [] if n_ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_ranks)]
    command = [sys.executable, *launcher, "-m", "mlalign.step", str(partial / "config.yaml")]
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=300, check=False)


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
    return sources, {stage: finished(step(root, stage, sources[stage], 1), root, stage) for stage in ROWS}


@pytest.mark.parametrize("zero", ["zero2", "zero3"])
@pytest.mark.parametrize("stage", ROWS)
def test_two_ranks_give_the_losses_of_one_process(stage, zero, alone, tmp_path):
    from safetensors.torch import load_file

    sources, expected = alone
    path = finished(step(tmp_path, stage, sources[stage], 2, deepspeed=deepspeed(zero)), tmp_path, stage)
    assert losses(path) == pytest.approx(losses(expected[stage]), abs=2e-5)
    assert not (path / "checkpoints").exists()
    assert sorted(p.name for p in (path / "model").iterdir()) == sorted(p.name for p in (expected[stage] / "model").iterdir())
    ours, theirs = load_file(path / "model" / "model.safetensors"), load_file(expected[stage] / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 2e-4
    manifest = store.read_json(path / "manifest.json")
    assert manifest["ranks"] == 2 and manifest["train"]["trainable_parameters"] == sum(t.numel() for t in ours.values())
