"""Random arguments for the head, and what it gives, gradients included."""

from __future__ import annotations

from typing import Any

import torch

from ap2o_kernels import linear_dpo

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where the Triton kernels run: compiled on a GPU, else interpreted."""


def make_arguments(
    lengths: list[int],
    pairs: list[tuple[int, int]],
    *,
    vocabulary: int = 37,
    hidden: int = 8,
    bias: bool = False,
    scale: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Float64 arguments of `linear_dpo` by name."""
    chance = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=chance, dtype=torch.float64)

    rows = sum(lengths)
    return {
        "hidden": normal(rows, hidden) * scale,
        "weight": normal(vocabulary, hidden),
        "targets": torch.randint(vocabulary, (rows,), generator=chance),
        "cu_rows": torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()]),
        "pairs": torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
        "ref_logps": normal(len(lengths)) - 3.0 * torch.tensor(lengths),
        "bias": normal(vocabulary) if bias else None,
    }


def rounded(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments with operands that `dtype` can hold, so that rounding them is nobody's error."""
    operands = ("hidden", "weight", "bias")
    return {
        name: value.to(dtype).double() if name in operands and value is not None else value
        for name, value in arguments.items()
    }


def run(
    arguments: dict[str, Any], *, dtype: torch.dtype, factor: float = 1.0, device: str = "cpu", **options: Any
) -> dict[str, Any]:
    """Loss, log-probabilities and gradients of `factor` x loss, computed in `dtype`, returned in float64 on the CPU."""
    leaves = {
        name: arguments[name].to(device, dtype, copy=True).requires_grad_()
        for name in ("hidden", "weight", "bias")
        if arguments[name] is not None
    }
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in arguments.items()}
    output = linear_dpo(**(moved | leaves), **options)
    (output.loss * factor).backward()
    found = {"loss": output.loss.detach(), "logps": output.logps}
    found |= {f"grad_{name}": leaf.grad for name, leaf in leaves.items()}
    return {name: value.double().cpu() for name, value in found.items()}


def worst(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Largest absolute difference by name; infinite where there is a NaN, which comparisons would let through."""
    assert ours.keys() == theirs.keys()
    return {
        name: float((ours[name] - theirs[name]).abs().nan_to_num(nan=float("inf")).max())
        for name in ours
        if ours[name].numel()
    }


def check_error(arguments: dict[str, Any], *, dtype: torch.dtype, device: str = "cpu", **options: Any) -> None:
    """Assert that the distance from float64 is at most 3 times that of plain PyTorch in the same dtype.

    Plain PyTorch here widens half precision before it multiplies, so that the bound is on what the inputs allow.
    """
    arguments = rounded(arguments, dtype)
    losses = {name: value for name, value in options.items() if name not in ("impl", "chunk_rows")}
    exact = run(arguments, dtype=torch.float64, impl="reference", **losses)
    plain = worst(run(arguments, dtype=dtype, impl="reference", device=device, **losses), exact)
    ours = worst(run(arguments, dtype=dtype, device=device, **options), exact)
    # The loss is computed from differences of sums that are much larger than it, and cannot be known better than they.
    rewards = float(options.get("beta", 0.1) * exact["logps"].abs().amax())
    for name, error in ours.items():
        size = float(exact[name].abs().max())
        floor = torch.finfo(torch.float32).eps * (max(size, rewards) if name == "loss" else size)
        assert error <= 3 * max(plain[name], floor), f"{name}: {error:.3g} against {plain[name]:.3g}"
