"""One optimiser step: forward and backward of each packed batch, clip, update. The host never waits for the device.

A step is launched and its metrics are read when the next one is under way. What must not reach the weights, a loss or
gradient that is not finite, is therefore kept from them on the device, in that step and all after it, and told at the
reading.
"""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.errors import NumericalError, UsageError
from ap2o_fast.training.checks import check_engine, check_step, damaged, not_finite
from ap2o_fast.training.deterministic import deterministic
from ap2o_fast.training.memory.activation_offload import offload_activations
from ap2o_fast.training.models.adapters import is_adapted
from ap2o_fast.training.models.compiled import compile_blocks
from ap2o_fast.training.models.save import model_hash
from ap2o_fast.training.objective import dpo_step_loss
from ap2o_fast.training.optimizer.adamw import Optimizer
from ap2o_fast.training.optimizer.release import released
from ap2o_fast.training.packing.batch import PackedBatch, PackedStep
from ap2o_fast.training.packing.flops import Cost, peak_flops
from ap2o_fast.training.packing.pack import Book, pack_ahead, pack_step
from ap2o_fast.training.parallel.distributed import ALONE, World, any_rank, max_over_ranks, sum_over_ranks
from ap2o_fast.training.profile import StepProfiler
from ap2o_fast.training.standstill import Standstill
from ap2o_kernels.losses import PairLoss

_log = logging.getLogger(__name__)

# Before the first update policy and reference are one model, so every reward is 0 up to rounding.
_REWARD_TOLERANCE = {torch.float64: 1e-3, torch.float32: 5e-3, torch.bfloat16: 0.25}


