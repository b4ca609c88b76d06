"""AdamW with a linear schedule, and float32 master weights where the model's are half precision.

At the paper's learning rate (5e-7) a step is far below half a unit in the last place of a bfloat16 weight: updated in
place it would never move. Masters take the updates and the model gets their rounded values. To the nearest, most
weights still stay where they are until hundreds of steps have added up to that half; rounded up or down by chance, the
model is on average where its masters are from the first step on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from ap2o_fast.config import TrainSettings

_SLICE = 1 << 24
"""Weights that are rounded at a time: what it needs beside them stays small."""


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
        self._rounding = settings.rounding
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
    def step(self, bad: torch.Tensor | None = None) -> None:
        """Update the weights, advance the schedule and drop the gradients.

        Args:
            bad: 0-d float32 on the weights' device; where it is 1 masters and moments stay as they are.
        """
        self.adamw.found_inf = bad  # type: ignore[attr-defined]
        self.adamw.step()
        self.schedule.step()
        halves = [parameter for parameter in self.parameters if parameter.master is not parameter.model]
        if self._rounding == "stochastic" and halves:
            # One seed a step: a resumed run rounds as the uninterrupted one.
            chance = torch.Generator(halves[0].master.device).manual_seed(self.schedule.last_epoch)
            for parameter in halves:
                round_by_chance(parameter.master, parameter.model, chance)
        else:
            for parameter in halves:
                parameter.model.copy_(parameter.master)
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.master.grad = parameter.model.grad = None


@torch.no_grad()
def round_by_chance(values: torch.Tensor, out: torch.Tensor, chance: torch.Generator) -> None:
    """Fill `out`, bfloat16, with `values`, finite float32: each rounded up or down so that its mean is itself.

    A value that bfloat16 holds stays as it is. Both contiguous, of one shape, on the generator's device.
    """
    for source, target in zip(values.view(-1).split(_SLICE), out.view(-1).split(_SLICE), strict=True):
        # The upper half of a float32's bits is a bfloat16; what carries from the lower half is a step of its last bit.
        bits = torch.randint(1 << 16, source.shape, dtype=torch.int32, device=source.device, generator=chance)
        bits += source.view(torch.int32)
        target.copy_(bits.bitwise_and_(-1 << 16).view(torch.float32))


def _master(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return torch.nn.Parameter(parameter.detach().float())
