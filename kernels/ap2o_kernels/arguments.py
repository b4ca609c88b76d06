"""What the public functions accept and refuse, checked once for all implementations. Letters as in `head`."""

from __future__ import annotations

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_head(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Errors: `ValueError`. Values on a GPU are not looked at, because that would wait for it."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden must be (R, D) and weight (V, D); got {_shape(hidden)} and {_shape(weight)}")
    if not weight.numel():
        raise ValueError(f"weight must not be empty; got {_shape(weight)}")
    if hidden.dtype not in DTYPES or weight.dtype != hidden.dtype:
        raise ValueError(
            "hidden and weight must have one floating dtype (autocast casts them); "
            f"got {hidden.dtype} and {weight.dtype}"
        )
    if not weight.is_contiguous():
        raise ValueError("weight must be contiguous: call .contiguous() once, outside the training step")
    _expect("targets", targets, (len(hidden),), torch.int64)
    if bias is not None:
        _expect("bias", bias, (len(weight),), weight.dtype)
    _same_device(hidden, weight=weight, targets=targets, bias=bias)
    if len(targets) and _readable(targets):
        low, high = torch.stack(torch.aminmax(targets)).tolist()
        if low < 0 or high >= len(weight):
            raise ValueError(f"targets must lie in [0, {len(weight)}); they span {low} to {high}")


def check_pairs(
    hidden: torch.Tensor,
    cu_rows: torch.Tensor,
    pairs: torch.Tensor,
    ref_logps: torch.Tensor,
    pair_weights: torch.Tensor | None,
    normalizer: float | None,
) -> None:
    """Errors: `ValueError`. Values on a GPU are not looked at, because that would wait for it."""
    if cu_rows.ndim != 1 or len(cu_rows) == 0 or cu_rows.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"cu_rows must be (A+1,) integers; got {_shape(cu_rows)} of {cu_rows.dtype}")
    if _readable(cu_rows):
        offsets = cu_rows.tolist()
        if offsets[0] != 0 or offsets[-1] != len(hidden) or offsets != sorted(offsets):
            raise ValueError(f"cu_rows must rise from 0 to R = {len(hidden)}; got {offsets[0]} to {offsets[-1]}")
    answers = len(cu_rows) - 1
    _expect("pairs", pairs, (len(pairs), 2), torch.int64)
    if len(pairs) and _readable(pairs) and not 0 <= int(pairs.min()) <= int(pairs.max()) < answers:
        raise ValueError(f"pairs must hold answer numbers in [0, {answers})")
    _expect("ref_logps", ref_logps, (answers,), None)
    if pair_weights is not None:
        _expect("pair_weights", pair_weights, (len(pairs),), None)
    _same_device(hidden, ref_logps=ref_logps, pair_weights=pair_weights)
    for name, tensor in {"cu_rows": cu_rows, "pairs": pairs}.items():
        if tensor.device.type != "cpu":
            _same_device(hidden, **{name: tensor})
    if normalizer is not None and not 0 < normalizer < float("inf"):
        raise ValueError(f"normalizer is {normalizer}; it must be positive")


def refuse_second_derivative() -> None:
    """Called in a backward: gradients are constants there, so differentiating them again would be silently wrong.

    Errors: `RuntimeError` under `create_graph=True`.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "linear_dpo can be differentiated once; for second derivatives (create_graph=True) use impl='reference'"
        )


def _readable(tensor: torch.Tensor) -> bool:
    """Whether values can be looked at without waiting for a GPU and without breaking a graph that is being traced."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _expect(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be {shape}; got {_shape(tensor)}")
    if not (tensor.is_floating_point() if dtype is None else tensor.dtype == dtype):
        raise ValueError(f"{name} must be {dtype or 'floating'}; got {tensor.dtype}")


def _same_device(hidden: torch.Tensor, **tensors: torch.Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != hidden.device:
            raise ValueError(f"{name} is on {tensor.device}, hidden on {hidden.device}")


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
