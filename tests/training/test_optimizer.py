"""AdamW's leaner forms: each goes where float32 goes, and keeps what the plain one promises."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.errors import UsageError
from ap2o_fast.training import Engine, load_checkpoint, save_checkpoint, score
from ap2o_fast.training.optimizer.adamw import Optimizer
from ap2o_fast.training.optimizer.lean_adamw import can_be_lean, make_rates, update
from ap2o_fast.training.optimizer.moments import decode, encode
from tests.training.support import ANSWERS, PAIRS, PROMPTS, make_book, make_plan, tiny_model

BOOK = make_book(PROMPTS * 3, ANSWERS * 3)
PLAN = make_plan(BOOK, [(9 * i + chosen, 9 * i + rejected) for i in range(3) for chosen, rejected in PAIRS])
BFLOAT16 = torch.bfloat16
VARIANTS = {
    "8bit": {"optimizer": "adamw_8bit"},
    "no masters": {"masters": False},
    "no masters, 8bit": {"masters": False, "optimizer": "adamw_8bit"},
    "offloaded": {"offload_optimizer": True},
    "offloaded, 8bit": {"offload_optimizer": True, "optimizer": "adamw_8bit"},
    "offloaded, no masters, 8bit": {"offload_optimizer": True, "masters": False, "optimizer": "adamw_8bit"},
}


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"lr": 1e-3, "warmup": 0.0, "token_budget": 64} | changes)


def make_trainer(dtype: torch.dtype = torch.float32, **changes: object) -> Engine:
    # 320 tokens, so that the embedding, as those of real models, consists of whole blocks.
    model = tiny_model("qwen2", dtype, vocab_size=320)
    return Engine(model, train=settings(**changes), loss=LossSettings(), total_steps=8)


def train(trainer: Engine, steps: int = 6) -> Engine:
    reference = score(trainer.model, BOOK, np.arange(len(BOOK)), 64)
    for _ in range(steps):
        trainer.train_step(PLAN, BOOK, reference)
    return trainer


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_weights_go_the_float32_way_at_the_papers_rate(variant: str) -> None:
    """Six steps of 5e-7 are a fortieth of a unit in the last place of these weights: one in forty moves, a unit."""
    torch.manual_seed(0)
    wide = torch.nn.Linear(1024, 1024, bias=False)
    half = copy.deepcopy(wide).bfloat16()
    wide.weight.data.copy_(half.weight)
    start = wide.weight.detach().clone()
    plain, ours = (
        Optimizer(model, settings(lr=5e-7, warmup=0.0, **changes), 100)
        for model, changes in ((wide, {}), (half, VARIANTS[variant]))
    )
    for _ in range(6):
        half.weight.grad = (1e-3 * torch.randn_like(wide.weight) + 1e-3).bfloat16()
        wide.weight.grad = half.weight.grad.float()
        for optimizer in (plain, ours):
            optimizer.collect()
            optimizer.clip_gradients()
            optimizer.step()
    should, did = (weight.detach().float() - start for weight in (wide.weight, half.weight))
    assert float((should * did).sum() / should.square().sum()) == pytest.approx(1, abs=0.03)
    assert float(did.mean() / should.mean()) == pytest.approx(1, abs=0.03)


def test_moments_in_float32_are_torchs_adamw() -> None:
    """Float32 weights, weight decay, clipping: the slices compute what torch's fused AdamW does."""
    plain, lean = (
        train(make_trainer(weight_decay=0.1, clip=0.05, offload_optimizer=offload)) for offload in (False, True)
    )
    assert sum(p.lean is not None for p in lean.optimizer.parameters) >= 5
    for ours, theirs in zip(lean.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["8bit", "no masters", "no masters, 8bit"])
