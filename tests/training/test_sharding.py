"""Two processes train as one: loss, gradients, weights and scores are those of a process that has all to itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ap2o_fast.config import AdapterSettings, LossSettings, TrainSettings
from ap2o_fast.training import Engine, score
from ap2o_fast.training.models.adapters import adapt
from ap2o_fast.training.parallel.distributed import ALONE, World
from ap2o_fast.training.parallel.sharding import shard_model, whole
from tests.training.processes import run_together
from tests.training.support import ANSWERS, PAIRS, PROMPTS, make_book, make_plan, tiny_model

# Seven problems in passes of 64 tokens: a number of passes that two processes do not divide.
BOOK = make_book(PROMPTS * 3, ANSWERS * 3)
PLAN = make_plan(BOOK, [(9 * i + chosen, 9 * i + rejected) for i in range(3) for chosen, rejected in PAIRS])
SINGLE = {"loss", "grad_norm", "logps/chosen", "logps/rejected", "rewards/margins", "rewards/accuracies", "step"}


def make_trainer(
    world: World = ALONE, kind: str = "qwen2", dtype: torch.dtype = torch.float32, **settings: Any
) -> Engine:
    adapter = AdapterSettings(kind=settings.pop("adapter", "none"), rank=4)
    width = settings.pop("width", 64)
    model = shard_model(adapt(tiny_model(kind, dtype, hidden_size=width), adapter), world)
    train = TrainSettings.model_validate({"lr": 1e-3, "warmup": 0.0, "token_budget": 64} | settings)
    return Engine(model, train=train, loss=LossSettings(), total_steps=6, world=world)


def learn(trainer: Engine, steps: int = 3) -> list[dict[str, float]]:
    reference = score(trainer.model, BOOK, np.arange(len(BOOK)), 64, world=trainer.world)
    plans = [PLAN, PLAN[:1], PLAN[3:]]
    return [trainer.train_step(plans[i % 3], BOOK, reference) for i in range(steps)]


def weights(trainer: Engine) -> dict[str, torch.Tensor]:
    return {name: whole(value.detach()).clone() for name, value in trainer.model.named_parameters()}


def save_what_was_learnt(world: World, folder: str, *arguments: Any, **settings: Any) -> None:
    trainer = make_trainer(world, *arguments[:2], **(arguments[2] if len(arguments) > 2 else {}))
    history = learn(trainer)
    found = {"history": history, "weights": weights(trainer)}
    torch.save(found, f"{folder}/{world.rank}.pt")


@pytest.mark.parametrize(
    ("kind", "shard", "settings"),
    [
        ("qwen2", 0, {}),
        ("llama", 0, {}),
        ("qwen2", 0, {"gradient_checkpointing": True}),
        ("llama", 1, {"gradient_checkpointing": True}),
        ("llama", 0, {"optimizer": "adamw_8bit", "width": 256}),
        ("qwen3", 0, {"adapter": "dora", "gradient_checkpointing": True, "lr": 1e-2}),
    ],
)
def test_two_processes_learn_as_one(tmp_path: Path, kind: str, shard: int, settings: dict[str, Any]) -> None:
    """qwen2 has tied embeddings, llama has not; `shard` 1 is two replicas.

    An 8-bit moment that falls to the other side of a rounding moves its weight a hundredth of a step.
    """
    close = 1e-3 if "optimizer" in settings else 2e-5
    alone = make_trainer(kind=kind, **settings)
    history = learn(alone)
    run_together(2, save_what_was_learnt, str(tmp_path), kind, torch.float32, settings, shard=shard)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for ours, theirs in zip(found["history"], history, strict=True):
            for name in SINGLE:
                assert ours[name] == pytest.approx(theirs[name], rel=close, abs=close / 10), name
        for name, value in weights(alone).items():
            torch.testing.assert_close(found["weights"][name], value, rtol=1e-4, atol=2e-5 if close == 2e-5 else 2e-4)
