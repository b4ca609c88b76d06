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

import math

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from ap2o_fast.config import TrainSettings
from ap2o_fast.training.optimizer.lean_adamw import make_rates, step, take_turns
from ap2o_fast.training.optimizer.parameter import check_settings, prepare_parameter
from ap2o_fast.training.optimizer.rounding import round_by_chance
from ap2o_fast.training.parallel.sharding import local, shard_rank, whole

_TOGETHER = 32
"""Gradients that are added to their sums at a time: as long their halves stay."""


class Optimizer:
    """AdamW, gradient clipping and schedule over the trainable parameters of a model.

    The learning rate rises linearly over the first ceil(warmup x total_steps) steps, starting at 0, and falls linearly
    to 0, as in transformers' and TRL's trainers.

    Errors: `UsageError` for settings that contradict each other or the model.
    """

    def __init__(self, model: PreTrainedModel, settings: TrainSettings, total_steps: int) -> None:
        self.settings, self.clip = settings, settings.clip
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        check_settings(settings, [parameter for _, parameter in trained])
        self.parameters = [prepare_parameter(name, parameter, settings) for name, parameter in trained]
        # It has the lean ones too, for the schedule, but never sees a gradient of theirs and keeps nothing of them.
        self.adamw = torch.optim.AdamW(
            [parameter.master for parameter in self.parameters],
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        for parameter in self.parameters:
            if parameter.lean is None:
                self.adamw.state[parameter.master] = _moments(parameter.master)
        self._clipping: torch.Tensor | None = None
        self._warmup, self._total = math.ceil(total_steps * settings.warmup), total_steps
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Move the schedule to where `step` updates have been done."""
        self.schedule = LambdaLR(self.adamw, self._share, last_epoch=step - 1)

    def _share(self, step: int) -> float:
        """Of the peak learning rate, after `step` updates."""
        if step < self._warmup:
            return step / self._warmup
        return max(0.0, (self._total - step) / max(1, self._total - self._warmup))

    @property
    def learning_rate(self) -> float:
        """What the next step uses."""
        return float(self.schedule.get_last_lr()[0])

    def collect(self) -> None:
        """Add the model's gradients to the masters', in float32; call after each backward pass."""
        waiting = [p for p in self.parameters if p.master is not p.model and p.model.grad is not None]
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
        """Have the next step scale the gradients to a global norm of at most `clip`.

        Returns: the norm before, a 0-d float32 (of float64 gradients float64) tensor on their device.
        """
        gradients = [p.gradient for p in self.parameters if p.gradient is not None]
        # In float32 whatever they are: torch's own clipping rounds norms of bfloat16 gradients to bfloat16.
        wide = torch.promote_types(gradients[0].dtype, torch.float32)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, dtype=wide)))
        norm = whole(norm)
        self._clipping = (self.clip / (norm + 1e-6)).clamp(max=1.0)
        return norm

    @torch.no_grad()
    def step(self, bad: torch.Tensor | None = None) -> None:
        """Update the weights, advance the schedule and drop the gradients.

        Args:
            bad: 0-d float32 on the device of the gradients; 1 leaves weights and moments as they are. The host does not
                wait for it, so the schedule advances all the same.
        """
        done = self.schedule.last_epoch
        first = next(parameter.model for parameter in self.parameters)
        bad = torch.zeros((), device=first.device) if bad is None else bad
        scale = torch.ones((), device=first.device) if self._clipping is None else self._clipping
        good = bad == 0
        # One seed a step and shard: a resumed run rounds as the uninterrupted one, and replicas of a shard alike.
        chance = None
        if self.settings.rounding == "stochastic":
            chance = torch.Generator(first.device).manual_seed(done + 1 + (shard_rank(first) << 32))
        self._lean_step(make_rates(self.learning_rate, self.settings, done + 1), scale.float(), good, chance)
        self._torch_step(scale, bad)
        self.schedule.step()
        halves = [p for p in self.parameters if p.lean is None and p.master is not p.model]
        round_by_chance([local(p.master) for p in halves], [local(p.model) for p in halves], chance, good)
        self.zero_grad()

    def _lean_step(
        self, rates: torch.Tensor, scale: torch.Tensor, good: torch.Tensor, chance: torch.Generator | None
    ) -> None:
        rates = rates.to(scale.device, non_blocking=True)
        with take_turns(scale.device, away=self.settings.offload_optimizer) as turn:
            for parameter in self.parameters:
                if parameter.lean is not None and parameter.gradient is not None:
                    step(parameter.lean, parameter.gradient, rates, scale, good, chance, turn)
        for parameter in self.parameters:
            if parameter.lean is not None:
                parameter.drop()

    def _torch_step(self, scale: torch.Tensor, bad: torch.Tensor) -> None:
        for parameter in self.parameters:
            if parameter.lean is None:
                parameter.master.grad = parameter.gradient
        # What torch.amp.GradScaler sets: gradients are divided by the one, and nothing happens if the other is 1.
        self.adamw.grad_scale = (1 / scale).float()  # type: ignore[attr-defined]
        self.adamw.found_inf = bad  # type: ignore[attr-defined]
        self.adamw.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._clipping = None
        for parameter in self.parameters:
            parameter.drop()

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
                states |= self.adamw.state[parameter.master]
            else:
                shape = local(parameter.model).shape
                for moment, state in (("exp_avg", parameter.lean.first), ("exp_avg_sq", parameter.lean.second)):
                    states |= {moment: state.values.view(shape), f"{moment}_scale": state.scales_by_row(shape)}
            found |= {f"{key}.{parameter.name}": state for key, state in states.items() if state is not None}
        return found


def _moments(master: torch.Tensor) -> dict[str, torch.Tensor]:
    """What torch's AdamW would make in its first step: then a checkpoint of step 0 is like any other."""
    step = torch.zeros((), dtype=torch.float32, device=master.device)
    return {"step": step, "exp_avg": torch.zeros_like(master), "exp_avg_sq": torch.zeros_like(master)}
