"""What the preference loss returns."""

from __future__ import annotations

from typing import NamedTuple

import torch


class DpoOutput(NamedTuple):
    """`loss` (), differentiable; `logps` (A,) summed log-probability of each answer, without gradient.

    Both are float32, or float64 for float64 inputs.
    """

    loss: torch.Tensor
    logps: torch.Tensor
