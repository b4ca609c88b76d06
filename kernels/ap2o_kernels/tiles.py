"""Triton kernels that make the head's logits tile by tile in registers and never store them.

`logps` scores rows with an online log-sum-exp and the target's logit (2RDV operations); `gradients` makes the logits
once more and stores what the products of the backward need, slopes · (onehot - softmax), for a slab of the vocabulary.
Nothing is added atomically: two runs are bit-equal. Shapes: R rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from ap2o_kernels.products import sum_dtype

LOG2E = tl.constexpr(1.4426950408889634)
TILES_A_SPLIT = 16
"""Tiles of the vocabulary that one program of the scoring kernel walks over, where that keeps the GPU busy."""
PROGRAMS = 512
"""Programs of the scoring kernel that keep a GPU busy; with fewer rows a split of the vocabulary gets fewer tiles."""
ROW_BLOCKS_TOGETHER = 16
"""Blocks of rows that run side by side over the same columns, so that the weight is read from L2."""


@dataclass(frozen=True)
class Tile:
    """Rows x columns of logits in registers, `depth` of the hidden dimension a step; Triton's warps and stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def with_room(self) -> Tile:
        """The tile for a kernel that keeps an outgoing block in shared memory where a fourth stage would be."""
        return replace(self, stages=min(self.stages, 3))

    def options(self) -> dict[str, int]:
        return {
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "DEPTH": self.depth,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


INTERPRETED = Tile(64, 128, 64, 4, 1)
SINGLE = Tile(32, 64, 32, 4, 2)
_SHARED = {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227}
HALF = {  # by KiB of shared memory a block may use; 99 on consumer cards
    227: Tile(128, 256, 64, 8, 4),
    163: Tile(128, 128, 64, 8, 3),
    99: Tile(128, 128, 32, 8, 3),
}


def tile_for(hidden: torch.Tensor) -> Tile:
    """The tile for this device and dtype."""
    if not hidden.is_cuda:
        return INTERPRETED
    if hidden.element_size() > 2:
        return SINGLE
    return HALF[_SHARED.get(torch.cuda.get_device_capability(hidden.device), 99)]


@triton.jit
def _logits(
    hidden,
    weight,
    bias,
    row,
    column,
    row_count,
    column_count,
    hidden_stride,
    weight_stride,
    depth_count,
    HAS_BIAS: tl.constexpr,
    BLOCKS: tl.constexpr,
    WHOLE_DEPTH: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """(ROWS, COLUMNS) float32 logits from `row` and `column` on. Beyond the last ones they are of no meaning."""
    columns = tl.minimum(column + tl.arange(0, COLUMNS), column_count - 1)
    logits = tl.zeros((ROWS, COLUMNS), tl.float32)
    if not BLOCKS:
        rows = tl.minimum(row + tl.arange(0, ROWS), row_count - 1)
        depths = tl.arange(0, DEPTH)
        x_at = hidden + rows.to(tl.int64)[:, None] * hidden_stride + depths[None, :]
        w_at = weight + columns.to(tl.int64)[:, None] * weight_stride + depths[None, :]
    for depth in range(0, depth_count, DEPTH):
        if BLOCKS:
            x = hidden.load([row, depth])
            w = weight.load([column, depth])
        elif WHOLE_DEPTH:
            x = tl.load(x_at + depth)
            w = tl.load(w_at + depth)
        else:
            inside = (depth + depths < depth_count)[None, :]
            x = tl.load(x_at + depth, mask=inside, other=0.0)
            w = tl.load(w_at + depth, mask=inside, other=0.0)
        if WIDEN:  # the interpreter computes on bfloat16's raw bits
            x = x.to(tl.float32)
            w = w.to(tl.float32)
        logits = tl.dot(x, w.T, logits, input_precision=PRECISION)
    if HAS_BIAS:
        logits += tl.load(bias + columns).to(tl.float32)[None, :]
    return logits


@triton.jit
def _place(program, row_blocks, column_blocks, TOGETHER: tl.constexpr):
    """The block of rows and the block of columns of a program: few row blocks at a time over the same columns."""
    first = program // (TOGETHER * column_blocks) * TOGETHER
    together = tl.minimum(row_blocks - first, TOGETHER)
    inner = program - first * column_blocks
    return first + inner % together, inner // together


@triton.jit
def _targets(targets, rows, row_count):
    """Targets as int32, -1 for those beyond it and beyond the last row."""
    target = tl.load(targets + rows, mask=rows < row_count, other=-1)
    return tl.where((target >= 0) & (target < 2147483647), target, -1).to(tl.int32)


@triton.jit
def score_kernel(
    hidden,
    weight,
    bias,
    targets,
    split_lse,
    target_logits,
    row_count,
    column_count,
    depth_count,
    hidden_stride,
    weight_stride,
    HAS_BIAS: tl.constexpr,
    BLOCKS: tl.constexpr,
    WHOLE_DEPTH: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    TILES: tl.constexpr,
    TOGETHER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row_blocks = tl.cdiv(row_count, ROWS)
    row_block, split = _place(tl.program_id(0), row_blocks, tl.num_programs(0) // row_blocks, TOGETHER)
    rows = row_block * ROWS + tl.arange(0, ROWS)
    target = _targets(targets, rows, row_count)
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    sums = tl.zeros((ROWS,), tl.float32)
    target_logit = tl.zeros((ROWS,), tl.float32)
    first = split * TILES * COLUMNS
    for tile in range(TILES):
        column = first + tile * COLUMNS
        columns = column + tl.arange(0, COLUMNS)
        x = _logits(
            hidden,
            weight,
            bias,
            row_block * ROWS,
            column,
            row_count,
            column_count,
            hidden_stride,
            weight_stride,
            depth_count,
            HAS_BIAS,
            BLOCKS,
            WHOLE_DEPTH,
            WIDEN,
            PRECISION,
            ROWS,
            COLUMNS,
            DEPTH,
        )
        x = tl.where((columns < column_count)[None, :], x, -float("inf"))
        target_logit += tl.sum(tl.where(columns[None, :] == target[:, None], x, 0.0), 1)
        before = largest
        largest = tl.maximum(largest, tl.max(x, 1))
        origin = tl.where(largest == -float("inf"), 0.0, largest)
        sums = sums * tl.exp2((before - origin) * LOG2E) + tl.sum(tl.exp2((x - origin[:, None]) * LOG2E), 1)
    inside = rows < row_count
    tl.store(split_lse + split.to(tl.int64) * row_count + rows, largest + tl.log(sums), mask=inside)
    last = tl.minimum(first + TILES * COLUMNS, column_count)
    tl.store(target_logits + rows, target_logit, mask=inside & (target >= first) & (target < last))


@triton.jit
def gradient_kernel(
    hidden,
    weight,
    bias,
    targets,
    row_lse,
    slopes,
    gradients,
    row_count,
    column_count,
    depth_count,
    hidden_stride,
    weight_stride,
    gradient_stride,
    first_column,
    HAS_BIAS: tl.constexpr,
    BLOCKS: tl.constexpr,
    WHOLE_DEPTH: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    TOGETHER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row_blocks, column_blocks = tl.cdiv(row_count, ROWS), tl.cdiv(column_count, COLUMNS)
    # Where blocks are copied, few programs take tile after tile: a tile's copies begin under the one before it.
    for program in tl.range(
        tl.program_id(0), row_blocks * column_blocks, tl.num_programs(0), flatten=BLOCKS and not HAS_BIAS
    ):
        row_block, column_block = _place(program, row_blocks, column_blocks, TOGETHER)
        row, column = row_block * ROWS, column_block * COLUMNS
        x = _logits(
            hidden,
            weight,
            bias,
            row,
            column,
            row_count,
            column_count,
            hidden_stride,
            weight_stride,
            depth_count,
            HAS_BIAS,
            BLOCKS,
            WHOLE_DEPTH,
            WIDEN,
            PRECISION,
            ROWS,
            COLUMNS,
            DEPTH,
        )
        rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        inside = rows < row_count
        lse = tl.load(row_lse + rows, mask=inside, other=0.0)
        slope = tl.load(slopes + rows, mask=inside, other=0.0)
        target = _targets(targets, rows, row_count) - first_column
        right = tl.where(columns[None, :] == target[:, None], 1.0, 0.0)
        gradient = slope[:, None] * (right - tl.exp2((x - lse[:, None]) * LOG2E))
        if BLOCKS:
            gradients.store([row, column], gradient.to(gradients.dtype))
        else:
            at = gradients + rows.to(tl.int64)[:, None] * gradient_stride + columns[None, :]
            inside = inside[:, None] & (columns < column_count)[None, :]
            tl.store(at, gradient.to(gradients.dtype.element_ty), mask=inside)


INTERPRETING = not isinstance(score_kernel, triton.runtime.JITFunction)
"""Whether kernels are interpreted on the CPU: TRITON_INTERPRET=1 before this module was imported."""


def logps(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R,) float32 log-probabilities of the targets, NaN where a target is outside the vocabulary; (R,) log Σ exp."""
    rows, vocabulary = len(hidden), len(weight)
    if not rows:
        return hidden.new_empty(0, dtype=torch.float32), hidden.new_empty(0, dtype=torch.float32)
    target_logits = torch.full((rows,), float("nan"), dtype=torch.float32, device=hidden.device)
    tile = tile_for(hidden)
    row_blocks = triton.cdiv(rows, tile.rows)
    few = row_blocks * triton.cdiv(vocabulary, tile.columns * TILES_A_SPLIT) < PROGRAMS
    tiles_a_split = TILES_A_SPLIT // 4 if few else TILES_A_SPLIT
    splits = triton.cdiv(vocabulary, tile.columns * tiles_a_split)
    split_lse = torch.empty(splits, rows, dtype=torch.float32, device=hidden.device)
    blocks = _copies_blocks(hidden, weight)
    with torch.cuda.device_of(hidden):
        score_kernel[(row_blocks * splits,)](
            TensorDescriptor.from_tensor(hidden, [tile.rows, tile.depth]) if blocks else hidden,
            TensorDescriptor.from_tensor(weight, [tile.columns, tile.depth]) if blocks else weight,
            bias,
            targets,
            split_lse,
            target_logits,
            rows,
            vocabulary,
            hidden.shape[1],
            hidden.stride(0),
            weight.stride(0),
            TILES=tiles_a_split,
            **_common(hidden, bias, tile, blocks),
        )
    row_lse = split_lse.logsumexp(0)
    return target_logits - row_lse, row_lse


def gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    row_lse: torch.Tensor,
    slopes: torch.Tensor,
    *,
    columns: slice,
    out: torch.Tensor,
) -> None:
    """Fill `out` (R, columns) with slopes · (onehot(targets) - softmax) for the vocabulary in `columns`."""
    tile = tile_for(hidden)
    part = weight[columns]
    if not out.numel():
        return
    blocks = _copies_blocks(hidden, part, out)
    programs = triton.cdiv(len(hidden), tile.rows) * triton.cdiv(len(part), tile.columns)
    if blocks:
        programs = min(programs, _processors(hidden.device))
        tile = tile.with_room()
    with torch.cuda.device_of(hidden):
        gradient_kernel[(programs,)](
            TensorDescriptor.from_tensor(hidden, [tile.rows, tile.depth]) if blocks else hidden,
            TensorDescriptor.from_tensor(part, [tile.columns, tile.depth]) if blocks else part,
            None if bias is None else bias[columns],
            targets,
            row_lse,
            slopes,
            TensorDescriptor.from_tensor(out, [tile.rows, tile.columns]) if blocks else out,
            len(hidden),
            len(part),
            hidden.shape[1],
            hidden.stride(0),
            weight.stride(0),
            out.stride(0),
            columns.start,
            **_common(hidden, bias, tile, blocks),
        )


def _copies_blocks(*matrices: torch.Tensor) -> bool:
    """Whether tiles are moved as blocks by the copy engine, which Hopper and later have for rows at 16-byte places.

    Single precision has tiles so small that it gains nothing.
    """
    if any(m.element_size() != 2 or m.data_ptr() % 16 or m.stride(0) % 8 for m in matrices):
        return False
    return INTERPRETING or torch.cuda.get_device_capability(matrices[0].device) >= (9, 0)


def _processors(device: torch.device) -> int:
    return 2 if INTERPRETING else torch.cuda.get_device_properties(device).multi_processor_count


def _common(hidden: torch.Tensor, bias: torch.Tensor | None, tile: Tile, blocks: bool) -> dict[str, Any]:
    assert sum_dtype(hidden.dtype) == torch.float32
    tf32 = hidden.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return {
        "HAS_BIAS": bias is not None,
        "BLOCKS": blocks,
        "WHOLE_DEPTH": hidden.shape[1] % tile.depth == 0,
        "WIDEN": INTERPRETING,
        "PRECISION": "tf32" if tf32 else "ieee",
        "TOGETHER": ROW_BLOCKS_TOGETHER,
        **tile.options(),
    }
