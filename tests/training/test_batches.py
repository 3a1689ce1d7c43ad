"""The rows of each step: the same on any number of devices, each weighed once, the last step of an
epoch included.
"""

from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import SequentialSampler
from training_cases import losses, train, write

from mlalign.core.errors import UserError
from mlalign.models.training.batches import Steps, shares, uneven

EPOCH = {"learning_rate": 1e-3, "max_steps": -1, "num_train_epochs": 1}


@pytest.mark.parametrize(
    ("left", "device_batch_size", "n_devices", "expected"),
    [
        (5, 2, 2, [2, 1, 1, 1]), (3, 8, 1, [3]), (3, 8, 2, [2, 1]), (1, 1, 4, [1, 0, 0, 0]),
        (7, 2, 1, [2, 2, 2, 1]), (16, 16, 2, [8, 8]),
    ],
)  # fmt: skip
def test_what_is_left_is_shared_out_evenly(left, device_batch_size, n_devices, expected):
    assert shares(left, device_batch_size, n_devices) == expected


@pytest.mark.parametrize(
    ("n_rows", "device", "n_devices"),
    [(10, 2, 2), (9, 1, 4), (12, 2, 2), (3, 4, 1), (11, 1, 2), (1, 2, 2)],
)
def test_devices_together_take_every_row_once(n_rows, device, n_devices):
    steps = Steps(SequentialSampler(range(n_rows)), 4, device, n_devices, drop_last=False)
    of_devices = [list(BatchSamplerShard(steps, n_devices, i)) for i in range(n_devices)]
    assert {len(batches) for batches in of_devices} == {len(steps) // n_devices}

    sizes = [device] * (len(steps) - len(steps.rest)) + steps.rest
    in_order = [of_devices[i % n_devices][i // n_devices] for i in range(len(steps))]
    assert [
        row for batch, size in zip(in_order, sizes, strict=True) for row in batch[:size]
    ] == list(range(n_rows))
    assert all(batch for batch in in_order)  # a device without a row of its own repeats one
    assert sum(steps.rows_of(i) for i in range(steps.n_steps)) == n_rows


def test_dropping_the_last_step_drops_it_on_every_device():
    steps = Steps(SequentialSampler(range(10)), 4, 2, 2, drop_last=True)
    assert len(list(steps)) == len(steps) == 4 and steps.n_steps == 2


@pytest.mark.parametrize("stage", ["sft", "reward", "preference"])
@pytest.mark.slow
def test_how_many_rows_a_device_takes_changes_no_loss(stage, tmp_path):
    kind = "demonstration" if stage == "sft" else "preference"
    source = write(tmp_path / "rows", kind, n_train=7)  # 14 rows: the last step has 6
    whole = train(stage, source, tmp_path / "whole", trainer=EPOCH)
    parts = train(stage, source, tmp_path / "parts", trainer=EPOCH, device_batch_size=4)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)
    assert whole.notes["train"]["steps"] == 2 and whole.notes["train"]["rows"] == 14


@pytest.mark.slow
def test_rows_are_counted_over_epochs(tmp_path):
    source = write(tmp_path / "rows", "demonstration", n_train=5)  # 10 rows: 8 and 2
    out = train("sft", source, tmp_path, trainer={**EPOCH, "max_steps": 3})
    assert out.notes["train"]["rows"] == 8 + 2 + 8


@pytest.mark.slow
def test_fewer_rows_than_a_step_train_one_step_unless_they_are_dropped(tmp_path):
    source = write(tmp_path / "rows", "demonstration", n_train=2)
    out = train("sft", source, tmp_path / "few", trainer=EPOCH)
    assert out.notes["train"]["rows"] == 4
    with pytest.raises(
        UserError, match=r"trainer.dataloader_drop_last: .* the 4 rows are fewer than batch_size=8"
    ):
        train("sft", source, tmp_path / "none", trainer={**EPOCH, "dataloader_drop_last": True})


class Gathering:
    """An accelerator of two processes, of which the other holds three rows of ones."""

    num_processes = 2

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        other = (
            torch.tensor([3]) if tensor.dtype == torch.int64 else torch.ones(3, *tensor.shape[1:])
        )
        return torch.cat([tensor, other])


def test_scores_of_unequal_batches_are_gathered_without_padding():
    accelerator = Gathering()
    with uneven(accelerator):
        found = accelerator.gather(torch.zeros(2, 1))
    assert found.flatten().tolist() == [0, 0, 1, 1, 1] and "gather" not in vars(accelerator)
    with uneven(SimpleNamespace(num_processes=1)):
        pass
