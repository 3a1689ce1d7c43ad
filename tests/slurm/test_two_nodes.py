"""A training step over two nodes with ZeRO-2: srun, torchrun with a c10d rendezvous, DeepSpeed; the
losses of one process.
"""

import json

import pytest
from slurm_cases import Run, until

pytestmark = pytest.mark.slow
TRAIN = (
    "recipe=chain",
    "only=[rows,base]",
    "steps.base.config.batch_size=8",
    "steps.base.config.device_batch_size=4",
    "steps.base.config.trainer.max_steps=4",
)


def losses(run: Run) -> list[float]:
    path = next((run.root / "store").glob("sft-*/log_history.json"))
    return [entry["loss"] for entry in json.loads(path.read_text())]


@pytest.mark.long
def test_two_nodes_with_zero2_give_the_losses_of_one_process(slurm, tmp_path):
    one, two = Run(tmp_path / "one", slurm.env), Run(tmp_path / "two", slurm.env)
    one.here(*TRAIN)
    done = two.call(
        "run", *TRAIN, "launcher=slurm", "deepspeed=zero2", "steps.base.resources.nodes=2"
    )
    assert done.returncode == 0, done.stderr
    until(lambda: not slurm.queue(), "the end", 600)  # DeepSpeed compiles a kernel at first use
    assert (two.root / "runs/r/steps/base/manifest.json").is_file(), two.log("base")[-3000:]
    manifest = json.loads((two.root / "runs/r/steps/base/manifest.json").read_text())
    assert manifest["ranks"] == 2 and manifest["job"] == two.job("base")
    assert slurm.job(two.job("base"))["NumNodes"] == "2"
    assert losses(two) == pytest.approx(losses(one), abs=2e-5)
    assert (
        manifest["fingerprint"]
        == json.loads((one.root / "runs/r/steps/base/manifest.json").read_text())["fingerprint"]
    )
