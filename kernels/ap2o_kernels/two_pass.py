"""The head in two passes, without logits: the forward keeps one log-sum-exp a row, the backward makes the logits again.

8RDV operations and the least memory. The forward is one scoring kernel. The backward walks over the vocabulary in
slabs: a kernel stores the slab's gradient of the logits in the operands' dtype, and two products take it to `hidden`
and to the slab's rows of `weight`, which are thereby written once and never added up. Shapes: R rows, D hidden,
V vocabulary, A answers, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ap2o_kernels import tiles
from ap2o_kernels.answers import spread, sum_rows
from ap2o_kernels.arguments import refuse_second_derivative
from ap2o_kernels.losses import PairLoss, answer_slopes, pair_losses
from ap2o_kernels.products import multiply, operand_dtype

ALIGNED = 256
"""Columns that a slab's width is rounded to: a whole number of the kernels' tiles."""


def linear_logp(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """Log-probability of each row's target, (R,) float32."""
    return tiles.logps(hidden, weight, bias, targets)[0]


@torch.library.custom_op("ap2o_kernels::dpo_two_pass", mutates_args=())
def dpo_two_pass(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    cu_rows: torch.Tensor,
    pairs: torch.Tensor,
    ref_logps: torch.Tensor,
    pair_weights: torch.Tensor | None,
    loss_type: str,
    beta: float,
    label_smoothing: float,
    sft_weight: float,
    length_normalized: bool,
    normalizer: float,
    chunk_rows: int,
    needed: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss (), log-probabilities (A,), and for the backward log Σ exp and slope of each row, (R,) both. All float32.

    Registered as an operator, so that `torch.compile` passes it by. Differentiable once.
    """
    loss = PairLoss.of((loss_type, beta, label_smoothing, sft_weight, length_normalized))
    # Before the kernel, or the host would wait for it.
    cu_rows, pairs = cu_rows.to(hidden.device, non_blocking=True), pairs.to(hidden.device, non_blocking=True)
    lengths = cu_rows.diff()
    row_logps, row_lse = tiles.logps(hidden, weight, bias, targets)
    logps = sum_rows(row_logps, cu_rows)
    ours = (logps, ref_logps, lengths, pairs)
    losses = pair_losses(loss, *ours)
    total = (losses if pair_weights is None else losses * pair_weights.to(losses.dtype)).sum() / normalizer
    slopes = answer_slopes(loss, *ours, pair_weights) / normalizer
    return total, logps, row_lse, spread(slopes, lengths, len(hidden))


@dpo_two_pass.register_fake
def _shapes(hidden: Any, weight: Any, bias: Any, targets: Any, cu_rows: Any, *_: Any) -> tuple[Any, ...]:
    loss = hidden.new_empty((), dtype=torch.float32)
    rows = hidden.shape[0]
    return loss, loss.new_empty(cu_rows.shape[0] - 1), loss.new_empty(rows), loss.new_empty(rows)


@torch.library.custom_op("ap2o_kernels::dpo_two_pass_backward", mutates_args=())
def dpo_two_pass_backward(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    row_lse: torch.Tensor,
    row_slopes: torch.Tensor,
    chunk_rows: int,
    needed: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients by hidden, weight and bias in their dtypes, empty where not `needed`.

    Args:
        row_slopes: (R,) derivative of what is differentiated by each row's log-probability.
        chunk_rows: a slab holds this many rows' worth of logits.
    """
    rows, vocabulary = len(hidden), len(weight)
    dtype = operand_dtype(hidden)
    width = chunk_rows * vocabulary // max(rows, 1)
    width = min(max(width // ALIGNED, 1) * ALIGNED, vocabulary)
    slab = torch.empty(rows, -(-width // ALIGNED) * ALIGNED, dtype=dtype, device=hidden.device)
    on_hidden, on_weight, on_bias = needed
    grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if on_hidden else None
    grad_weight = torch.empty_like(weight) if on_weight else None
    grad_bias = torch.empty_like(bias) if bias is not None and on_bias else None
    for start in range(0, vocabulary, width):
        columns = slice(start, min(start + width, vocabulary))
        gradients = slab[:, : columns.stop - start]
        tiles.gradients(hidden, weight, bias, targets, row_lse, row_slopes, columns=columns, out=gradients)
        if grad_hidden is not None:
            multiply(gradients, weight[columns].to(dtype), out=grad_hidden, add=True)
        if grad_weight is not None:
            multiply(gradients.T, hidden.to(dtype), out=grad_weight[columns])
        if grad_bias is not None:
            grad_bias[columns] = gradients.sum(0, dtype=torch.float32).to(grad_bias.dtype)
    none = hidden.new_empty(0)
    return (
        none if grad_hidden is None else grad_hidden.to(hidden.dtype),
        none.clone() if grad_weight is None else grad_weight,
        none.clone() if grad_bias is None else grad_bias,
    )


@dpo_two_pass_backward.register_fake
def _gradient_shapes(hidden: Any, weight: Any, bias: Any, *others: Any) -> tuple[Any, ...]:
    made = (
        torch.empty_like(tensor) if need else hidden.new_empty(0)
        for tensor, need in zip((hidden, weight, bias), others[-1], strict=True)
    )
    return tuple(made)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, bias, targets, *_, ctx.chunk_rows, ctx.needed = inputs
    ctx.save_for_backward(hidden, weight, bias, targets, *output[2:])
    ctx.set_materialize_grads(False)


def _recompute(ctx: Any, grad_loss: torch.Tensor, *_: Any) -> tuple[Any, ...]:
    refuse_second_derivative()
    *operands, row_slopes = ctx.saved_tensors
    found = dpo_two_pass_backward(*operands, row_slopes * grad_loss, ctx.chunk_rows, ctx.needed)
    return *(gradient if need else None for gradient, need in zip(found, ctx.needed, strict=True)), *[None] * 13


dpo_two_pass.register_autograd(_recompute, setup_context=_keep)
