"""One optimiser step: pack, forward and backward each batch, clip, update."""

from __future__ import annotations

import math
import resource
import time

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.errors import NumericalError, UsageError
from ap2o_fast.training.batch import PackedBatch
from ap2o_fast.training.objective import dpo_step_loss
from ap2o_fast.training.optimizer import Optimizer
from ap2o_fast.training.packing import Book, pack, packing_efficiency
from ap2o_kernels.losses import PairLoss

# Before the first update policy and reference are one model, so every reward is 0 up to rounding.
_REWARD_TOLERANCE = {torch.float64: 1e-3, torch.float32: 5e-3, torch.bfloat16: 0.25}


class Trainer:
    """Owns the model, its optimiser and the step counter.

    Args:
        model: as `load_model` or `prepare_model` returns it.
        total_steps: length of the learning-rate schedule; steps beyond it have a learning rate of 0.
    """

    def __init__(self, model: PreTrainedModel, *, train: TrainSettings, loss: LossSettings, total_steps: int) -> None:
        if train.gradient_checkpointing:
            _check_no_dropout(model)
            model.gradient_checkpointing_enable()
        self.model = model
        self.train = train
        self.loss = loss
        self.total_steps = total_steps
        self.optimizer = Optimizer(model, train, total_steps)
        self.step = 0

    def train_step(self, pairs: PairPlan, book: Book, ref_logps: npt.NDArray[np.floating]) -> dict[str, float]:
        """Update the model on all of `pairs`; the loss is their mean, however many forward passes they take.

        Args:
            ref_logps: (N,) reference log-probabilities by row id.

        Returns: metrics of the step: loss, rewards/*, logps/* (means over pairs), grad_norm (before clipping),
        learning_rate, pairs, tokens (packed), packing_efficiency, forward_passes, seconds, peak_mib (of the device;
        on the CPU of the process since its start), step (counted from 1).
        Errors: `NumericalError` for a loss or gradient that is not finite, or for reference log-probabilities that the
        untrained model does not reproduce; the weights are as before then. `DataError` as `pack`.
        """
        if len(pairs) == 0:
            raise UsageError("a training step needs at least one pair")
        start = time.perf_counter()
        device = self.model.device
        batches = pack(book, pairs, ref_logps, self.train.token_budget)
        sums: dict[str, torch.Tensor] = {}
        try:
            for host_batch in batches:
                for name, share in self._accumulate(host_batch.to(device), len(pairs)).items():
                    sums[name] = sums[name] + share if name in sums else share
            sums["grad_norm"] = self.optimizer.clip_gradients()
            # The one place of a step where the host waits for the device.
            found = dict(zip(sums, torch.stack([value.double() for value in sums.values()]).tolist(), strict=True))
            for name in ("loss", "grad_norm"):
                if not math.isfinite(found[name]):
                    raise self._not_finite(name.replace("grad_", "gradient "), found[name])
        except BaseException:
            self.optimizer.zero_grad()
            raise
        learning_rate = self.optimizer.learning_rate
        self.optimizer.step()
        self.step += 1
        return found | {
            "learning_rate": learning_rate,
            "pairs": len(pairs),
            "tokens": sum(len(batch.input_ids) for batch in batches),
            "packing_efficiency": packing_efficiency(book, pairs, batches),
            "forward_passes": len(batches),
            "seconds": time.perf_counter() - start,
            "peak_mib": _peak_mib(device),
            "step": self.step,
        }

    def _accumulate(self, batch: PackedBatch, pairs: int) -> dict[str, torch.Tensor]:
        output, metrics = dpo_step_loss(
            self.model, batch, settings=self.loss, normalizer=pairs, chunk_rows=self.train.chunk_rows or None
        )
        if self.step == 0:
            self._check_reference(output.logps, batch)
        output.loss.backward()
        self.optimizer.collect()
        return metrics

    def _check_reference(self, logps: torch.Tensor, batch: PackedBatch) -> None:
        ratios = (logps - batch.ref_logps).abs()
        if PairLoss(**self.loss.options()).per_token:  # what the loss sees, and its beta is made for
            ratios = ratios / batch.cu_rows.diff().clamp(min=1).to(ratios.device)
        drift = float(ratios.amax()) * self.loss.beta
        tolerance = _REWARD_TOLERANCE[self.model.dtype]
        if not drift <= tolerance:
            raise NumericalError(
                f"step 1: rewards of the untrained model reach {drift:.3g}, not 0 (tolerance {tolerance}), so its loss"
                " is not that of equal models (ln 2 in DPO)",
                why="the reference log-probabilities come from another model, other weights or another precision",
                do="score the book again with the model that training starts from",
            )

    def _not_finite(self, what: str, value: float) -> NumericalError:
        return NumericalError(
            f"step {self.step + 1}: {what} is {value}; the weights were not changed",
            why="an overflow in the model, or weights that were already broken",
            do="resume from the last checkpoint with a lower train.lr or train.clip, or with model.dtype=float32",
        )


def _check_no_dropout(model: PreTrainedModel) -> None:
    """transformers checkpoints in training mode only, where dropout would act."""
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    rates.append(getattr(model.config, "attention_dropout", 0.0) or 0.0)
    if max(rates) > 0:
        raise UsageError(
            f"train.gradient_checkpointing cannot be used: the model has dropout ({max(rates)})",
            why="recomputed activations would not match the reference log-probabilities",
            do="set the dropout in the model's config.json to 0, or train.gradient_checkpointing=false",
        )


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
