"""Random arguments for the head, and what it gives, gradients included."""

from __future__ import annotations

from typing import Any

import torch

from ap2o_kernels import linear_dpo


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


def run(arguments: dict[str, Any], *, dtype: torch.dtype, factor: float = 1.0, **options: Any) -> dict[str, Any]:
    """Loss, log-probabilities and gradients of `factor` x loss, computed in `dtype`, returned in float64."""
    leaves = {
        name: arguments[name].to(dtype).clone().requires_grad_()
        for name in ("hidden", "weight", "bias")
        if arguments[name] is not None
    }
    output = linear_dpo(**(arguments | leaves), **options)
    (output.loss * factor).backward()
    found = {"loss": output.loss.detach(), "logps": output.logps}
    found |= {f"grad_{name}": leaf.grad for name, leaf in leaves.items()}
    return {name: value.double() for name, value in found.items()}


def worst(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Largest absolute difference by name."""
    assert ours.keys() == theirs.keys()
    return {name: float((ours[name] - theirs[name]).abs().max()) for name in ours if ours[name].numel()}
