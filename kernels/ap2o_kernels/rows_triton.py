"""What lies between the products of the chunked head, as Triton kernels: one program a row.

The same functions as `rows_torch`. The first reads the logits once; the second reads them once more and writes
their gradient, which may lie over them: in half precision into the front half of each row. Shapes: r rows of the
chunk, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
BLOCK, WARPS = 4096, 8
SCALE_BLOCK = 16384


@triton.jit
def row_logps_kernel(
    logits, bias, targets, row_logps, row_lse, stride, vocabulary, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocabulary
        x = tl.load(logits + columns, mask=inside, other=-float("inf"))
        if HAS_BIAS:
            x += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
        # A running maximum and sum per lane; lanes meet once, after the loop.
        before = largest
        largest = tl.maximum(largest, x)
        origin = tl.where(largest == -float("inf"), 0.0, largest)
        sums = sums * tl.exp2((before - origin) * LOG2E) + tl.exp2((x - origin) * LOG2E)
    top = tl.max(largest, 0)
    lse = top + tl.log(tl.sum(sums * tl.exp2((largest - top) * LOG2E), 0))
    target = tl.load(targets + row)
    known = (target >= 0) & (target < vocabulary)
    x = tl.load(logits + target, mask=known, other=float("nan"))
    if HAS_BIAS:
        x += tl.load(bias + target, mask=known, other=0.0).to(tl.float32)
    tl.store(row_logps + row, x - lse)
    tl.store(row_lse + row, lse)


@triton.jit
def row_gradients_kernel(
    logits,
    gradients,
    bias,
    targets,
    row_lse,
    slopes,
    stride,
    gradient_stride,
    vocabulary,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    gradients += row * gradient_stride
    lse = tl.load(row_lse + row)
    slope = tl.load(slopes + row)
    target = tl.load(targets + row)
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocabulary
        x = tl.load(logits + columns, mask=inside, other=-float("inf"))
        if HAS_BIAS:
            x += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
        gradient = slope * (tl.where(columns == target, 1.0, 0.0) - tl.exp2((x - lse) * LOG2E))
        # Half-precision gradients of this block lie where its own logits were, and no later block's: all must be read.
        tl.debug_barrier()
        tl.store(gradients + columns, gradient.to(gradients.dtype.element_ty), mask=inside)


@triton.jit
def scale_kernel(values, factor, count, BLOCK: tl.constexpr):
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = places < count
        value = tl.load(values + places, mask=inside).to(tl.float32)
        tl.store(values + places, (value * by).to(values.dtype.element_ty), mask=inside)


def logps(logits: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(r,) log-probabilities of the targets, NaN where a target is outside the vocabulary, and (r,) log Σ exp.

    `logits` (r, V) float32 stay as they are.
    """
    rows, vocabulary = logits.shape
    row_logps, row_lse = logits.new_empty(rows), logits.new_empty(rows)
    with torch.cuda.device_of(logits):
        row_logps_kernel[(rows,)](
            logits,
            bias,
            targets,
            row_logps,
            row_lse,
            logits.stride(0),
            vocabulary,
            HAS_BIAS=bias is not None,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
    return row_logps, row_lse


def gradients(
    logits: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    row_lse: torch.Tensor,
    slopes: torch.Tensor,
    *,
    out: torch.Tensor,
) -> None:
    """Fill `out` (r, V) with slopes · (onehot(targets) - softmax) in its dtype.

    It may lie over the logits (r, V) float32, each row over the front of its own: ``logits.view(out.dtype)[:, :V]``.
    """
    rows, vocabulary = logits.shape
    with torch.cuda.device_of(logits):
        row_gradients_kernel[(rows,)](
            logits,
            out,
            bias,
            targets,
            row_lse,
            slopes,
            logits.stride(0),
            out.stride(0),
            vocabulary,
            HAS_BIAS=bias is not None,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )


def scale(values: torch.Tensor, factor: torch.Tensor) -> None:
    """values *= factor, which is () and usually 1: then `values` is not touched. The host waits for nothing."""
    with torch.cuda.device_of(values):
        blocks = triton.cdiv(values.numel(), SCALE_BLOCK)
        scale_kernel[(max(blocks, 1),)](values, factor, values.numel(), BLOCK=SCALE_BLOCK, num_warps=WARPS)
