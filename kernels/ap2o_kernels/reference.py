"""The head in plain PyTorch: dense logits, gradients by autograd. Slow, large and easy to believe.

Shapes: R rows, D hidden, V vocabulary, A answers, P pairs. Half precision is computed in float32, float64 stays.
"""

from __future__ import annotations

import torch

from ap2o_kernels.losses import pair_losses


def linear_logp(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """log softmax(hidden @ weight.T + bias)[targets].

    Returns: (R,) float32 (float64 for float64 inputs), differentiable.
    """
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
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
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of pair losses over `normalizer` (default P).

    Returns: loss (), differentiable; logps (A,) detached.
    """
    lengths = cu_rows.diff()
    answers = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    rows = linear_logp(hidden, weight, targets, bias=bias)
    logps = rows.new_zeros(len(lengths)).index_add(0, answers, rows)
    losses = pair_losses(
        logps, ref_logps, lengths, pairs, beta=beta, loss_type=loss_type, label_smoothing=label_smoothing
    )
    if pair_weights is not None:
        losses = losses * pair_weights.to(losses.dtype)
    count = len(pairs) if normalizer is None else normalizer
    return losses.sum() / max(count, 1), logps.detach()
