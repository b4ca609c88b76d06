"""Our engine on the pairs of a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ap2o_fast.allocator import allocator_in_use, prepare_allocator
from ap2o_fast.config import AdapterSettings, LossSettings, TrainSettings
from ap2o_fast.training import Engine, adapt, prepare_model, quantise, score
from ap2o_fast.training.models.liger import use_liger
from benchmarks.training.cases import Case, make_model


def train_growing(case: Case, device: str, settings: dict[str, Any], tick: Callable[[], None]) -> dict[str, float]:
    """`train` with the allocator as `ap2o` sets it on a GPU. Only for a process that has not used the GPU yet.

    Errors: `RuntimeError` where torch did not take it, so that no figure stands under a wrong name.
    """
    prepare_allocator(device)
    found = train(case, device, settings, tick)
    if device == "cuda" and not all(segment["is_expandable"] for segment in torch.cuda.memory_snapshot()):
        raise RuntimeError(f"torch's segments do not grow: {allocator_in_use()}")
    return found


def train(case: Case, device: str, settings: dict[str, Any], tick: Callable[[], None]) -> dict[str, float]:
    """Train on all steps with `settings` of the group ``train``. Returns means over the steps, under TRL's names."""
    train = TrainSettings.model_validate({"lr": 1e-6, "token_budget": 16384} | settings)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = make_model(case.shape, "meta" if case.adapter == "qlora" else device, dtype)
    if case.adapter == "qlora":
        model = quantise(model, device, fill=_random)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.zero_()
    use_liger(model, "auto", compiled=train.compile)
    if case.adapter != "none":
        adapt(model, AdapterSettings(kind="lora"))
    model = prepare_model(model)
    reference = score(model, case.book, np.arange(len(case.book)), train.token_budget)
    engine = Engine(model, train=train, loss=LossSettings(), total_steps=case.steps)
    sums: dict[str, float] = {}
    tick()
    for metrics in engine.train_steps(case.plans(), case.book, reference):
        for name in ("logps/chosen", "logps/rejected", "loss", "tokens"):
            sums[name] = sums.get(name, 0.0) + metrics[name] / case.steps
        tick()
    return sums


def _random(parameter: torch.Tensor) -> None:
    """Vectors are taken for norms. Matrices are small, so that bfloat16's noise does not grow over 64 layers.

    Packed and separate texts would differ by more than the check at loading allows.
    """
    if parameter.ndim == 1:
        parameter.fill_(1)
    else:
        parameter.normal_(0, 0.002)
