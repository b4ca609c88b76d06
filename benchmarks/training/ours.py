"""Our trainer on the pairs of a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ap2o_fast.config import AdapterSettings, LossSettings, TrainSettings
from ap2o_fast.training import Trainer, adapt, prepare_model, score
from benchmarks.training.cases import Case, make_model


def train(case: Case, device: str, settings: dict[str, Any], tick: Callable[[], None]) -> dict[str, float]:
    """Train on all steps with `settings` of the group ``train``. Returns means over the steps, under TRL's names."""
    train = TrainSettings.model_validate({"lr": 1e-6, "token_budget": 16384} | settings)
    model = make_model(case.shape, device, torch.bfloat16 if device == "cuda" else torch.float32)
    model = prepare_model(model)
    if case.adapter != "none":
        model = adapt(model, AdapterSettings(kind="lora"))
    reference = score(model, case.book, np.arange(len(case.book)), train.token_budget)
    trainer = Trainer(model, train=train, loss=LossSettings(), total_steps=case.steps)
    sums: dict[str, float] = {}
    tick()
    for metrics in trainer.train_steps(case.plans(), case.book, reference):
        for name in ("logps/chosen", "logps/rejected", "loss", "tokens"):
            sums[name] = sums.get(name, 0.0) + metrics[name] / case.steps
        tick()
    return sums
