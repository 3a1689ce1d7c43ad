"""Attention for rows that continue shared beginnings, and attention that ignores the batch.

transformers looks attention up by name and hands it queries, keys and values; `install` makes one
model use the functions of this module. Rows that continue a beginning read its keys and values
where they are: nothing is copied for each row, and no padding of shorter beginnings is computed.

Kernels sum in an order that depends on the shapes of a batch, so float32 differs in the last bits
between batches, and a network amplifies that: 1e-6 for a token's log-probability is usual, 1e-5
happens. In float64 (`exactly`) those bits are far below the ones that are kept, and everything else
that a network computes on an x86 CPU is a function of each token alone (`kernels`).
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
    """Keys and values of beginnings in one layer: (beginnings, heads, tokens, head size)."""

    keys: torch.Tensor
    values: torch.Tensor
    lengths: Sequence[int]  # of each beginning, in tokens; the rest is padding
    owners: Sequence[int]  # of each row, the beginning that it continues


def install(model: Any, exactly: bool) -> bool:
    """Make a model use the attention of this module; False if that is impossible.

    It is if the model's code has its own attention, or if another than sdpa was chosen.
    `exactly`: in float64, whatever the model's own type.
    """
    if model.config._attn_implementation != "sdpa" or not model._supports_attention_backend:
        return False
    model.set_attn_implementation(NAMES[exactly])
    return True


def _attend(exactly: bool) -> Any:
    dtype = torch.float64 if exactly else torch.float32

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        **options: Any,
    ) -> tuple:
        beginnings = getattr(key, "beginnings", None)  # set by `network.Shared`
        if beginnings is not None:
            scale = options.get("scaling")
            return _continued(query, key, value, beginnings, scale, dtype), None
        if not exactly:
            return sdpa_attention_forward(module, query, key, value, mask, **options)

        if mask is not None and mask.is_floating_point():
            mask = mask.to(dtype)
        query_, key_, value_ = (tensor.to(dtype) for tensor in (query, key, value))
        result, _ = sdpa_attention_forward(module, query_, key_, value_, mask, **options)
        return result.to(query.dtype), None

    return attend


def _continued(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    beginnings: Beginnings,
    scale: float | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Attention of rows that continue beginnings: (rows, tokens, heads, head size).

    `query` is (rows, heads, tokens, head size); `key` and `value` are those of the rows' own
    tokens. Every token sees the whole beginning of its row, and the row's own tokens up to itself.
    Rows of one beginning are next to each other.
    """
    n_rows, n_heads, width, size = query.shape
    result = query.new_empty(n_rows, width, n_heads, value.shape[-1])
    if scale is None:
        scale = size**-0.5
    query = query.to(dtype) * scale
    key = key.to(dtype)
    value = value.to(dtype)
    later = torch.ones(width, width, dtype=torch.bool, device=query.device).triu(1)

    n_key_heads = key.shape[1]
    per_key_head = n_heads // n_key_heads
    for owner, members in groupby(range(n_rows), beginnings.owners.__getitem__):
        first, *others = members
        rows = slice(first, first + 1 + len(others))
        n = beginnings.lengths[owner]
        for head in range(n_key_heads):
            heads = slice(head * per_key_head, (head + 1) * per_key_head)
            first_keys = beginnings.keys[owner, head, :n].to(dtype)
            first_values = beginnings.values[owner, head, :n].to(dtype)
            own = (query[rows, heads], key[rows, head], value[rows, head])
            attended = _of_one_head(*own, first_keys, first_values, later)
            result[rows, :, heads] = attended.transpose(1, 2).to(result.dtype)
    return result


def _of_one_head(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    first_keys: torch.Tensor,
    first_values: torch.Tensor,
    later: torch.Tensor,
) -> torch.Tensor:
    """Softmax over a beginning and each row's own tokens, for several query heads.

    `first_keys`, `first_values`: (tokens, head size) of the beginning. `key`, `value`: (rows,
    tokens, head size). The queries of all rows meet the beginning in one matrix product.
    """
    rows, heads, width, size = query.shape
    n = len(first_keys)
    to_first = query.reshape(-1, size) @ first_keys.T
    to_own = query.reshape(rows, heads * width, size) @ key.transpose(1, 2)
    to_own.view(rows, heads, width, width).masked_fill_(later, -torch.inf)

    weights = torch.cat([to_first, to_own.view(-1, width)], dim=-1).softmax(-1)
    result = weights[:, :n] @ first_values
    own_weights = weights[:, n:].reshape(rows, heads * width, width)
    result += (own_weights @ value).view(result.shape)
    return result.view(rows, heads, width, -1)


for exactly, name in NAMES.items():
    AttentionInterface.register(name, _attend(exactly))
    AttentionMaskInterface.register(name, sdpa_mask)
