"""Pair losses on per-answer log-probabilities. Shapes: A answers, P pairs.

Definitions are those of TRL's DPOTrainer (1.16), so that figures can be compared.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

LOSS_TYPES = ("sigmoid", "ipo", "hinge")


def pair_losses(
    logps: torch.Tensor,
    ref_logps: torch.Tensor,
    lengths: torch.Tensor,
    pairs: torch.Tensor,
    *,
    beta: float,
    loss_type: str,
    label_smoothing: float,
) -> torch.Tensor:
    """Loss of each pair, before weights and normalisation.

    * ``sigmoid``: DPO (Rafailov et al. 2023, Eq. 7); with `label_smoothing` ε the conservative DPO of Mitchell 2023,
      -(1-ε) log σ(βδ) - ε log σ(-βδ), δ the difference of the log-ratios.
    * ``hinge``: SLiC (Zhao et al. 2023), max(0, 1 - βδ).
    * ``ipo``: Azar et al. 2023, Eq. 17, (δ' - 1/(2β))², δ' from log-ratios averaged over an answer's tokens.

    Args:
        logps, ref_logps: (A,) summed log-probabilities under the policy and the reference.
        lengths: (A,) tokens of each answer.
        pairs: (P, 2) int64 (chosen, rejected).

    Returns: (P,) in the dtype of `logps`, differentiable in `logps`.
    """
    ratios = logps - ref_logps.to(logps.dtype)
    if loss_type == "ipo":
        ratios = ratios / lengths.clamp(min=1).to(logps.dtype)
    delta = ratios[pairs[:, 0]] - ratios[pairs[:, 1]]
    if loss_type == "sigmoid":
        kept = -F.logsigmoid(beta * delta)
        if label_smoothing == 0.0:
            return kept
        return (1 - label_smoothing) * kept - label_smoothing * F.logsigmoid(-beta * delta)
    if loss_type == "hinge":
        return torch.relu(1 - beta * delta)
    return (delta - 1 / (2 * beta)).square()
