"""Activations in host memory: the same numbers from another place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.errors import UsageError
from ap2o_fast.training import Engine, score
from ap2o_fast.training.memory import activation_offload as module
from tests.training.support import ANSWERS, PAIRS, PROMPTS, make_book, make_plan, tiny_model

BOOK = make_book(PROMPTS * 3, ANSWERS * 3)
PLAN = make_plan(BOOK, [(9 * i + chosen, 9 * i + rejected) for i in range(3) for chosen, rejected in PAIRS])


def make_trainer(**changes: object) -> Engine:
    train = TrainSettings.model_validate({"lr": 1e-3, "warmup": 0.0, "token_budget": 64} | changes)
    return Engine(tiny_model("qwen3", num_hidden_layers=3), train=train, loss=LossSettings(), total_steps=8)


@pytest.fixture
def journeys(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Tensors of every size are sent away, and what goes comes back overwritten at its old place."""
    monkeypatch.setattr(module, "FEWEST", 64 * 8)
    gone: list[torch.Size] = []
    pack = module._Traffic._pack

    def watched(self: module._Traffic, tensor: torch.Tensor) -> object:
        packed = pack(self, tensor)
        if packed is not tensor:
            gone.append(tensor.shape)
        return packed

    monkeypatch.setattr(module._Traffic, "_pack", watched)
    return gone


def test_offloaded_activations_give_the_same_weights(journeys: list[torch.Size]) -> None:
    trained = []
    for changes in ({"gradient_checkpointing": True}, {"gradient_checkpointing": True, "activation_offload": True}):
        trainer = make_trainer(**changes)
        reference = score(trainer.model, BOOK, np.arange(len(BOOK)), 64)
        assert not journeys
        for _ in range(3):
            trainer.train_step(PLAN, BOOK, reference)
        trained.append(trainer.model)
    for ours, theirs in zip(trained[1].parameters(), trained[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    # The input of each of the three layers, in three forward passes of three steps, at the least.
    layers = [shape for shape in journeys if shape[0] == 1 and shape[-1] == 64]
    assert len(layers) >= 3 * 3 * 3
    assert not any(320 in shape or 311 in shape for shape in journeys), "a weight was sent away"


def test_nothing_stays_behind_a_backward_pass() -> None:
    trainer = make_trainer(gradient_checkpointing=True, activation_offload=True)
    reference = score(trainer.model, BOOK, np.arange(len(BOOK)), 64)
    trainer.train_step(PLAN, BOOK, reference)
    hook = next(iter(trainer.model.get_decoder()._forward_pre_hooks.values()))
    traffic = next(cell.cell_contents for cell in hook.__closure__)
    assert traffic._waiting == [] and traffic._hooks is None


def test_activation_offload_without_checkpointing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.gradient_checkpointing"):
        make_trainer(activation_offload=True)
