"""Attention of rows that continue beginnings which several of them share, and attention whose result does not depend on the batch.

transformers looks attention up by name and hands it queries, keys and values; `install` puts the functions of this module there for one
model. Rows that continue a beginning look at its keys and values where they lie: nothing is copied for each row, no padding of
shorter beginnings is computed.

Kernels sum in an order that follows from the shapes of a batch, so that float32 differs in the last bits between batches, and a network
makes more of that: 1e-6 for a token's log-probability is usual, 1e-5 happens. In float64 (`exactly`) those bits are far behind the ones
that are kept, and everything else that a network computes on an x86 CPU is a function of each token alone (`kernels`).
"""

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAMES = {False: "rm_score", True: "rm_score_exact"}


@dataclasses.dataclass(frozen=True)
class Beginnings:
    """Keys and values of beginnings in one layer, (beginnings, heads, tokens, head size), and which rows continue which."""

    keys: torch.Tensor
    values: torch.Tensor
    lengths: Sequence[int]  # of each beginning, in tokens; what stands behind is padding
    owners: Sequence[int]  # of each row, the beginning that it continues


def install(model: Any, exactly: bool) -> bool:
    """Let a model attend by the functions of this module; False if it lets nobody choose, or is set to another attention than sdpa.

    `exactly`: in float64, whatever the model's own type.
    """
    if model.config._attn_implementation != "sdpa" or not model._supports_attention_backend:
        return False
    model.set_attn_implementation(NAMES[exactly])
    return True


def _attend(exactly: bool) -> Any:
    dtype = torch.float64 if exactly else torch.float32

    def attend(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any) -> tuple:
        beginnings = getattr(key, "beginnings", None)  # what `network.Shared` says of rows that continue
        if beginnings is not None:
            return _continued(query, key, value, beginnings, options.get("scaling"), dtype), None
        if not exactly:
            return sdpa_attention_forward(module, query, key, value, mask, **options)
        mask = mask.to(dtype) if mask is not None and mask.is_floating_point() else mask
        out, _ = sdpa_attention_forward(module, query.to(dtype), key.to(dtype), value.to(dtype), mask, **options)
        return out.to(query.dtype), None

    return attend


def _continued(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, beginnings: Beginnings, scale: float | None, dtype: torch.dtype
) -> torch.Tensor:
    """`query` (rows, heads, tokens, head size), `key` and `value` of the rows' own tokens; (rows, tokens, heads, head size) out.

    Every token sees the whole beginning of its row and the row's own tokens up to itself. Rows of one beginning stand together.
    """
    out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
    per_head = query.shape[1] // key.shape[1]
    query = query.to(dtype) * (query.shape[-1] ** -0.5 if scale is None else scale)
    key, value = key.to(dtype), value.to(dtype)
    later = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).triu(1)
    for owner, rows in groupby(range(len(beginnings.owners)), beginnings.owners.__getitem__):
        mine = list(rows)
        here, n = slice(mine[0], mine[-1] + 1), beginnings.lengths[owner]
        for head in range(key.shape[1]):
            heads = slice(head * per_head, (head + 1) * per_head)
            found = _of_one_head(
                query[here, heads], key[here, head], value[here, head],
                beginnings.keys[owner, head, :n].to(dtype), beginnings.values[owner, head, :n].to(dtype), later,
            )  # fmt: skip
            out[here, :, heads] = found.transpose(1, 2).to(out.dtype)
    return out


def _of_one_head(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, first_keys: torch.Tensor, first_values: torch.Tensor, later: torch.Tensor
) -> torch.Tensor:
    """Softmax over a beginning (tokens, head size) and each row's own `key`, `value` (rows, tokens, head size), for several query heads.

    The queries of all rows meet the beginning in one matrix product.
    """
    rows, heads, width, size = query.shape
    n = len(first_keys)
    to_first = query.reshape(-1, size) @ first_keys.T
    to_own = query.reshape(rows, heads * width, size) @ key.transpose(1, 2)
    to_own.view(rows, heads, width, width).masked_fill_(later, -torch.inf)
    weights = torch.cat([to_first, to_own.view(-1, width)], dim=-1).softmax(-1)
    out = weights[:, :n] @ first_values
    out += (weights[:, n:].reshape(rows, heads * width, width) @ value).view(out.shape)
    return out.view(rows, heads, width, -1)


for exactly, name in NAMES.items():
    AttentionInterface.register(name, _attend(exactly))
    AttentionMaskInterface.register(name, sdpa_mask)
