"""Who sees whom in one packed forward: what the attention of every layer needs of a batch, worked out once a batch.

Shapes: T packed tokens, S sequences, K gathered keys, G key/value heads, E head size, M the most keys of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ap2o_fast.training.attention.backends import Attend, Backend, choose, in_one_call
from ap2o_fast.training.packing.batch import PackedBatch


@dataclass(frozen=True, kw_only=True)
class PackedAttention:
    """The layout of one packed forward, on the device of its tokens.

    Attributes:
        backend: what computes the attention; attend: the same as a function, None for one call a sequence.
        query_lengths, key_lengths: tokens and visible keys of each sequence (S,), on the host.
        longest: the largest of each, for one call for all sequences.
        cu_q, cu_k: (S+1,) int32, where the sequences' queries and keys begin.
        kv_index: (K,) packed positions of all sequences' keys, end to end.
        by_token, token_ends: (K,) the keys' numbers in the order of their packed positions, and (T+1,) where each
            position's begin among them: what leads gradients of keys back to their tokens.
    """

    backend: Backend
    attend: Attend | None
    query_lengths: list[int]
    key_lengths: list[int]
    longest: tuple[int, int]
    cu_q: torch.Tensor
    cu_k: torch.Tensor
    kv_index: torch.Tensor
    by_token: torch.Tensor
    token_ends: torch.Tensor
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, batch: PackedBatch, dtype: torch.dtype, wanted: str = "auto") -> PackedAttention:
        """Read it from the batch's layout, which is on the host: nothing waits for the device.

        Args:
            dtype: of the queries and keys to come.
            wanted: the setting `model.attention`.

        Errors: as `choose`.
        """
        device = batch.input_ids.device
        queries, keys = batch.cu_q.diff().tolist(), batch.cu_k.diff().tolist()
        index = batch.kv_index.numpy()
        # NumPy's stable sort merges runs, and the index is little else: an order of magnitude faster than torch's.
        by_token = torch.from_numpy(index.argsort(kind="stable"))
        ends = torch.from_numpy(np.bincount(index, minlength=len(batch.input_ids)).cumsum())
        backend = choose(wanted, device, dtype)
        return cls(
            backend=backend,
            attend=in_one_call(backend),
            query_lengths=queries,
            key_lengths=keys,
            longest=(max(queries, default=0), max(keys, default=0)),
            cu_q=_moved(batch.cu_q, device),
            cu_k=_moved(batch.cu_k, device),
            kv_index=_moved(batch.kv_index, device),
            by_token=_moved(by_token, device),
            token_ends=_moved(F.pad(ends, (1, 0)), device),
        )

    def mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """(M, M) additive mask: causal, and within the last `window` positions. Made once a batch and window.

        What L queries at the end of N keys see is its block [N-L:N, :N], for it depends on distances only.

        Args:
            like: its device and dtype.
        """
        if window not in self._masks:
            hidden = like.new_full((self.longest[1], self.longest[1]), float("-inf"))
            mask = hidden.triu(1)
            self._masks[window] = mask if window is None else mask + hidden.tril(-window)
        return self._masks[window]

    def gather(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (K, G, E) of all sequences from those of the packed tokens, (T, G, E)."""
        gathered: tuple[torch.Tensor, torch.Tensor] = _Gather.apply(
            key, value, self.kv_index, self.by_token, self.token_ends
        )
        return gathered


def _moved(layout: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy that the host does not wait for; one from pageable memory may wait for the GPU's earlier work."""
    return (layout.pin_memory() if device.type == "cuda" else layout).to(device, non_blocking=True)


class _Gather(torch.autograd.Function):
    """`index_select` whose gradients are added up in float32 and in one order: two runs are equal, on a GPU too."""

    @staticmethod
    def forward(
        ctx: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        index: torch.Tensor,
        by_token: torch.Tensor,
        token_ends: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(by_token, token_ends)
        return key.index_select(0, index), value.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_token, token_ends = ctx.saved_tensors
        key, value = (_sum_by_token(gradient, by_token, token_ends) for gradient in gradients)
        return key, value, None, None, None


def _sum_by_token(gradient: torch.Tensor, by_token: torch.Tensor, token_ends: torch.Tensor) -> torch.Tensor:
    wide = gradient.index_select(0, by_token).to(torch.promote_types(gradient.dtype, torch.float32))
    sums = torch.segment_reduce(wide.flatten(1), "sum", offsets=token_ends, unsafe=True, initial=0)
    return sums.view(-1, *gradient.shape[1:]).to(gradient.dtype)
