"""Which rows each device takes: the same rows in every optimizer step, whatever the number of
devices.

Trainers fill the last batch of an epoch with rows of its beginning when it does not divide over the
devices, and they weigh a small batch like a full one. `Steps` shares out the rows that are left
instead, and `WholeSteps` weighs each batch by its rows:

    10 rows, 4 a step, on 2 devices: rows 0-3, then 4-7, then 8 on one device and 9 on the other
     9 rows, 4 a step, on 2 devices: in the last step row 8 on one device; the other repeats it with
     weight 0
"""

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
    """How many of the rows left at the end of an epoch go into each batch, in the order of batches;
    batch i is device `i % n_devices`'s.

    The number of batches is a multiple of `n_devices`, their sizes differ by at most 1, and a size
    can be 0.

        shares(5, 2, 2) == [2, 1, 1, 1]
    """
    n_batches = -(-n_rows // (device_batch_size * n_devices)) * n_devices
    least, larger = divmod(n_rows, n_batches)
    return [least + 1 if i < larger else least for i in range(n_batches)]


class Steps(BatchSampler):
    """The batches of an epoch, over all devices: full steps in batches of `device_batch_size`, then
    what is left in equal shares.

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
        self.step_size, self.device_batch_size, self.n_devices = (
            batch_size,
            device_batch_size,
            n_devices,
        )
        self.drop_last = drop_last
        self.batch_size: Any = (
            None  # tells accelerate that sizes differ: it then takes batches as they are
        )

    @property
    def n_rows(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # samplers of a data set with a length have one

    @property
    def rest(self) -> list[int]:
        """The shares of the last step of an epoch; empty where all steps are full."""
        left = self.n_rows % self.step_size
        return (
            shares(left, self.device_batch_size, self.n_devices)
            if left and not self.drop_last
            else []
        )

    @property
    def n_steps(self) -> int:
        """Optimizer steps of an epoch."""
        return self.n_rows // self.step_size + bool(self.rest)

    def rows_of(self, step: int) -> int:
        """How many rows a step of the epoch trains on, counted from 0."""
        return sum(self.rest) if self.rest and step == self.n_steps - 1 else self.step_size

    def __len__(self) -> int:
        return self.n_rows // self.step_size * (self.step_size // self.device_batch_size) + len(
            self.rest
        )

    def __iter__(self) -> Iterator[list[int]]:
        step: list[int] = []
        for row in self.sampler:
            step.append(row)
            if len(step) == self.step_size:
                yield from self._cut(
                    step, [self.device_batch_size] * (self.step_size // self.device_batch_size)
                )
                step = []
        if step and not self.drop_last:
            yield from self._cut(step, self.rest)

    @staticmethod
    def _cut(rows: list[int], sizes: list[int]) -> Iterator[list[int]]:
        begin = 0
        for size in sizes:
            yield rows[begin : begin + size] or rows[:1]
            begin += size


class WholeSteps:
    """What is added to a trainer: batches of `Steps`, weights of batches by their rows, and the
    last loss and gradient for `loop`."""

    steps: Steps
    sizes: list[int] | None = (
        None  # rows of this device's batches in the present step; None: all batches are equal
    )
    step_rows = 0  # rows of the present step on all devices
    losses: list[torch.Tensor]  # of this device's batches in the present step
    grad_norm: float | torch.Tensor | None = None
    rate: float = 0.0  # of the present step

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
        steps, self.losses = self.steps, []
        step = self.state.global_step % steps.n_steps
        last = bool(steps.rest) and step == steps.n_steps - 1
        self.step_rows = steps.rows_of(step)
        self.sizes = steps.rest[self.args.process_index :: self.args.world_size] if last else None
        for size, batch in zip(self.sizes or [], batch_samples, strict=False):
            for key in LABELS & set(batch if size == 0 else ()):
                batch[key] = torch.full_like(batch[key], IGNORED)
        return super()._get_num_items_in_batch(batch_samples, device)  # type: ignore[misc]

    def compute_loss(
        self: Any,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if self.sizes is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        with uneven(self.accelerator):
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        weight = self._weight(num_items_in_batch)
        return (found[0] * weight, found[1]) if return_outputs else found * weight

    def _weight(self: Any, num_items_in_batch: Any) -> float:
        """Makes the mean over batches and devices the mean over rows; a loss over the tokens of the
        whole step is one already."""
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
    """Within it the accelerator gathers tensors whose first dimension differs between devices:
    trainers gather scores of rows."""

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
        lengths = gather(
            self.accelerator, torch.tensor([len(tensor)], device=tensor.device)
        ).tolist()
        padding = tensor.new_zeros(max(lengths) - len(tensor), *tensor.shape[1:])
        padded = gather(self.accelerator, torch.cat([tensor, padding])).split(max(lengths))
        return torch.cat([part[:length] for part, length in zip(padded, lengths, strict=True)])
