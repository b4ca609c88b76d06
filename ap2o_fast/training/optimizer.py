"""AdamW with a linear schedule, and float32 master weights where the model's are half precision.

At the paper's learning rate (5e-7) a step is far below half a unit in the last place of a bfloat16 weight: updated in
place it would never move. Masters take the updates and the model gets their rounded values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from ap2o_fast.config import TrainSettings


@dataclass
class Parameter:
    """A trainable parameter of the model and the tensor that is optimised: itself, or its float32 master."""

    name: str
    model: torch.nn.Parameter
    master: torch.nn.Parameter


class Optimizer:
    """AdamW, gradient clipping and schedule over the trainable parameters of a model.

    The learning rate rises linearly over the first ceil(warmup x total_steps) steps, starting at 0, and falls linearly
    to 0, as in transformers' and TRL's trainers.
    """

    def __init__(self, model: PreTrainedModel, settings: TrainSettings, total_steps: int) -> None:
        self.clip = settings.clip
        self.parameters = [
            Parameter(name, parameter, _master(parameter))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        self.adamw = torch.optim.AdamW(
            [parameter.master for parameter in self.parameters],
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._warmup, self._total = math.ceil(total_steps * settings.warmup), total_steps
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Move the schedule to where `step` updates have been done."""
        self.schedule = get_linear_schedule_with_warmup(self.adamw, self._warmup, self._total, last_epoch=step - 1)

    @property
    def learning_rate(self) -> float:
        """What the next step uses."""
        return float(self.schedule.get_last_lr()[0])

    def collect(self) -> None:
        """Add the model's gradients to the masters', in float32; call after each backward pass."""
        for parameter in self.parameters:
            if parameter.master is parameter.model or parameter.model.grad is None:
                continue
            if parameter.master.grad is None:
                parameter.master.grad = parameter.model.grad.float()
            else:
                parameter.master.grad += parameter.model.grad
            parameter.model.grad = None

    def clip_gradients(self) -> torch.Tensor:
        """Scale the gradients to a global norm of at most `clip`. Returns the norm before, a 0-d tensor."""
        return torch.nn.utils.clip_grad_norm_([p.master for p in self.parameters], self.clip)

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights, advance the schedule and drop the gradients."""
        self.adamw.step()
        self.schedule.step()
        for parameter in self.parameters:
            if parameter.master is not parameter.model:
                parameter.model.copy_(parameter.master)
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.master.grad = parameter.model.grad = None


def _master(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return torch.nn.Parameter(parameter.detach().float())
