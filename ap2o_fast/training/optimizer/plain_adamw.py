"""torch's fused AdamW, for any of the parameters that are left to it.

By its function: its class goes through all parameters at each step and takes every gradient that is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim.adamw import adamw

from ap2o_fast.config import TrainSettings
from ap2o_fast.training.optimizer.parameter import Parameter


def plain_step(
    parameters: Sequence[Parameter], settings: TrainSettings, lr: float, scale: torch.Tensor, bad: torch.Tensor
) -> None:
    """Update the masters by `scale`, 0-d, times their gradients, which are all there; not where `bad`, 0-d, is 1."""
    if not parameters:
        return
    beta1, beta2 = settings.betas
    adamw(
        [parameter.master for parameter in parameters],
        [gradient for parameter in parameters if (gradient := parameter.gradient) is not None],
        [parameter.plain["exp_avg"] for parameter in parameters],
        [parameter.plain["exp_avg_sq"] for parameter in parameters],
        [],
        [parameter.plain["step"] for parameter in parameters],
        fused=True,
        # What torch.amp.GradScaler sets: gradients are divided by the one, and nothing happens if the other is 1.
        grad_scale=(1 / scale).float(),
        found_inf=bad,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=settings.weight_decay,
        eps=settings.eps,
        maximize=False,
    )
