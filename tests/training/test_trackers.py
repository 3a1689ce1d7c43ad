"""`report_to` of TRL passes through, offline, under the names of the run and its step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PROJECT
from training_cases import train, write

from mlalign.core import stage

RUN = {"name": "my_run", "recipe": "iterative_dpo", "round": 2}


class InRun(stage.Output):
    """A step as a run has it."""

    def __init__(self, path, store, _):
        super().__init__(path, store, step="policy.r2", run=RUN)


@pytest.mark.slow
@pytest.mark.long
def test_tensorboard_and_trackio_show_the_run(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="needs the extra `trackers`: pip install 'mlalign[trackers]'"
    )
    pytest.importorskip(
        "trackio", reason="needs the extra `trackers`: pip install 'mlalign[trackers]'"
    )
    settings = {
        "HF_HUB_OFFLINE": "1",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}",
    }
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "TENSORBOARD_"))
    } | settings
    # A process of its own: trackio fixes its folder when it is first imported.
    subprocess.run([sys.executable, __file__, tmp_path], env=environment, check=True)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(tmp_path / "runs" / "my_run" / "tensorboard" / "policy.r2")
    ).Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert trackio_says(environment, "list", "runs")["runs"] == ["my_run/policy.r2"]
    values = trackio_says(
        environment, "get", "metric", "--run", "my_run/policy.r2", "--metric", "train/loss"
    )["values"]
    assert [v["value"] for v in values] == pytest.approx(
        [e.value for e in events.Scalars("train/loss")]
    )


def trackio_says(environment: dict[str, str], *command: str) -> dict:
    program = Path(sys.executable).with_name("trackio")
    done = subprocess.run(
        [program, *command, "--project", "my_run", "--json"],
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    train(
        "sft",
        write(root / "rows", "demonstration"),
        root / "store",
        kind=InRun,
        trainer={"report_to": ["tensorboard", "trackio"]},
    )
    assert os.environ["WANDB_RUN_GROUP"] == "my_run"
