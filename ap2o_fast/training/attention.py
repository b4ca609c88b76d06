"""Attention over packed sequences that share prompts, plugged into transformers through its public interface.

The function is registered once under `NAME`. In a packed forward it gets a `PackedAttention` as keyword argument and
computes exact causal attention of every sequence over its own keys. Without one (generation, evaluation) it is
transformers' `sdpa`, masks included, so one model object serves training and sampling. A switch around the forward
would not do: gradient checkpointing runs the attention again in the backward pass.

On a GPU in half precision that is one call for all sequences, elsewhere one a sequence.

Shapes: T packed tokens, S sequences, K gathered keys, H query heads, G key/value heads, E head size.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ap2o_fast.errors import UsageError
from ap2o_fast.training.batch import PackedBatch

NAME = "ap2o_shared_prefix"
# torch 2.11 and 2.12 take fewer key heads than query heads as they come; later ones want to be told.
_attend: Any = varlen_attn
if "enable_gqa" in inspect.signature(varlen_attn).parameters:
    _attend = functools.partial(varlen_attn, enable_gqa=True)


@dataclass(frozen=True, kw_only=True)
class PackedAttention:
    """Who sees whom in one packed forward.

    Attributes:
        query_lengths, key_lengths: tokens and visible keys of each sequence (S,), on the host.
        kv_index: (K,) packed positions of all sequences' keys, end to end.
        by_token, token_ends: (K,) the keys' numbers in the order of their packed positions, and (T+1,) where each
            position's begin among them: what leads gradients of keys back to their tokens.
        offsets: (S+1,) int32 each, where the sequences' queries and keys begin, for one call of torch's variable-length
            attention; None where it cannot be used (on the CPU, in single precision).
        causal: (M, M) additive causal mask, M the most keys of a sequence, in the model's dtype, for a call a sequence.
            The mask of L queries at the end of N keys is its block [N-L:N, :N]. None where `offsets` are not.
    """

    query_lengths: list[int]
    key_lengths: list[int]
    kv_index: torch.Tensor
    by_token: torch.Tensor
    token_ends: torch.Tensor
    offsets: tuple[torch.Tensor, torch.Tensor] | None
    causal: torch.Tensor | None

    @classmethod
    def of(cls, batch: PackedBatch, dtype: torch.dtype) -> PackedAttention:
        """Read it from the batch, on the device of its tokens."""
        device = batch.input_ids.device
        queries, keys = batch.cu_q.diff().tolist(), batch.cu_k.diff().tolist()
        uses = torch.bincount(batch.kv_index, minlength=len(batch.input_ids))
        offsets = causal = None
        if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
            offsets = batch.cu_q.to(device, non_blocking=True), batch.cu_k.to(device, non_blocking=True)
        else:
            most = max(keys, default=0)
            causal = torch.full((most, most), float("-inf"), dtype=dtype, device=device).triu_(1)
        return cls(
            query_lengths=queries,
            key_lengths=keys,
            kv_index=batch.kv_index.to(device, non_blocking=True),
            by_token=batch.kv_index.argsort(stable=True).to(device, non_blocking=True),
            token_ends=F.pad(uses.cumsum(0), (1, 0)).to(device, non_blocking=True),
            offsets=offsets,
            causal=causal,
        )

    def gather(self, tokens: torch.Tensor) -> torch.Tensor:
        """(K, G, E) keys or values of all sequences from those of the packed tokens, (T, G, E)."""
        gathered: torch.Tensor = _Gather.apply(tokens, self.kv_index, self.by_token, self.token_ends)
        return gathered


class _Gather(torch.autograd.Function):
    """`index_select` whose gradients are added up in float32 and in one order: two runs are equal, on a GPU too."""

    @staticmethod
    def forward(
        ctx: Any, tokens: torch.Tensor, index: torch.Tensor, by_token: torch.Tensor, token_ends: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(by_token, token_ends)
        return tokens.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        by_token, token_ends = ctx.saved_tensors
        wide = gradient.index_select(0, by_token).to(torch.promote_types(gradient.dtype, torch.float32))
        sums = torch.segment_reduce(wide.flatten(1), "sum", offsets=token_ends, unsafe=True, initial=0)
        return sums.view(-1, *gradient.shape[1:]).to(gradient.dtype), None, None, None


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
    by_token = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    attend = _each_sequence if packed.offsets is None else _all_at_once
    return attend(packed, by_token[0], packed.gather(by_token[1]), packed.gather(by_token[2]), scaling)[None], None


def _all_at_once(
    packed: PackedAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """(T, H, E) in one call of FlashAttention, which aligns a causal mask at the end of queries and keys."""
    assert packed.offsets is not None
    longest = max(packed.query_lengths), max(packed.key_lengths)
    found: torch.Tensor = _attend(query, key, value, *packed.offsets, *longest, scale=scaling, window_size=(-1, 0))
    return found


def _each_sequence(
    packed: PackedAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """(T, H, E) by one call a sequence, exact in every precision."""
    assert packed.causal is not None
    queries = query.transpose(0, 1)[None].split(packed.query_lengths, dim=2)
    keys = key.transpose(0, 1)[None].split(packed.key_lengths, dim=2)
    values = value.transpose(0, 1)[None].split(packed.key_lengths, dim=2)
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
    return torch.cat(outputs, dim=2)[0].transpose(0, 1).contiguous()


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
