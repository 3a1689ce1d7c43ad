"""Log-probabilities of the ends of token sequences by a causal language model; beginnings that several share are read once.

In float32 on an x86 CPU they do not depend on what stands beside a sequence: attention is computed in float64 (`attention`), linear
layers treat each token alone (`kernels`), and softmax and the sum over tokens are in float64. Elsewhere matrix products sum in an order
that follows from the shape of a batch.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mlalign.core.errors import UserError
from reward_models.networks import kernels
from reward_models.networks.loading import length_dependent_rope
from reward_models.networks.network import Network
from reward_models.networks.prefix import Ids

HEAD_ELEMENTS = 2**28  # logits in memory at once: 1 GiB in float32
CHUNK = 256  # positions whose softmax is computed at once


class Logps:
    """sum_t log p(ids[t] | ids[:t]) over t >= begin, for token sequences and where in each the wanted tokens begin."""

    def __init__(self, model: Any, batch_tokens: int, reuse: bool):
        self._model, self._vocabulary = model, model.get_input_embeddings().weight.shape[0]
        kernels.use_onednn(model)
        rope = length_dependent_rope(model.config.get_text_config())
        most, exactly = max(HEAD_ELEMENTS // self._vocabulary, 1), model.dtype == torch.float32
        self.network = Network(model, batch_tokens, reuse, rope and rope[1], self._read, most, exactly)

    def __call__(self, ids: Sequence[Ids], begins: Sequence[int]) -> list[float]:
        """Raises: UserError for a token that the model does not know."""
        largest = max(map(max, ids), default=0)
        if largest >= self._vocabulary:
            name = self._model.config.name_or_path
            raise UserError(f"{name}: has embeddings for {self._vocabulary} tokens, and the tokenizer gives number {largest}")
        own = list(zip(ids, begins, strict=True))
        distinct = sorted(set(own))
        found = self.network([row for row, _ in distinct], [begin for _, begin in distinct])
        of = dict(zip(distinct, (value for (value,) in found), strict=True))
        return [of[row] for row in own]

    def _read(self, run: Callable[[], Any], rows: Sequence[Ids], begins: Sequence[int]) -> torch.Tensor:
        """(rows, 1). Only the positions before the wanted tokens go through the language-model head."""
        before = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool)
        for i, (row, begin) in enumerate(zip(rows, begins, strict=True)):
            before[i, begin - 1 : len(row) - 1] = True
        with _head_reads(self._model, before.to(self._model.device)):
            logits = run().logits[0]
        targets = torch.tensor([t for row, begin in zip(rows, begins, strict=True) for t in row[begin:]], device=logits.device)
        values = torch.cat([picked(*chunk) for chunk in zip(logits.split(CHUNK), targets.split(CHUNK), strict=True)])
        return torch.stack([v.sum(0, keepdim=True) for v in values.split([len(r) - b for r, b in zip(rows, begins, strict=True)])])


def picked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-probability of each target, in float64."""
    logits = logits.double()
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)


@contextlib.contextmanager
def _head_reads(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Within it the head sees the hidden states at `positions` (rows, width) alone, as one row.

    The model's own forward runs around it, so whatever it does to logits (scaling, soft caps) is done.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda module, inputs: (inputs[0][positions][None],))
    try:
        yield
    finally:
        hook.remove()
