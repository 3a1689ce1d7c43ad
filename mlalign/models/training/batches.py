"""Which rows each device takes: every optimizer step has the same rows on any number of devices.

If the last batch of an epoch does not divide over the devices, trainers fill it with rows of the
beginning, and weigh a small batch like a full one. Here `Steps` shares out the rows that are left,
and `WholeSteps` weighs each batch by its rows:

    10 rows, 4 a step, on 2 devices: rows 0-3, then 4-7, then 8 on one device and 9 on the other
     9 rows, 4 a step, on 2 devices: in the last step row 8 on one device; the other repeats it with
     weight 0
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import seed_worker

LABELS = {"labels", "shift_labels"}
IGNORED = -100  # the label of a token that has no loss


def shares(n_rows: int, device_batch_size: int, n_devices: int) -> list[int]:
    """How many of an epoch's last rows go into each batch; device `i % n_devices` takes batch i.

    The number of batches is a multiple of `n_devices`, their sizes differ by at most 1, and a size
    can be 0.

        shares(5, 2, 2) == [2, 1, 1, 1]
    """
    n_per_device = math.ceil(n_rows / (device_batch_size * n_devices))
    n_batches = n_per_device * n_devices
    size, n_larger = divmod(n_rows, n_batches)
    return [size + 1] * n_larger + [size] * (n_batches - n_larger)


class Steps(BatchSampler):
    """The batches of an epoch, over all devices.

    Full steps come in batches of `device_batch_size`, then the rows that are left in equal shares.
    An empty share holds one row of the same step, which `WholeSteps` gives no weight.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        device_batch_size: int,
        n_devices: int,
        drop_last: bool,
    ):
        self.sampler = sampler  # accelerate replaces it by one whose seed follows from the epoch
        self.step_size = batch_size
        self.device_batch_size = device_batch_size
        self.n_devices = n_devices
        self.drop_last = drop_last
        # Tells accelerate that sizes differ, so that it takes batches as they are.
        self.batch_size: Any = None

    @property
    def n_rows(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # its data set has a length

    @property
    def rest(self) -> list[int]:
        """The shares of the last step of an epoch; empty if all steps are full."""
        n_left = self.n_rows % self.step_size
        if n_left == 0 or self.drop_last:
            return []
        return shares(n_left, self.device_batch_size, self.n_devices)

    @property
    def n_steps(self) -> int:
        """Optimizer steps of an epoch."""
        return self.n_rows // self.step_size + bool(self.rest)

    def rows_of(self, step: int) -> int:
        """How many rows a step of the epoch trains on; steps count from 0."""
        if self.rest and step == self.n_steps - 1:
            return sum(self.rest)
        return self.step_size

    def __len__(self) -> int:
        n_full_steps = self.n_rows // self.step_size
        return n_full_steps * len(self._full_sizes) + len(self.rest)

    def __iter__(self) -> Iterator[list[int]]:
        step: list[int] = []
        for row in self.sampler:
            step.append(row)
            if len(step) == self.step_size:
                yield from self._cut(step, self._full_sizes)
                step = []
        if step and not self.drop_last:
            yield from self._cut(step, self.rest)

    @property
    def _full_sizes(self) -> list[int]:
        """The sizes of a full step's batches."""
        return [self.device_batch_size] * (self.step_size // self.device_batch_size)

    @staticmethod
    def _cut(rows: list[int], sizes: list[int]) -> Iterator[list[int]]:
        begin = 0
        for size in sizes:
            yield rows[begin : begin + size] or rows[:1]
            begin += size


class WholeSteps:
    """Added to a trainer: batches of `Steps`, weighed by their rows.

    It also keeps the last losses, gradient norm and learning rate for `divergence`.
    """

    steps: Steps
    # Rows in each of this device's batches of the current step; None: all batches are equal.
    sizes: list[int] | None = None
    step_rows = 0  # rows of the current step on all devices
    losses: list[torch.Tensor]  # of this device's batches in the current step
    grad_norm: float | torch.Tensor | None = None
    rate: float = 0.0  # learning rate of the current step

    def get_train_dataloader(self: Any) -> DataLoader:
        import datasets

        args = self.args
        data = self.train_dataset
        collate: Callable = self.data_collator
        if isinstance(data, datasets.Dataset):
            data = self._remove_unused_columns(data, description="Training")
        sampler = self._get_train_sampler(data)
        batch_size = (
            args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        )
        if isinstance(sampler, LengthGroupedSampler):
            sampler.batch_size = batch_size  # transformers takes one device's share
        self.steps = Steps(
            sampler,
            batch_size,
            args.per_device_train_batch_size,
            args.world_size,
            args.dataloader_drop_last,
        )
        loader = DataLoader(
            data,
            batch_sampler=self.steps,
            collate_fn=collate,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(
                seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index
            ),
        )
        return self.accelerator.prepare(loader)

    def _get_num_items_in_batch(self: Any, batch_samples: list, device: torch.device) -> Any:
        """transformers calls this once for each step, with this device's batches of it."""
        steps = self.steps
        step = self.state.global_step % steps.n_steps
        self.losses = []
        self.step_rows = steps.rows_of(step)
        self.sizes = None
        if steps.rest and step == steps.n_steps - 1:
            self.sizes = steps.rest[self.args.process_index :: self.args.world_size]
            self._mask_repeated_rows(batch_samples)
        return super()._get_num_items_in_batch(batch_samples, device)  # type: ignore[misc]

    def _mask_repeated_rows(self: Any, batches: list) -> None:
        """Give no loss to the tokens of the row that stands for an empty share."""
        for size, batch in zip(self.sizes, batches, strict=False):
            if size > 0:
                continue
            for key in LABELS & set(batch):
                batch[key] = torch.full_like(batch[key], IGNORED)

    def compute_loss(
        self: Any,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        compute_loss = super().compute_loss  # type: ignore[misc]
        if self.sizes is None:
            return compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with uneven(self.accelerator):
            result = compute_loss(model, inputs, return_outputs, num_items_in_batch)
        weight = self._weight(num_items_in_batch)
        if not return_outputs:
            return result * weight
        loss, outputs = result
        return loss * weight, outputs

    def _weight(self: Any, num_items_in_batch: Any) -> float:
        """The weight that makes a mean over batches and devices a mean over rows.

        A loss over the tokens of the whole step needs none.
        """
        if num_items_in_batch is not None:
            return 1.0
        n_batches = len(self.sizes) * self.args.world_size
        return self.sizes[len(self.losses)] * n_batches / self.step_rows

    def training_step(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.losses.append(loss)
        return loss

    def _get_grad_norm(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.grad_norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[misc]
        self.rate = self._get_learning_rate()
        return self.grad_norm


class uneven:
    """Within it the accelerator can gather tensors whose first dimension differs between devices.

    Trainers gather the scores of rows.
    """

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator

    def __enter__(self) -> None:
        if self.accelerator.num_processes > 1:
            self.accelerator.gather = self._gather

    def __exit__(self, *_: object) -> None:
        vars(self.accelerator).pop("gather", None)

    def _gather(self, tensor: Any) -> Any:
        gather = type(self.accelerator).gather
        if not isinstance(tensor, torch.Tensor) or tensor.ndim == 0:
            return gather(self.accelerator, tensor)
        length = torch.tensor([len(tensor)], device=tensor.device)
        lengths = gather(self.accelerator, length).tolist()
        longest = max(lengths)
        padding = tensor.new_zeros(longest - len(tensor), *tensor.shape[1:])
        padded = gather(self.accelerator, torch.cat([tensor, padding]))
        parts = []
        for part, n_rows in zip(padded.split(longest), lengths, strict=True):
            parts.append(part[:n_rows])
        return torch.cat(parts)
