"""Attention over packed sequences that share prompts, plugged into transformers through its public interface.

In a packed forward the function gets a `PackedAttention` as keyword argument and computes exact causal attention of
every sequence over its own keys, within the layer's sliding window if it has one. Without one (generation, evaluation)
it is transformers' `sdpa`, masks included, so one model object serves training and sampling. A switch around the
forward would not do: gradient checkpointing runs the attention again in the backward pass.

It is registered once for each value of `model.attention`, so that the model's configuration says which one it has.

Shapes: T packed tokens, K gathered keys, H query heads, G key/value heads, E head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ap2o_fast.errors import UsageError
from ap2o_fast.training.attention.backends import choose
from ap2o_fast.training.attention.layout import PackedAttention

# transformers takes any name with "flash" in it for an implementation of its own.
_NAMES = {
    wanted: f"ap2o_shared_prefix_{wanted.replace('flash', 'fa')}"
    for wanted in ("auto", "exact", "torch", "flash2", "flash3", "flash4")
}


def use_attention(model: PreTrainedModel, wanted: str) -> bool:
    """Switch a model to packed attention by `wanted`, a value of `model.attention`.

    Returns: whether the model could be switched.
    Errors: as `choose`, for the model's device and precision.
    """
    choose(wanted, model.device, model.dtype)
    if model.config._attn_implementation != _NAMES[wanted]:
        model.set_attn_implementation(_NAMES[wanted])
    return bool(model.config._attn_implementation == _NAMES[wanted])


def wanted_attention(model: PreTrainedModel) -> str | None:
    """The value of `model.attention` that a model was switched to; None where it was not."""
    names = {name: wanted for wanted, name in _NAMES.items()}
    return names.get(model.config._attn_implementation)


def attention_in_use(model: PreTrainedModel) -> str:
    """What computes a prepared model's packed attention on its device: `exact`, `torch`, `flash2`, ..."""
    wanted = wanted_attention(model)
    assert wanted is not None, "prepare_model was not called"
    return choose(wanted, model.device, model.dtype)


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
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a decoder layer, in transformers' calling convention.

    Args:
        query: (1, H, T, E) in a packed forward, (B, H, L, E) otherwise; key, value: the same with G heads.
        packed: the layout of a packed forward, None for ordinary attention.
        sliding_window: positions that a token sees, itself included; None for all.

    Returns: (1, T, H, E), and None for the weights.
    Errors: `UsageError` for dropout or capped scores in a packed forward.
    """
    if packed is None:
        if query.shape[2] == 1 and query.shape[1] != key.shape[1] and dropout == 0:
            return _decode(query, key, value, attention_mask, scaling), None
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if dropout or softcap:
        raise UsageError(
            f"packed attention got dropout {dropout} and a cap of {softcap} on its scores",
            why="reference log-probabilities are computed once, without dropout; no backend of ours caps scores",
            do="set the model's dropout to 0, or take a model without a cap",
        )
    queries = query[0].transpose(0, 1)
    keys, values = packed.gather(key[0].transpose(0, 1), value[0].transpose(0, 1))
    if packed.attend is None:
        return _each_sequence(packed, queries, keys, values, scaling, sliding_window)[None], None
    offsets = packed.cu_q, packed.cu_k
    return packed.attend(queries, keys, values, offsets, packed.longest, scaling, sliding_window)[None], None


@torch.compiler.disable
def _each_sequence(
    packed: PackedAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """(T, H, E) by one call a sequence, exact in every precision. Compiled, it would be another program each batch."""
    queries = query.transpose(0, 1)[None].split(packed.query_lengths, dim=2)
    keys = key.transpose(0, 1)[None].split(packed.key_lengths, dim=2)
    values = value.transpose(0, 1)[None].split(packed.key_lengths, dim=2)
    outputs = []
    for q, k, v in zip(queries, keys, values, strict=True):
        length, visible = q.shape[2], k.shape[2]
        limit = window if window is not None and window < visible else None
        # The CPU kernel's is_causal aligns at the start: right only where queries and keys are the same tokens.
        plain = length == visible and limit is None
        mask = None if plain else packed.mask(limit, q)[visible - length : visible, :visible]
        outputs.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=plain, scale=scaling, enable_gqa=k.shape[1] != q.shape[1]
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


for _name in _NAMES.values():
    AttentionInterface.register(_name, shared_prefix_attention)
    AttentionMaskInterface.register(_name, sdpa_mask)
