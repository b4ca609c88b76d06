"""The head in plain PyTorch: dense logits, gradients by autograd. Slow, large and easy to believe.

The signatures are those of the package's functions, so that one can stand in for the other; `impl` and `chunk_rows`
leave no choice here. Shapes: R rows, D hidden, V vocabulary, A answers, P pairs. Half precision is computed in float32,
float64 stays.
"""

from __future__ import annotations

import torch

from ap2o_kernels.arguments import check_head, check_pairs
from ap2o_kernels.losses import PairLoss, pair_losses
from ap2o_kernels.output import DpoOutput
from ap2o_kernels.products import sum_dtype


def linear_logp(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    chunk_rows: int | None = None,
) -> torch.Tensor:
    """log softmax(hidden @ weight.T + bias)[targets].

    Returns: (R,) float32 (float64 for float64 inputs), differentiable.
    """
    _no_choice(impl, chunk_rows)
    check_head(hidden, weight, targets, bias)
    dtype = sum_dtype(hidden.dtype)
    logits = hidden.to(dtype) @ weight.to(dtype).T
    if bias is not None:
        logits = logits + bias.to(dtype)
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


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
    sft_weight: float = 0.0,
    length_normalized: bool = False,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    chunk_rows: int | None = None,
) -> DpoOutput:
    """Weighted sum of pair losses over `normalizer` (default P); any number of times differentiable."""
    _no_choice(impl, chunk_rows)
    loss = PairLoss(
        loss_type=loss_type,
        beta=beta,
        label_smoothing=label_smoothing,
        sft_weight=sft_weight,
        length_normalized=length_normalized,
    )
    check_pairs(hidden, cu_rows, pairs, ref_logps, pair_weights, normalizer)
    row_logps = linear_logp(hidden, weight, targets, bias=bias)
    pairs, lengths = pairs.to(hidden.device), cu_rows.diff().to(hidden.device)
    answers = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    logps = row_logps.new_zeros(len(lengths)).index_add(0, answers, row_logps)
    losses = pair_losses(loss, logps, ref_logps, lengths, pairs)
    if pair_weights is not None:
        losses = losses * pair_weights.to(losses.dtype)
    return DpoOutput(losses.sum() / (max(len(pairs), 1) if normalizer is None else normalizer), logps.detach())


def _no_choice(impl: str, chunk_rows: int | None) -> None:
    if impl not in ("auto", "reference") or chunk_rows is not None:
        raise ValueError(
            f"the reference has one implementation and no chunks; got impl {impl!r}, chunk_rows {chunk_rows}"
        )
