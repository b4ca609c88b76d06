"""The planner's predictions against what torch's allocator sees, and the H100 figures of docs/performance-log.md."""

from __future__ import annotations

import collections
import functools

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.training import Engine, score
from ap2o_fast.training.memory.form import Form
from ap2o_fast.training.memory.plan import Planner, predict
from ap2o_fast.training.memory.rehearsal import Batch
from ap2o_fast.training.packing.pack import pack
from benchmarks.training.cases import config_of
from tests.training.support import MemoryBook, make_book, make_plan, tiny_model

GIB = 2**30
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 5,
    "head_dim": 64,
    "vocab_size": 2048,
}
BOOK = make_book([40, 50, 60], [[40, 60, 50, 70], [60, 30, 80], [45, 55, 65, 20]])
RELEASE = {"gradient_release": True, "clip": 0}
PAIRS = [(0, 1), (0, 2), (3, 1), (4, 5), (6, 5), (7, 8), (9, 10)]


@functools.cache
def planner_of(name: str) -> Planner:
    return Planner(config_of(name), torch.bfloat16)


def measured(trainer: Engine, book: MemoryBook, reference: np.ndarray) -> int:
    """Most bytes that a training step has allocated at a time, by torch's own record of its allocator.

    Of the thread that computes: gloo's take copies of what they send, and tell of some of them only.
    """
    plan = make_plan(book, PAIRS)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer.train_step(plan, book, reference)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    threads = collections.Counter(event.start_thread_id() for event in events)
    ours = [event for event in events if event.start_thread_id() == threads.most_common(1)[0][0]]
    return int(max(np.cumsum([event.nbytes() for event in sorted(ours, key=lambda event: event.start_ns())])))


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        (torch.float32, {}),
        (torch.float32, {"gradient_checkpointing": True}),
        (torch.float32, {"token_budget": 350}),
        (torch.bfloat16, {"gradient_checkpointing": True}),
        (torch.bfloat16, {"gradient_checkpointing": True, "masters": False}),
        (torch.float32, RELEASE),
        (torch.bfloat16, RELEASE | {"gradient_checkpointing": True}),
        (torch.float32, RELEASE | {"optimizer": "adamw_8bit"}),
    ],
)
def test_a_step_on_the_cpu_takes_what_was_predicted(dtype: torch.dtype, changes: dict[str, object]) -> None:
    train = TrainSettings.model_validate({"warmup": 0.0, "token_budget": 1024} | changes)
    model = tiny_model("qwen2", dtype, **SHAPE)
    reference = score(model, BOOK, np.arange(len(BOOK)), 1024)
    batches = pack(BOOK, make_plan(BOOK, PAIRS), reference, train.token_budget)
    largest = max(batches, key=lambda batch: len(batch.input_ids))
    batch = Batch(tokens=len(largest.input_ids), rows=len(largest.rows), keys=len(largest.kv_index))
    trainer = Engine(model, train=train, loss=LossSettings(), total_steps=4)
    planner = Planner(model.config, dtype, on_gpu=False)
    plan = planner.plan(train, batch=batch, passes=len(batches))
    there = sum(plan.parts.values())
    states = sum(state.nbytes for state in trainer.optimizer.state_tensors().values())
    assert there == pytest.approx(sum(p.nbytes for p in model.parameters()) + states, rel=1e-3)
    found = measured(trainer, BOOK, reference)
    assert plan.peak - there == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize(
    ("name", "impl", "checkpointing", "gib"),
    [
        ("0.5B", "chunked", False, 28.4),
        ("0.5B", "chunked", True, 10.3),
        ("1.5B", "auto", False, 62.3),
        ("1.5B", "auto", True, 26.0),
    ],
)
def test_an_h100_took_what_is_predicted(name: str, impl: str, checkpointing: bool, gib: float) -> None:
    train = TrainSettings(gradient_checkpointing=checkpointing)
    batch = Batch(tokens=14300, rows=9500, keys=24000)
    loss = LossSettings.model_validate({"impl": impl})
    plan = planner_of(name).plan(train, loss, batch=batch, passes=1)
    assert plan.peak / GIB == pytest.approx(gib, rel=0.05)


def test_seven_billion_weights_fit_on_80_gb_without_masters() -> None:
    planner = planner_of("7B")
    plain = TrainSettings(gradient_checkpointing=True, token_budget=8192)
    lean = plain.model_copy(update={"masters": False, "optimizer": "adamw_8bit"})
    assert planner.plan(plain).needed / GIB > 120
    plan = planner.plan(lean)
    assert plan.parts["weights"] / GIB == pytest.approx(14.19, abs=0.01)
    assert plan.parts["Adam's moments"] / plan.parts["weights"] == pytest.approx(1 + 4 / 256, rel=1e-3)
    assert 44 < plan.needed / GIB < 60
    assert planner.plan(lean.model_copy(update={"activation_offload": True})).needed < plan.needed - GIB
    away = planner.plan(lean.model_copy(update={"offload_optimizer": True}))
    assert away.parts["Adam's moments"] < 2**25 < away.host
    assert away.needed < plan.needed - 14 * GIB


def test_adapters_and_four_bits_are_planned() -> None:
    train = TrainSettings(gradient_checkpointing=True, token_budget=2048)
    lora, qlora = (
        predict(config_of("7B"), torch.bfloat16, train, form=Form(rank=16, quantized=quantized))
        for quantized in (False, True)
    )
    # Embedding and head, 2 x 545 M weights, stay; 6.5 G weights of the blocks have 4.127 bits each, adapters 40 M.
    assert lora.parts["weights"] / GIB == pytest.approx(14.19 + 0.08, abs=0.01)
    assert qlora.parts["weights"] / 1e9 == pytest.approx(2 * 1.09 + 6.53 * 4.127 / 8 + 0.08, abs=0.02)
    assert lora.parts["Adam's moments"] == qlora.parts["Adam's moments"] == pytest.approx(8 * 40.4e6, rel=0.01)
    assert qlora.needed / GIB < 16 * 0.93


def test_what_costs_memory_is_in_the_plan() -> None:
    planner = planner_of("0.5B")
    base = TrainSettings(gradient_checkpointing=True, token_budget=4096)

    def needed(**changes: object) -> int:
        return planner.plan(base.model_copy(update=changes)).needed

    assert needed() < needed(token_budget=8192) < needed(gradient_checkpointing=False)
    assert needed(masters=False, optimizer="adamw_8bit") < needed(optimizer="adamw_8bit") < needed()
    kernels = Planner(config_of("0.5B"), torch.bfloat16, form=Form(liger=True))
    assert kernels.plan(base.model_copy(update={"gradient_checkpointing": False})).peak < 0.9 * needed(
        gradient_checkpointing=False
    )
