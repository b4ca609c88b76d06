"""The public functions: arguments checked, implementation chosen. Shapes: R rows, D hidden, V vocabulary, A answers,
P pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ap2o_kernels import chunked, reference
from ap2o_kernels.losses import LOSS_TYPES

_DTYPES = (torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class DpoOutput:
    """`loss` (), differentiable; `logps` (A,) summed log-probability of each answer, without gradient.

    Both are float32, or float64 for float64 inputs.
    """

    loss: torch.Tensor
    logps: torch.Tensor


def available_impls(device: torch.device | str) -> tuple[str, ...]:
    """Implementations that run on `device`, best first; `auto` takes the first."""
    torch.device(device)
    return ("chunked", "reference")


def linear_logp(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    chunk_rows: int | None = None,
) -> torch.Tensor:
    """Log-probability of each row's target token: log softmax(hidden @ weight.T + bias)[targets].

    For scoring: the result carries no gradient.

    Args:
        hidden: (R, D).
        weight: (V, D), of the same dtype.
        targets: (R,) int64.
        bias: (V,) or None.
        impl: one of `available_impls`, or `auto`.
        chunk_rows: rows whose logits exist at a time (default 1024 on the CPU, 4096 on a GPU). `reference` makes all.

    Returns: (R,) float32, float64 for float64 inputs.
    Errors: `ValueError` for shapes, dtypes, devices or targets that do not fit.
    """
    _check_head(hidden, weight, targets, bias)
    if _pick(impl, hidden.device) == "reference":
        with torch.no_grad():
            return reference.linear_logp(hidden, weight, targets, bias=bias)
    return chunked.linear_logp(hidden, weight, targets, bias, _chunk_rows(chunk_rows, hidden))


def linear_dpo(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    cu_rows: torch.Tensor,
    pairs: torch.Tensor,
    ref_logps: torch.Tensor,
    *,
    beta: float = 0.1,
    pair_weights: torch.Tensor | None = None,
    normalizer: float | None = None,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    chunk_rows: int | None = None,
) -> DpoOutput:
    """Preference loss straight from hidden states. Differentiable (once) in `hidden`, `weight` and `bias`.

    Answers are nodes and pairs are edges: an answer may be in many pairs or in none, and may be empty.

    Args:
        hidden: (R, D) hidden states that predict the answers' tokens, contiguous per answer.
        weight: (V, D) of the LM head, of the same dtype.
        targets: (R,) int64 the answers' tokens.
        cu_rows: (A+1,) integer, where each answer's rows begin; starts at 0, ends at R.
        pairs: (P, 2) int64, (chosen, rejected) as answer numbers.
        ref_logps: (A,) log-probabilities of the answers under the reference model.
        beta: strength of the pull towards the reference.
        pair_weights: (P,) or None for ones.
        normalizer: what the sum of pair losses is divided by: the pairs of the whole step, where this is a part of it.
            Default P.
        loss_type: `sigmoid` (DPO), `ipo` or `hinge`.
        label_smoothing: share of pairs taken to be labelled the wrong way round (conservative DPO); `sigmoid` only.
        bias: (V,) or None.
        impl: one of `available_impls`, or `auto`.
        chunk_rows: rows whose logits exist at a time (default 1024 on the CPU, 4096 on a GPU). Pairs that reach over
            more rows are computed in two sweeps. `reference` makes all.

    Returns: `DpoOutput`.
    Errors: `ValueError` for arguments that do not fit together.
    """
    _check_head(hidden, weight, targets, bias)
    _check_pairs(hidden, cu_rows, pairs, ref_logps, pair_weights)
    _check_loss(beta, loss_type, label_smoothing, normalizer)
    count = float(max(len(pairs), 1) if normalizer is None else normalizer)
    if _pick(impl, hidden.device) == "reference":
        return DpoOutput(
            *reference.linear_dpo(
                hidden,
                weight,
                targets,
                cu_rows,
                pairs,
                ref_logps,
                beta=beta,
                pair_weights=pair_weights,
                normalizer=count,
                loss_type=loss_type,
                label_smoothing=label_smoothing,
                bias=bias,
            )
        )
    pair_loss = chunked.PairLoss(
        ref_logps=ref_logps,
        pairs=pairs,
        weights=pair_weights,
        normalizer=count,
        beta=beta,
        loss_type=loss_type,
        label_smoothing=label_smoothing,
    )
    rows = _chunk_rows(chunk_rows, hidden)
    return DpoOutput(*chunked.linear_dpo(hidden, weight, targets, cu_rows, bias, pair_loss, rows))


def _pick(impl: str, device: torch.device) -> str:
    available = available_impls(device)
    if impl == "auto":
        return available[0]
    if impl not in available:
        raise ValueError(f"impl {impl!r} is not available on {device}: choose from {('auto', *available)}")
    return impl


def _chunk_rows(chunk_rows: int | None, hidden: torch.Tensor) -> int:
    if chunk_rows is None:
        return 4096 if hidden.is_cuda else 1024
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows is {chunk_rows}; it must be at least 1")
    return chunk_rows


def _check_head(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden must be (R, D) and weight (V, D); got {_shape(hidden)} and {_shape(weight)}")
    if hidden.dtype not in _DTYPES or weight.dtype != hidden.dtype:
        raise ValueError(
            "hidden and weight must both be bfloat16, float32 or float64 (gradients underflow in float16); "
            f"got {hidden.dtype} and {weight.dtype}"
        )
    if not (hidden.is_contiguous() and weight.is_contiguous()):
        raise ValueError("hidden and weight must be contiguous: call .contiguous()")
    _expect("targets", targets, (len(hidden),), torch.int64)
    if bias is not None:
        _expect("bias", bias, (len(weight),), weight.dtype)
    _same_device(hidden, weight=weight, targets=targets, bias=bias)
    if len(targets):
        low, high = torch.stack(torch.aminmax(targets)).tolist()
        if low < 0 or high >= len(weight):
            raise ValueError(f"targets must lie in [0, {len(weight)}); they span {low} to {high}")


def _check_pairs(
    hidden: torch.Tensor,
    cu_rows: torch.Tensor,
    pairs: torch.Tensor,
    ref_logps: torch.Tensor,
    pair_weights: torch.Tensor | None,
) -> None:
    if cu_rows.ndim != 1 or len(cu_rows) == 0 or cu_rows.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"cu_rows must be (A+1,) integers; got {_shape(cu_rows)} of {cu_rows.dtype}")
    offsets = cu_rows.tolist()
    if offsets[0] != 0 or offsets[-1] != len(hidden) or offsets != sorted(offsets):
        raise ValueError(f"cu_rows must rise from 0 to R = {len(hidden)}; got {offsets[0]} to {offsets[-1]}")
    answers = len(offsets) - 1
    _expect("pairs", pairs, (len(pairs), 2), torch.int64)
    if len(pairs) and not 0 <= int(pairs.min()) <= int(pairs.max()) < answers:
        raise ValueError(f"pairs must hold answer numbers in [0, {answers})")
    _expect("ref_logps", ref_logps, (answers,), None)
    if pair_weights is not None:
        _expect("pair_weights", pair_weights, (len(pairs),), None)
    _same_device(hidden, cu_rows=cu_rows, pairs=pairs, ref_logps=ref_logps, pair_weights=pair_weights)


def _check_loss(beta: float, loss_type: str, label_smoothing: float, normalizer: float | None) -> None:
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type {loss_type!r} is unknown: choose from {LOSS_TYPES}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must lie in [0, 0.5)")
    if label_smoothing and loss_type != "sigmoid":
        raise ValueError(f"label_smoothing is defined for loss_type 'sigmoid' only, not {loss_type!r}")
    if not beta > 0:
        raise ValueError(f"beta is {beta}; it must be positive")
    if normalizer is not None and not normalizer > 0:
        raise ValueError(f"normalizer is {normalizer}; it must be positive")


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
