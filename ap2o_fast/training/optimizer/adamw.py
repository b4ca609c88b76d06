"""AdamW with a linear schedule, and what keeps half-precision weights moving.

At the paper's learning rate (5e-7) a step is far below half a unit in the last place of a bfloat16 weight: updated in
place and rounded to the nearest it would never move. By default float32 masters take the updates and the model gets
their rounded values. To the nearest, most weights still stay where they are until hundreds of steps have added up to
that half; rounded up or down by chance, the model is on average where its masters are from the first step on. So
`train.masters=false` can do without them: bfloat16 weights are updated in float32 and rounded by chance in place.

Gradients of weights with masters are added up in float32 over the forward passes of a step. Without masters they stay
in the model's precision, where autograd adds them up: on a small model sums over 3 and 7 passes differed from float32
ones by 0.2 and 0.4 % of their norm, where computing in bfloat16 had put them 1.2 % away from float32 to begin with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from ap2o_fast.config import TrainSettings
from ap2o_fast.training.optimizer.lean_adamw import make_rates, step, take_turns
from ap2o_fast.training.optimizer.parameter import Parameter, check_settings, prepare_parameter
from ap2o_fast.training.optimizer.plain_adamw import plain_step
from ap2o_fast.training.optimizer.rounding import round_by_chance
from ap2o_fast.training.optimizer.schedule import Schedule
from ap2o_fast.training.parallel.sharding import local, shard_rank, whole

_TOGETHER = 32
"""Gradients that are added to their sums at a time: as long their halves stay."""


class Optimizer:
    """AdamW, gradient clipping and schedule over the trainable parameters of a model.

    Attributes:
        done: updates so far, by which the schedule goes.

    Errors: `UsageError` for settings that contradict each other or the model.
    """

    def __init__(self, model: PreTrainedModel, settings: TrainSettings, total_steps: int) -> None:
        self.settings = settings
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        check_settings(settings, [parameter for _, parameter in trained])
        self.parameters = [prepare_parameter(name, parameter, settings) for name, parameter in trained]
        self._clipping: torch.Tensor | None = None
        self.schedule = Schedule.of(settings, total_steps)
        self.done = 0

    @property
    def learning_rate(self) -> float:
        """What the next step uses."""
        return self.settings.lr * self.schedule.share(self.done)

    def collect(self, parameters: Sequence[Parameter] | None = None) -> None:
        """Add the model's gradients to the masters', in float32; call after each backward pass.

        Args:
            parameters: some of them; all by default.
        """
        some = self.parameters if parameters is None else parameters
        waiting = [p for p in some if p.master is not p.model and p.model.grad is not None]
        # A launch for many: some for each took the host longer than a small model's forward pass.
        for start in range(0, len(waiting), _TOGETHER):
            new: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
            more: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
            for parameter in waiting[start : start + _TOGETHER]:
                gradient = parameter.model.grad
                assert gradient is not None
                sums, gradients = new if parameter.sum is None else more
                if parameter.sum is None:
                    parameter.sum = torch.empty_like(gradient, dtype=torch.float32)
                sums.append(local(parameter.sum))
                gradients.append(local(gradient))
                parameter.model.grad = None
            for into, pair in ((torch._foreach_copy_, new), (torch._foreach_add_, more)):
                if pair[0]:
                    into(*pair)

    def clip_gradients(self) -> torch.Tensor:
        """Have the next step scale the gradients to a global norm of at most `clip`, where that is not 0.

        Returns: the norm before, a 0-d float32 (of float64 gradients float64) tensor on their device; of released
        gradients too.
        """
        self.measure(self.parameters)
        norm = whole(torch.linalg.vector_norm(torch.stack([p.norm for p in self.parameters if p.norm is not None])))
        if self.settings.clip:
            self._clipping = (self.settings.clip / (norm + 1e-6)).clamp(max=1.0)
        return norm

    def measure(self, parameters: Sequence[Parameter]) -> None:
        """Note the norm of each gradient that is there."""
        waiting = [parameter for parameter in parameters if parameter.gradient is not None]
        gradients = [gradient for parameter in waiting if (gradient := parameter.gradient) is not None]
        if not gradients:
            return
        # In float32 whatever they are: torch's own clipping rounds norms of bfloat16 gradients to bfloat16.
        wide = torch.promote_types(gradients[0].dtype, torch.float32)
        for parameter, norm in zip(waiting, torch._foreach_norm(gradients, 2, dtype=wide), strict=True):
            parameter.norm = norm

    @torch.no_grad()
    def step(self, bad: torch.Tensor | None = None) -> None:
        """Update the weights that have a gradient, advance the schedule and drop the gradients.

        Args:
            bad: 0-d float32 on the device of the gradients; 1 leaves weights and moments as they are. The host does not
                wait for it, so the schedule advances all the same.
        """
        first = next(parameter.model for parameter in self.parameters)
        bad = torch.zeros((), device=first.device) if bad is None else bad
        # One seed a step and shard: a resumed run rounds as the uninterrupted one, and replicas of a shard alike.
        chance = self.chance(self.done + 1 + (shard_rank(first) << 32))
        self.update(self.parameters, self.rates(), bad, chance)
        self.done += 1
        self.zero_grad()

    def rates(self) -> torch.Tensor:
        """What `lean_adamw.step` multiplies with in this step, on the weights' device."""
        rates = make_rates(self.learning_rate, self.settings, self.done + 1)
        return rates.to(self.parameters[0].model.device, non_blocking=True)

    def chance(self, seed: int) -> torch.Generator | None:
        """What weights are rounded by; None to the nearest."""
        if self.settings.rounding == "nearest":
            return None
        return torch.Generator(self.parameters[0].model.device).manual_seed(seed)

    @torch.no_grad()
    def update(
        self,
        parameters: Sequence[Parameter],
        rates: torch.Tensor,
        bad: torch.Tensor,
        chance: torch.Generator | None,
    ) -> None:
        """Update those of the parameters that have a gradient, which is dropped; the schedule stays where it is."""
        scale = torch.ones((), device=bad.device) if self._clipping is None else self._clipping
        good, there = bad == 0, [parameter for parameter in parameters if parameter.gradient is not None]
        with take_turns(scale.device, away=self.settings.offload_optimizer) as turn:
            for parameter in there:
                if parameter.lean is not None and parameter.gradient is not None:
                    step(parameter.lean, parameter.gradient, rates, scale.float(), good, chance, turn)
        for parameter in there:
            if parameter.lean is not None:
                parameter.drop()
        rest = [parameter for parameter in there if parameter.lean is None]
        plain_step(rest, self.settings, self.learning_rate, scale, bad)
        halves = [parameter for parameter in rest if parameter.master is not parameter.model]
        round_by_chance([local(p.master) for p in halves], [local(p.model) for p in halves], chance, good)
        for parameter in rest:
            parameter.drop()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._clipping = None
        for parameter in self.parameters:
            parameter.drop()
            parameter.norm = None

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Everything of the optimiser that a checkpoint needs but the schedule, by name, with its memory shared.

        A parameter's `master.`, `exp_avg.` and `exp_avg_sq.` have its shape (its shard's where it is sharded), the
        8-bit ones a scale for each block in `exp_avg_scale.` and `exp_avg_sq_scale.`, by its rows where a row is whole
        blocks; `step.` counts updates.
        """
        if self.settings.offload_optimizer and torch.cuda.is_available():
            torch.cuda.synchronize()  # what a step sends to host memory may still be on its way
        found: dict[str, torch.Tensor] = {}
        for parameter in self.parameters:
            states: dict[str, torch.Tensor | None] = {}
            if parameter.master is not parameter.model:
                states["master"] = parameter.master.detach()
            if parameter.lean is None:
                states |= parameter.plain
            else:
                shape = local(parameter.model).shape
                for moment, state in (("exp_avg", parameter.lean.first), ("exp_avg_sq", parameter.lean.second)):
                    states |= {moment: state.values.view(shape), f"{moment}_scale": state.scales_by_row(shape)}
            found |= {f"{key}.{parameter.name}": state for key, state in states.items() if state is not None}
        return found
