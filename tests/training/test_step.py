"""The optimiser step: what it moves, what it reports, what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.errors import NumericalError, UsageError
from ap2o_fast.training import Engine, model_hash, score
from ap2o_fast.training.optimizer.rounding import round_by_chance
from tests.training.support import ANSWERS, PAIRS, PROMPTS, MemoryBook, make_book, make_plan, tiny_model

# Three times the usual problems: more than one forward pass holds.
BOOK = make_book(PROMPTS * 3, ANSWERS * 3)
PLAN = make_plan(BOOK, [(9 * i + chosen, 9 * i + rejected) for i in range(3) for chosen, rejected in PAIRS])


def make_trainer(kind: str = "qwen2", dtype: torch.dtype = torch.float32, **settings: object) -> Engine:
    train = TrainSettings.model_validate({"lr": 1e-3, "warmup": 0.25, "token_budget": 64} | settings)
    return Engine(tiny_model(kind, dtype), train=train, loss=LossSettings(beta=0.1), total_steps=8)


def references(trainer: Engine, book: MemoryBook = BOOK) -> np.ndarray:
    return score(trainer.model, book, np.arange(len(book)), 64)


def test_learns_the_pairs_and_reports_what_it_did() -> None:
    trainer = make_trainer()
    reference = references(trainer)
    history = [trainer.train_step(PLAN, BOOK, reference) for _ in range(8)]
    first, last = history[0], history[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert last["loss"] < 0.4
    assert last["rewards/margins"] > 0.5
    assert last["rewards/accuracies"] == 1.0
    assert last["rewards/margins"] == pytest.approx(last["rewards/chosen"] - last["rewards/rejected"], abs=1e-5)
    assert [line["step"] for line in history] == list(range(1, 9))
    # ceil(0.25 x 8) steps up from 0, six down towards 0.
    rates = [0, 0.5, *(1 - i / 6 for i in range(6))]
    assert [line["learning_rate"] for line in history] == pytest.approx([1e-3 * rate for rate in rates])
    assert first["pairs"] == 3 * len(PAIRS)
    assert first["tokens"] == 3 * (sum(PROMPTS) + sum(map(sum, ANSWERS)))
    assert first["forward_passes"] == 3
    assert 0.9 < first["packing_efficiency"] <= 1.0
    assert first["grad_norm"] > 0
    assert first["peak_mib"] > 50
    assert first["seconds"] > 0


def test_metrics_are_means_over_pairs_of_the_log_probabilities() -> None:
    trainer = make_trainer(lr=1e-2, warmup=0.0)
    reference = references(trainer)
    trainer.train_step(PLAN, BOOK, reference)
    now = references(trainer)
    found = trainer.train_step(PLAN, BOOK, reference)
    rewards = 0.1 * (now - reference)
    margins = rewards[PLAN.chosen] - rewards[PLAN.rejected]
    assert found["logps/chosen"] == pytest.approx(now[PLAN.chosen].mean(), abs=1e-4)
    assert found["logps/rejected"] == pytest.approx(now[PLAN.rejected].mean(), abs=1e-4)
    assert found["rewards/chosen"] == pytest.approx(rewards[PLAN.chosen].mean(), abs=1e-4)
    assert found["rewards/rejected"] == pytest.approx(rewards[PLAN.rejected].mean(), abs=1e-4)
    assert found["rewards/accuracies"] == pytest.approx((margins > 0).mean())
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_move_at_the_papers_learning_rate(dtype: torch.dtype) -> None:
    """A step of 5e-7 is below half an ulp of most bfloat16 weights: only float32 masters accumulate it."""
    trainer = make_trainer(dtype=dtype, lr=5e-7, warmup=0.0, rounding="nearest")
    reference = references(trainer)
    start = [parameter.master.clone() for parameter in trainer.optimizer.parameters]
    for _ in range(6):
        trainer.train_step(PLAN, BOOK, reference)
    for before, parameter in zip(start, trainer.optimizer.parameters, strict=True):
        moved = (parameter.master - before).abs().max()
        assert parameter.master.dtype == torch.float32
        assert 1e-7 < moved < 6e-6, parameter.name
        assert torch.equal(parameter.model, parameter.master.to(dtype))


@pytest.mark.parametrize(("rounding", "low", "high"), [("stochastic", 0.95, 1.05), ("nearest", 0.0, 0.6)])
def test_a_bfloat16_model_goes_where_its_masters_go(rounding: str, low: float, high: float) -> None:
    """The share of the masters' way that the model has gone, after steps that add up to less than half an ulp of most
    weights: all of it on average when rounded by chance, the part of the smallest weights when to the nearest."""
    trainer = make_trainer(dtype=torch.bfloat16, lr=1e-5, warmup=0.0, rounding=rounding)
    reference = references(trainer)
    start = [parameter.master.clone() for parameter in trainer.optimizer.parameters]
    for _ in range(6):
        trainer.train_step(PLAN, BOOK, reference)
    along = way = 0.0
    for before, parameter in zip(start, trainer.optimizer.parameters, strict=True):
        step = parameter.master - before
        along += float(((parameter.model.detach().float() - before) * step).sum())
        way += float(step.square().sum())
    assert low < along / way < high


def test_rounding_by_chance_keeps_the_mean_and_what_bfloat16_holds() -> None:
    held = torch.tensor([0.0, 1.0, -0.0703125, 3e38, 2.0**-130]).bfloat16()
    between = torch.tensor([1 + 1 / 512, -0.3, 1e-3, -7e-39])
    chance = torch.Generator().manual_seed(0)
    out = torch.empty(20000, len(held), dtype=torch.bfloat16)
    round_by_chance([held.float().expand_as(out).contiguous()], [out], chance)
    assert (out == held).all()
    out = torch.empty(20000, len(between), dtype=torch.bfloat16)
    round_by_chance([between.expand_as(out).contiguous()], [out], chance)
    for column, value in zip(out.float().T, between.tolist(), strict=True):
        low, high = column.min(), column.max()
        assert low < value < high and len(column.unique()) == 2
        assert float((column.double().mean() - value).abs()) < 4 * float(high - low) / 2 / 20000**0.5


def test_bfloat16_model_learns_by_its_masters() -> None:
    trainer = make_trainer(dtype=torch.bfloat16, lr=1e-3, warmup=0.0)
    reference = references(trainer)
    losses = [trainer.train_step(PLAN, BOOK, reference)["loss"] for _ in range(6)]
    assert losses[-1] < 0.5 < losses[0]


def test_gradients_are_clipped_after_the_norm_is_reported() -> None:
    steps = [make_trainer("llama", warmup=0.0, clip=clip, eps=1.0) for clip in (1e9, 1e-3)]
    norms, moves = [], []
    for trainer in steps:
        start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        norms.append(trainer.train_step(PLAN, BOOK, references(trainer))["grad_norm"])
        moves.append(sum(float((trainer.model.state_dict()[n] - v).norm() ** 2) for n, v in start.items()) ** 0.5)
    assert norms[0] == pytest.approx(norms[1])
    # With eps = 1 Adam's first step is about lr x gradient: it shrinks as the gradient does.
    assert moves[1] == pytest.approx(moves[0] * 1e-3 / norms[0], rel=0.2)


def test_stale_references_are_refused_at_the_first_step() -> None:
    trainer = make_trainer()
    reference = references(trainer)
    before = model_hash(trainer.model)
    stale = reference.copy()
    stale[5] += 0.2
    with pytest.raises(NumericalError, match="score the book again"):
        trainer.train_step(PLAN, BOOK, stale)
    assert model_hash(trainer.model) == before
    assert trainer.step == 0
    trainer.train_step(PLAN, BOOK, reference)
    trainer.train_step(PLAN, BOOK, stale)


@pytest.mark.parametrize("normalized", [False, True])
def test_references_are_checked_as_the_loss_sees_them(normalized: bool) -> None:
    """Averaged over nine tokens a deviation is a ninth, and betas are chosen larger for it."""
    loss = LossSettings(beta=10, length_normalized=normalized)
    train = TrainSettings(lr=1e-3, token_budget=64)
    trainer = Engine(tiny_model("qwen2"), train=train, loss=loss, total_steps=8)
    stale = references(trainer)
    stale[1] += 0.003
    if normalized:
        assert trainer.train_step(PLAN, BOOK, stale)["loss"] == pytest.approx(math.log(2), abs=1e-3)
    else:
        with pytest.raises(NumericalError, match=r"reach 0\.03, not 0"):
            trainer.train_step(PLAN, BOOK, stale)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(broken: float) -> None:
    trainer = make_trainer()
    reference = references(trainer)
    trainer.train_step(PLAN, BOOK, reference)
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight[0, 0] = broken
    before = model_hash(trainer.model)
    with pytest.raises(NumericalError, match=r"step 2: loss is nan(?s:.*)lower train\.lr"):
        trainer.train_step(PLAN, BOOK, reference)
    assert model_hash(trainer.model) == before
    assert trainer.step == 1
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    trainer = make_trainer()
    reference = references(trainer)
    hook = trainer.model.get_decoder().layers[0].mlp.up_proj.weight.register_hook(lambda grad: grad * math.nan)
    before = model_hash(trainer.model)
    with pytest.raises(NumericalError, match="step 1: gradient norm is nan"):
        trainer.train_step(PLAN, BOOK, reference)
    assert model_hash(trainer.model) == before
    hook.remove()
    assert trainer.train_step(PLAN, BOOK, reference)["step"] == 1


def test_checkpointing_with_dropout_is_refused() -> None:
    settings = TrainSettings(gradient_checkpointing=True)
    model = tiny_model("qwen2", attention_dropout=0.1)
    with pytest.raises(UsageError, match="dropout"):
        Engine(model, train=settings, loss=LossSettings(), total_steps=1)
    assert not model.is_gradient_checkpointing


def test_a_step_needs_pairs() -> None:
    trainer = make_trainer()
    with pytest.raises(UsageError, match="at least one pair"):
        trainer.train_step(PLAN[:0], BOOK, np.zeros(len(BOOK)))
