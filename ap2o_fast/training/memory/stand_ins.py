"""What stands for a GPU's kernels and for adapters when a training step is rehearsed on the meta device.

Each allocates what the real one does, keeps what that keeps for the backward pass, and computes nothing. Shapes: T
packed tokens, K gathered keys, R completion rows, H query heads, G key/value heads, E head size, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from ap2o_kernels import chunked

NAME = "ap2o_rehearsal"
NARROW, SLAB_ROWS = 1024, 1024
"""As in ap2o_kernels: up to this hidden size `auto` takes the head without logits, which has slabs of so many rows."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """How the head is computed: `impl` as in `LossSettings` (`auto` as on a GPU if `on_gpu`), rows of a chunk or 0."""

    impl: str
    chunk_rows: int
    on_gpu: bool

    def resolved(self, width: int) -> str:
        """The implementation that `auto` stands for at this hidden size."""
        if self.impl != "auto":
            return self.impl
        return "triton" if self.on_gpu and width <= NARROW and not self.chunk_rows else "chunked"

    def rows(self, rows: int, width: int, dtype: torch.dtype, *, trains: bool) -> int:
        """Rows of a chunk."""
        if self.chunk_rows:
            return self.chunk_rows
        kept = chunked.keeps_gradients(rows, width, dtype, trains=trains)
        return 4096 if self.on_gpu and not kept else 1024


def loss(hidden: torch.Tensor, weight: torch.Tensor, head: Head) -> torch.Tensor:
    """The 0-d loss of (R, D) rows, as `linear_dpo` gives it."""
    made: torch.Tensor = _Loss.apply(hidden, weight, head)
    return made


def score(hidden: torch.Tensor, weight: torch.Tensor, head: Head) -> torch.Tensor:
    """(R,) log-probabilities, as `linear_logp` gives them."""
    if not head.on_gpu:
        rows = head.rows(len(hidden), hidden.shape[1], hidden.dtype, trains=False)
        _bytes(hidden, chunked.workspace_bytes(len(hidden), weight.shape, rows, hidden.dtype, trains=False))
    return hidden.new_empty(len(hidden), dtype=torch.float32)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, head: Head) -> torch.Tensor:
        rows, width = hidden.shape
        ctx.needed, ctx.head = ctx.needs_input_grad[:2], head
        kind = head.resolved(width)
        if kind == "triton":
            ctx.save_for_backward(hidden, weight, *(hidden.new_empty(rows, dtype=torch.float32) for _ in range(2)))
        elif kind == "chunked":
            trains = ctx.needed[1]
            size = head.rows(rows, width, hidden.dtype, trains=trains)
            workspace = chunked.workspace_bytes(rows, weight.shape, size, hidden.dtype, trains=trains)
            kept = _bytes(hidden, workspace)
            ctx.save_for_backward(
                *(torch.empty_like(t) for t, n in zip((hidden, weight), ctx.needed, strict=True) if n)
            )
            del kept
        else:  # logits, their log-softmax in float32, and its gradient in both
            logits = [hidden.new_empty(rows, len(weight), dtype=torch.float32) for _ in range(2)]
            ctx.save_for_backward(hidden, weight, *logits)
        ctx.kind = kind
        return hidden.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        if ctx.kind == "chunked":
            made = iter(ctx.saved_tensors)
            return *(next(made) if need else None for need in ctx.needed), None
        hidden, weight, *_ = ctx.saved_tensors
        if ctx.kind == "triton":
            wide = torch.empty_like(hidden, dtype=torch.float32)
            rows = ctx.head.chunk_rows or SLAB_ROWS
            slab = _bytes(hidden, hidden.itemsize * min(rows, len(hidden)) * len(weight))
        else:
            wide = slab = hidden.new_empty(len(hidden), len(weight), dtype=torch.float32)
        made = tuple(torch.empty_like(t) if n else None for t, n in zip((hidden, weight), ctx.needed, strict=True))
        del wide, slab
        return *made, None


class _Attention(torch.autograd.Function):
    """FlashAttention over gathered keys: it keeps operands, result and a float32 a row and head."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:2], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, *_ = ctx.saved_tensors
        sums = torch.empty_like(query, dtype=torch.float32)
        by_head = [key.new_empty(len(key), *query.shape[1:]) for _ in range(2)]
        made = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        del sums, by_head
        return made


class _Gather(torch.autograd.Function):
    """(K, G, E) keys from (T, G, E), whose gradients are added up in float32."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, keys: int) -> torch.Tensor:
        ctx.like = tokens.shape
        return tokens.new_empty(keys, *tokens.shape[1:])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        in_order = torch.empty_like(gradient)
        wide = torch.empty_like(gradient, dtype=torch.float32)
        sums = gradient.new_empty(ctx.like, dtype=torch.float32)
        del in_order, wide
        return sums.to(gradient.dtype), None


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    keys: int,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    by_token = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    gathered = [_Gather.apply(tensor, keys) for tensor in by_token[1:]]
    return _Attention.apply(by_token[0], *gathered)[None], None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


class Linear(nn.Module):
    """A frozen linear layer of a block with a LoRA or DoRA adapter or, at rank 0, none; whole or in 4 bits."""

    def __init__(
        self, linear: nn.Linear, *, rank: int, dora: bool, quantized: bool, adapter_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.linear, self.rank, self.quantized = linear, rank, quantized
        self.length: nn.Parameter | None = None
        if not rank:
            return
        self.down = nn.Linear(linear.in_features, rank, bias=False, device="meta", dtype=adapter_dtype)
        self.up = nn.Linear(rank, linear.out_features, bias=False, device="meta", dtype=adapter_dtype)
        if dora:
            self.length = nn.Parameter(torch.empty(linear.out_features, device="meta", dtype=adapter_dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = _FourBit.apply(x, self.linear.weight) if self.quantized else self.linear(x)
        if not self.rank:
            return base
        added = self.up(self.down(x.to(self.down.weight.dtype))) * 2.0
        if self.length is not None:
            whole = torch.empty_like(self.linear.weight, dtype=torch.float32)
            added = (self.length - 1) * base + self.length * added
            del whole
        return base + added.to(base.dtype)


class _FourBit(torch.autograd.Function):
    """bitsandbytes makes the whole weight, and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        whole = torch.empty_like(weight)
        out = x.new_empty(*x.shape[:-1], len(weight))
        del whole
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (weight,) = ctx.saved_tensors
        whole = torch.empty_like(weight)
        made = gradient.new_empty(*gradient.shape[:-1], weight.shape[1])
        del whole
        return made, None


class _Norm(torch.autograd.Function):
    """Liger's RMSNorm: it keeps its input and a float32 a row, and writes the gradient over the one that comes in."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradient, torch.empty_like(ctx.saved_tensors[1])


class _Gate(torch.autograd.Function):
    """Liger's SwiGLU: it keeps both operands and writes their gradients over them."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return gate, up


def use_liger(model: nn.Module) -> None:
    """Have the model's norms and gates stand for Liger's."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = lambda x, norm=module: _Norm.apply(x, norm.weight)
        elif hasattr(module, "gate_proj") and hasattr(module, "down_proj"):
            module.forward = lambda x, mlp=module: mlp.down_proj(_Gate.apply(mlp.gate_proj(x), mlp.up_proj(x)))


def _bytes(like: torch.Tensor, size: int) -> torch.Tensor:
    return like.new_empty(size, dtype=torch.uint8)
