"""Matrix products that add in float32. Half precision is multiplied as it is on CUDA, with float32 sums, and with
float32 results where `out` is; elsewhere operands are widened first: PyTorch's CPU is slow in half and rounds there."""

from __future__ import annotations

import torch


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over rows, tokens or vocabulary are kept in: float32, or float64 for float64 operands."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def operand_dtype(hidden: torch.Tensor) -> torch.dtype:
    """What the head's products take on this device for hidden states of this dtype."""
    return hidden.dtype if hidden.is_cuda else sum_dtype(hidden.dtype)


def multiply(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor, add: bool = False) -> None:
    """out = a @ b, or out += a @ b. `out` has the operands' dtype, or is float32 for half operands on CUDA."""
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, out=out) if add else torch.mm(a, b, out=out)
    elif not a.is_cuda:  # operands were widened and the result is not
        assert not add
        out.copy_(a @ b)
    elif add:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:
        torch.mm(a, b, out_dtype=out.dtype, out=out)