@pytest.mark.parametrize("slice_rows", [5, 1 << 16])
def test_offloaded_state_gives_the_same_weights(variant: str, slice_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ap2o_fast.training.optimizer.lean_adamw.SLICE_ROWS", slice_rows)
    here, away = (train(make_trainer(BFLOAT16, **VARIANTS[variant], offload_optimizer=o)) for o in (False, True))
    assert all(p.lean.away for p in away.optimizer.parameters if p.lean is not None)
    for ours, theirs in zip(away.model.parameters(), here.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_learns_like_float32(variant: str) -> None:
    reference = score(make_trainer(BFLOAT16).model, BOOK, np.arange(len(BOOK)), 64)
    losses = []
    for changes in ({}, VARIANTS[variant]):
        trainer = make_trainer(BFLOAT16, **changes)
        losses.append([trainer.train_step(PLAN, BOOK, reference)["loss"] for _ in range(6)][-1])
    assert losses[0] < 0.5
    assert losses[1] == pytest.approx(losses[0], rel=0.15)


@pytest.mark.parametrize("variant", ["plain", *VARIANTS])
def test_a_bad_step_changes_nothing(variant: str) -> None:
    trainer = train(make_trainer(BFLOAT16, **VARIANTS.get(variant, {})), steps=2)
    optimizer = trainer.optimizer
    before = {name: state.clone() for name, state in optimizer.state_tensors().items()}
    weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.collect()
    norm = optimizer.clip_gradients()
    optimizer.step(bad=(~norm.isfinite()).float())
    for name, state in optimizer.state_tensors().items():
        assert torch.equal(state, before[name]), name
    assert all(torch.equal(now, old) for now, old in zip(trainer.model.parameters(), weights, strict=True))
    optimizer.done = 2
    assert train(trainer, 1).step == 3
    assert not all(torch.equal(now, old) for now, old in zip(trainer.model.parameters(), weights, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_equals_uninterrupted(variant: str, tmp_path: Path) -> None:
    straight = train(make_trainer(BFLOAT16, **VARIANTS[variant]), 3)
    save_checkpoint(tmp_path, straight, {})
    resumed = make_trainer(BFLOAT16, **VARIANTS[variant])
    load_checkpoint(tmp_path, resumed)
    reference = score(make_trainer(BFLOAT16).model, BOOK, np.arange(len(BOOK)), 64)
    for trainer in (straight, resumed):
        trainer.train_step(PLAN, BOOK, reference)
    ours, theirs = (trainer.optimizer.state_tensors() for trainer in (resumed, straight))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for a, b in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("dtype", "half_step"), [(torch.int8, 2.1 / 127), (torch.uint8, 4.1 / 255)])
def test_eight_bits_keep_what_is_large_and_what_is_small(dtype: torch.dtype, half_step: float) -> None:
    values = torch.logspace(-6, 0, 256).repeat(3, 1) * torch.tensor([[1e-12], [1.0], [1e6]])
    if dtype == torch.int8:
        values[:, ::2] *= -1
    found = decode(encode(values, dtype))
    assert float(((found - values).abs() / values.abs())[:, -40:].max()) < 1.5 * half_step
    assert float((found / values).min()) > 0.3 and float((found / values).max()) < 1.8
    zeros = torch.zeros(2, 256)
    assert torch.equal(decode(encode(zeros, dtype)), zeros)


def test_eight_bits_hold_a_denominator_above_a_tiny_gradient() -> None:
    """Beside gradients 10,000 times as large, updates stay near one learning rate: none is divided by about zero."""
    weight, gradient = torch.zeros(1, 256), torch.full((1, 256), 1e-4)
    gradient[:, ::7] = 1.0
    moments = [encode(torch.zeros(1, 256), dtype) for dtype in (torch.int8, torch.uint8)]
    for i in range(1, 50):
        before = weight.clone()
        rates = make_rates(1.0, settings(lr=1.0), i)
        update(weight, None, gradient, moments, rates, torch.ones(()), torch.tensor(True), None)
        assert float((weight - before).abs().max()) < 1.5
        assert float((weight - before).abs().min()) > 0.5


def test_the_update_is_one_graph() -> None:
    """What runs compiled on a GPU: captured whole, with the same result as line by line."""
    chance = torch.Generator().manual_seed(0)
    cases = []
    for run in (update, torch.compile(update, fullgraph=True, backend="aot_eager")):
        chance.manual_seed(0)
        weight = torch.randn(16, 256, generator=chance).bfloat16()
        moments = [encode(torch.zeros(16, 256), dtype) for dtype in (torch.int8, torch.uint8)]
        for i in range(1, 4):
            gradient = torch.randn(16, 256, generator=chance).bfloat16()
            bits = torch.randint(1 << 16, (16, 256), dtype=torch.int32, generator=chance)
            rates = make_rates(1e-3, settings(), i)
            run(weight, None, gradient, moments, rates, torch.tensor(0.5), torch.tensor(True), bits)
        cases.append([weight, *moments[0], *moments[1]])
    assert all(torch.equal(a, b) for a, b in zip(*cases, strict=True))


def test_small_parameters_are_left_to_torch_and_keep_masters() -> None:
    optimizer = make_trainer(BFLOAT16, masters=False, optimizer="adamw_8bit").optimizer
    for parameter in optimizer.parameters:
        if can_be_lean(parameter.model):
            assert parameter.master is parameter.model
            assert parameter.lean is not None and parameter.lean.first.values.dtype == torch.int8
        else:
            assert parameter.lean is None and parameter.master.dtype == torch.float32
    states = optimizer.state_tensors()
    assert not any(name.startswith("master.") and "mlp" in name for name in states)
    size = sum(state.nbytes for name, state in states.items() if "embed" in name)
    assert size == 320 * 64 * (2 + 8 / 256)


@pytest.mark.parametrize(
    ("dtype", "changes", "named"),
    [
        (torch.float32, {"masters": False}, "train.masters"),
        (BFLOAT16, {"masters": False, "rounding": "nearest"}, "train.rounding"),
        (torch.float64, {"optimizer": "adamw_8bit"}, "float64"),
        (torch.float64, {"offload_optimizer": True}, "float64"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(dtype: torch.dtype, changes: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make_trainer(dtype, **changes)
