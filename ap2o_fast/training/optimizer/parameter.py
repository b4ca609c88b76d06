"""What is trained: parameters of the model, with masters, moments and gradients as the settings want them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ap2o_fast.config import TrainSettings, check_train
from ap2o_fast.errors import UsageError
from ap2o_fast.training.optimizer.lean_adamw import Lean, can_be_lean, make_lean
from ap2o_fast.training.parallel.sharding import local


@dataclass
class Parameter:
    """A trainable parameter of the model.

    Attributes:
        name: in the model.
        model: the model's parameter.
        master: the tensor that is optimised: `model` itself, or its float32 master, which may be in host memory.
        sum: of the model's gradients over the step's forward passes so far, in float32, where there is a master.
        lean: set where `lean_adamw` updates it, None where torch's AdamW does.
        plain: moments and count of torch's AdamW; empty where it does not.
        norm: of the step's gradient, 0-d, where it was measured; it stays when the gradient is dropped.
    """

    name: str
    model: torch.nn.Parameter
    master: torch.nn.Parameter
    lean: Lean | None
    plain: dict[str, torch.Tensor]
    norm: torch.Tensor | None = field(default=None, repr=False)
    sum: torch.Tensor | None = field(default=None, repr=False)

    @property
    def gradient(self) -> torch.Tensor | None:
        """What is to be applied, on the model's device: float32, or the model's own where there is no master."""
        return self.model.grad if self.master is self.model else self.sum

    def drop(self) -> None:
        """Forget all gradients."""
        self.model.grad = self.sum = None


def prepare_parameter(name: str, parameter: torch.nn.Parameter, settings: TrainSettings) -> Parameter:
    """A parameter of the model, trained as `settings` say."""
    wanted = settings.optimizer == "adamw_8bit" or settings.offload_optimizer or not settings.masters
    lean = wanted and can_be_lean(parameter)
    master = parameter
    # A small parameter's master costs nothing.
    if parameter.dtype == torch.bfloat16 and (settings.masters or not lean):
        master = torch.nn.Parameter(parameter.detach().float())
        if lean and settings.offload_optimizer:
            host = local(master.detach()).cpu()
            master = torch.nn.Parameter(host.pin_memory() if parameter.is_cuda else host)
    state = make_lean(master, parameter, settings) if lean else None
    return Parameter(name, parameter, master, state, {} if lean else _moments(master))


def check_settings(settings: TrainSettings, parameters: list[torch.nn.Parameter]) -> None:
    """Errors: `UsageError` for settings that contradict each other or what is trained."""
    check_train(settings)
    dtypes = {parameter.dtype for parameter in parameters}
    if not settings.masters and torch.bfloat16 not in dtypes:
        raise UsageError(
            "train.masters = false: none of the trained weights is half precision, so none has a master",
            do="set model.dtype=bfloat16, or leave train.masters at its default",
        )
    if not settings.masters and settings.rounding == "nearest":
        raise UsageError(
            "train.masters = false cannot be used with train.rounding = 'nearest'",
            why="a step is far below half a unit in the last place of a bfloat16 weight: it would never move",
            do="set train.rounding=stochastic, or train.masters=true",
        )
    if torch.float64 in dtypes and (settings.optimizer == "adamw_8bit" or settings.offload_optimizer):
        raise UsageError(
            "train.optimizer = 'adamw_8bit' and train.offload_optimizer compute in float32, the model is float64",
            do="set model.dtype=float32, or leave both at their defaults",
        )


def _moments(master: torch.Tensor) -> dict[str, torch.Tensor]:
    """What torch's AdamW keeps of a parameter, at zero; `step` counts updates."""
    step = torch.zeros((), dtype=torch.float32, device=master.device)
    return {"step": step, "exp_avg": torch.zeros_like(master), "exp_avg_sq": torch.zeros_like(master)}
