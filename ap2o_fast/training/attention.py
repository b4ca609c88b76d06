"""Attention over packed sequences that share prompts, plugged into transformers through its public interface.

The function is registered once under `NAME`. In a packed forward it gets a `PackedAttention` as keyword argument and
computes exact causal attention of every sequence over its own keys. Without one (generation, evaluation) it is
transformers' `sdpa`, masks included, so one model object serves training and sampling. A switch around the forward
would not do: gradient checkpointing runs the attention again in the backward pass.

Shapes: T packed tokens, S sequences, K gathered keys, H query heads, G key/value heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ap2o_fast.errors import UsageError
from ap2o_fast.training.batch import PackedBatch

NAME = "ap2o_shared_prefix"


@dataclass(frozen=True, kw_only=True)
class PackedAttention:
    """Who sees whom in one packed forward.

    Attributes:
        query_lengths, key_lengths: tokens and visible keys of each sequence (S,), on the host.
        kv_index: (K,) packed positions of all sequences' keys, end to end.
        causal: (M, M) additive causal mask, M the most keys of a sequence, in the model's dtype. The mask of L queries
            at the end of N keys is its block [N-L:N, :N].
    """

    query_lengths: list[int]
    key_lengths: list[int]
    kv_index: torch.Tensor
    causal: torch.Tensor

    @classmethod
    def of(cls, batch: PackedBatch, dtype: torch.dtype) -> PackedAttention:
        """Read it from the batch; one copy of the offsets to the host."""
        queries, keys = torch.stack([batch.cu_q, batch.cu_k]).cpu().diff().tolist()
        most = max(keys, default=0)
        causal = torch.full((most, most), float("-inf"), dtype=dtype, device=batch.kv_index.device).triu_(1)
        return cls(query_lengths=queries, key_lengths=keys, kv_index=batch.kv_index, causal=causal)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: PackedAttention | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a decoder layer, in transformers' calling convention.

    Args:
        query: (1, H, T, E) in a packed forward, (B, H, L, E) otherwise; key, value: the same with G heads.
        packed: the layout of a packed forward, None for ordinary attention.

    Returns: (1, T, H, E), and None for the weights.
    Errors: `UsageError` for dropout or a sliding window in a packed forward.
    """
    if packed is None:
        if query.shape[2] == 1 and query.shape[1] != key.shape[1] and dropout == 0:
            return _decode(query, key, value, attention_mask, scaling), None
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if dropout or sliding_window:
        raise UsageError(
            f"packed attention got dropout {dropout} and a sliding window of {sliding_window}",
            why="reference log-probabilities are computed once, without dropout, and over the whole prompt",
            do="set the model's dropout to 0, or take a model with full attention",
        )
    queries = query.split(packed.query_lengths, dim=2)
    keys = key.index_select(2, packed.kv_index).split(packed.key_lengths, dim=2)
    values = value.index_select(2, packed.kv_index).split(packed.key_lengths, dim=2)
    outputs = []
    for q, k, v in zip(queries, keys, values, strict=True):
        length, visible = q.shape[2], k.shape[2]
        # The CPU kernel's is_causal aligns at the start: right only where queries and keys are the same tokens.
        mask = None if length == visible else packed.causal[visible - length : visible, :visible]
        outputs.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=k.shape[1] != q.shape[1]
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _decode(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """One new token a row: the heads that share keys act as queries of one sequence, so no key is copied.

    transformers repeats the whole cache for every group at every step; at a batch of 64 that was a third of the time.
    """
    batch, heads, _, size = query.shape
    grouped = query.view(batch, key.shape[1], heads // key.shape[1], size)
    return F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling).view(
        batch, 1, heads, size
    )


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
