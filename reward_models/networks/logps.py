"""Log-probabilities of the ends of token sequences by a causal language model.

Beginnings that several sequences share are read once. In float32 on an x86 CPU the results do not
depend on what else is in a batch: attention is computed in float64 (`attention`), linear layers
treat each token alone (`kernels`), and softmax and the sum over tokens are in float64. Elsewhere
matrix products sum in an order that depends on the shape of a batch.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
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
    """sum_t log p(ids[t] | ids[:t]) over t >= begin, for sequences and a `begin` in each."""

    def __init__(self, model: Any, batch_tokens: int, reuse: bool):
        self._model = model
        self._vocabulary = model.get_input_embeddings().weight.shape[0]
        kernels.use_onednn(model)

        rope = length_dependent_rope(model.config.get_text_config())
        most_read = max(HEAD_ELEMENTS // self._vocabulary, 1)
        exactly = model.dtype == torch.float32
        split_at = rope and rope[1]
        self.network = Network(model, batch_tokens, reuse, split_at, self._read, most_read, exactly)

    def __call__(self, ids: Sequence[Ids], begins: Sequence[int]) -> list[float]:
        """Raises: UserError for a token that the model does not know."""
        largest = max(map(max, ids), default=0)
        if largest >= self._vocabulary:
            raise UserError(
                f"{self._model.config.name_or_path}: has embeddings for {self._vocabulary} tokens,"
                f" and the tokenizer gives number {largest}"
            )

        pairs = list(zip(ids, begins, strict=True))
        distinct = sorted(set(pairs))
        rows = [row for row, _ in distinct]
        row_begins = [begin for _, begin in distinct]
        outputs = self.network(rows, row_begins)
        logps = {pair: logp for pair, [logp] in zip(distinct, outputs, strict=True)}
        return [logps[pair] for pair in pairs]

    def _read(
        self,
        run: Callable[[], Any],
        rows: Sequence[Ids],
        begins: Sequence[int],
    ) -> torch.Tensor:
        """Sums of log-probabilities (rows, 1).

        Only the positions before the tokens that count go through the head.
        """
        before = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool)
        ends = []
        for i, (row, begin) in enumerate(zip(rows, begins, strict=True)):
            before[i, begin - 1 : len(row) - 1] = True
            ends.append(row[begin:])
        with _head_reads(self._model, before.to(self._model.device)):
            logits = run().logits[0]

        targets = torch.tensor(list(chain.from_iterable(ends)), device=logits.device)
        chunks = zip(logits.split(CHUNK), targets.split(CHUNK), strict=True)
        logps = torch.cat([picked(*chunk) for chunk in chunks])
        logps_of_rows = logps.split(list(map(len, ends)))
        return torch.stack([row.sum(0, keepdim=True) for row in logps_of_rows])


def picked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-probability of each target, in float64: log p = logit - logsumexp(logits)."""
    logits = logits.double()
    target_logits = logits.gather(-1, targets[:, None])[:, 0]
    return target_logits - logits.logsumexp(-1)


@contextlib.contextmanager
def _head_reads(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Let the head see only the hidden states at `positions` (rows, width), as one row.

    The model's own forward runs around it, so whatever it does to logits (scaling, soft caps) is
    done.
    """

    def select(module: Any, inputs: tuple) -> tuple[torch.Tensor]:
        return (inputs[0][positions][None],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