class Engine:
    """Owns the model, its optimiser and the step counter.

    Attributes:
        damaged: whether a step has changed some of the weights and not the others.

    Args:
        model: as `load_model` or `prepare_model` returns it.
        total_steps: length of the learning-rate schedule; steps beyond it have a learning rate of 0.
        profiles: folder for the traces of `train.profile_steps`.
        world: the processes that train together, each with an engine of its shards and the same arguments everywhere.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        train: TrainSettings,
        loss: LossSettings,
        total_steps: int,
        profiles: Path = Path("profiles"),
        world: World = ALONE,
    ) -> None:
        check_engine(model, train, world)
        if train.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if train.compile:
            compile_blocks(model)
        self.profiler = StepProfiler(train.profile_steps, profiles)
        if train.activation_offload:
            offload_activations(model)
        self.model = model
        self.train = train
        self.loss = loss
        self.world = world
        self.total_steps = total_steps
        self.optimizer = Optimizer(model, train, total_steps)
        self._standstill = Standstill(self.optimizer.schedule.warmup, loss.beta)
        self.cost = Cost.of(model)
        self.step = 0
        self.damaged = self._updating = False
        self._bad = torch.zeros((), device=model.device)
        self.peak_flops = world.size * (peak_flops(model.device) or 0.0)

    @cached_property
    def frozen(self) -> str:
        """Hash of the weights beside which adapters are trained; empty where there are no adapters."""
        return model_hash(self.model) if is_adapted(self.model) else ""

    def train_step(self, pairs: PairPlan, book: Book, ref_logps: npt.NDArray[np.floating]) -> dict[str, float]:
        """Update the model on all of `pairs` and wait for it; the loss is their mean, however many passes they take.

        Args:
            ref_logps: (N,) reference log-probabilities by row id.

        Returns: metrics of the step, see `Launched.read`.
        Errors: as `launch` and `Launched.read`; `DataError` as `pack`.
        """
        if len(pairs) == 0:
            raise UsageError("a training step needs at least one pair", do="leave out empty steps")
        return self.launch(pack_step(book, pairs, ref_logps, self.train.token_budget, self.cost, self.world)).read()

    def train_steps(
        self,
        plans: Iterable[PairPlan],
        book: Book,
        ref_logps: npt.NDArray[np.floating],
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[dict[str, float]]:
        """One update a plan; batches are packed ahead and metrics come one step late. Rewards that do not move are one
        warning.

        Args:
            stop: asked before each step; once it says yes no other is begun, and what is under way is still told.

        Returns: metrics of each step, in order; `step` of the engine may be one further than those of the last told.
        Errors: as `train_step`.
        """
        pin = self.model.device.type == "cuda"
        before: Launched | None = None
        for packed in pack_ahead(book, plans, ref_logps, self.train.token_budget, self.cost, self.world, pin=pin):
            if any_rank(stop(), self.world):
                break
            launched = self.launch(packed)
            if before is not None:
                yield self._told(before)
            before = launched
        if before is not None:
            yield self._told(before)

    def _told(self, launched: Launched) -> dict[str, float]:
        metrics = launched.read()
        if (said := self._standstill.see(metrics)) and self.world.rank == 0:
            _log.warning("%s", said)
        return metrics

    def launch(self, packed: PackedStep) -> Launched:
        """Begin an update on a packed step; on the CPU it is done on return, on a GPU it need not be.

        Errors: `NumericalError` for reference log-probabilities that the untrained model does not reproduce, and
        `UsageError` for a step of several passes where gradients are released; nothing is changed then.
        `NumericalError` for an engine whose weights are `damaged`.
        """
        self.check_intact()
        check_step(self.train, packed, self.step + 1)
        with self.profiler.step(self.step + 1), deterministic(self.train.deterministic, self.model.device):
            return self._launch(packed)

    def _launch(self, packed: PackedStep) -> Launched:
        clock = _Clock(self.model.device)
        sums: dict[str, torch.Tensor] = {}
        try:
            for host_batch in packed.batches:
                for name, share in self._accumulate(host_batch.to(self.model.device), packed.pairs).items():
                    sums[name] = sums[name] + share if name in sums else share
            norm = self.optimizer.clip_gradients()
        except BaseException:
            self.optimizer.zero_grad()
            self.damaged = self._updating
            raise
        values = sum_over_ranks(torch.stack([value.double() for value in sums.values()]), self.world)
        values = torch.cat([values, norm.double()[None]])
        self._note(torch.isfinite(values[[*sums].index("loss")]) & torch.isfinite(norm))
        learning_rate = self.optimizer.learning_rate
        self.optimizer.step(self._bad)
        self._updating = False
        self.step += 1
        return Launched(
            engine=self,
            step=self.step,
            packed=packed,
            learning_rate=learning_rate,
            names=(*sums, "grad_norm"),
            values=values.to("cpu", non_blocking=True),
            clock=clock.stop(),
        )

    def _accumulate(self, batch: PackedBatch, pairs: int) -> dict[str, torch.Tensor]:
        output, metrics = dpo_step_loss(
            self.model, batch, settings=self.loss, normalizer=pairs, chunk_rows=self.train.chunk_rows or None
        )
        if self.step == 0 and self.loss.compares:
            self._check_reference(output.logps, batch)
        updates: AbstractContextManager[None] = nullcontext()
        if self.train.gradient_release:
            self._note(torch.isfinite(output.loss.detach()))
            self._updating, updates = True, released(self.optimizer, self._bad)
        with updates:
            output.loss.backward()
        self.optimizer.collect()
        return metrics

    def _note(self, fine: torch.Tensor) -> None:
        """Where this 0-d boolean is False, change no weight from now on."""
        torch.maximum(self._bad, (~fine).float(), out=self._bad)

    def _check_reference(self, logps: torch.Tensor, batch: PackedBatch) -> None:
        ratios = (logps - batch.ref_logps).abs()
        if PairLoss(**self.loss.options()).per_token:  # what the loss sees, and its beta is made for
            ratios = ratios / batch.cu_rows.diff().clamp(min=1).to(ratios.device)
        largest = torch.cat([ratios, ratios.new_zeros(1)]).amax()
        drift = float(max_over_ranks(largest.nan_to_num(nan=math.inf), self.world)) * self.loss.beta
        tolerance = _REWARD_TOLERANCE[self.model.dtype]
        if not drift <= tolerance:
            raise NumericalError(
                f"step 1: rewards of the untrained model reach {drift:.3g}, not 0 (tolerance {tolerance}), so its loss"
                " is not that of equal models (ln 2 in DPO)",
                why="the reference log-probabilities come from another model, other weights or another precision",
                do="score the book again with the model that training starts from",
            )

    def stand_at(self, step: int) -> None:
        """Go on from after `step`, with the weights and optimiser state of that step in place."""
        self.optimizer.zero_grad()
        self.optimizer.done = self.step = step
        self.damaged = self._updating = False
        self._bad.zero_()

    def check_intact(self) -> None:
        """Errors: `NumericalError` where a step changed some of the weights and not the others."""
        if self.damaged:
            raise damaged()


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A step that may still be running."""

    engine: Engine
    step: int
    packed: PackedStep
    learning_rate: float
    names: tuple[str, ...]
    values: torch.Tensor
    clock: _Clock

    def read(self) -> dict[str, float]:
        """Wait for the step.

        Returns: loss, rewards/*, logps/* (means over pairs, as far as `pair_sums` has them), grad_norm (before
        clipping), learning_rate, pairs, tokens (packed), answer_tokens, packing_efficiency, forward_passes, seconds,
        tflops (10^12 operations of matrix products a second; recomputation does not count), mfu (their share of the
        device's peak, where that is known), peak_mib (of the device; on the CPU of the process since its start), step
        (counted from 1).
        Errors: `NumericalError` for a loss or gradient that is not finite. The weights are as before the step then,
        but where gradients are released and one is not finite: the engine is `damaged`.
        """
        seconds = self.clock.seconds()
        found = dict(zip(self.names, self.values.tolist(), strict=True))
        for name in ("loss", "grad_norm"):
            if not math.isfinite(found[name]):
                self.engine.stand_at(self.step - 1)
                self.engine.damaged = name == "grad_norm" and self.engine.train.gradient_release
                raise not_finite(
                    self.step, name.replace("grad_", "gradient "), found[name], in_part=self.engine.damaged
                )
        rate = self.packed.flops / seconds
        peak = self.engine.peak_flops
        return (
            found
            | {
                "learning_rate": self.learning_rate,
                "pairs": self.packed.pairs,
                "tokens": self.packed.tokens,
                "answer_tokens": self.packed.answer_tokens,
                "packing_efficiency": self.packed.efficiency,
                "forward_passes": len(self.packed.batches),
                "seconds": seconds,
                "tflops": rate / 1e12,
                "peak_mib": _peak_mib(self.engine.model.device),
                "step": self.step,
            }
            | ({"mfu": rate / peak} if peak else {})
        )


class _Clock:
    """Seconds from its making to `stop`, on a GPU between the work queued at the two."""

    def __init__(self, device: torch.device) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self._times = [time.perf_counter()]
        if self._events:
            self._events[0].record()

    def stop(self) -> _Clock:
        self._times.append(time.perf_counter())
        if self._events:
            self._events[1].record()
        return self

    def seconds(self) -> float:
        """Waits until the stop is reached."""
        if not self._events:
            return self._times[1] - self._times[0]
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1e3


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
