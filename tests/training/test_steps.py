"""Steps in a row: batches packed ahead on another thread, metrics read one step late, and what they cost."""

from __future__ import annotations

import math
import threading
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ap2o_fast.errors import DataError, NumericalError
from ap2o_fast.training import model_hash
from ap2o_fast.training.models.forward import packed_hidden
from ap2o_fast.training.packing.flops import Cost
from ap2o_fast.training.packing.pack import pack_ahead, pack_step
from tests.training.support import make_book, make_plan, tiny_model
from tests.training.test_step import BOOK, PLAN, make_trainer, references

TIMES = {"seconds", "tflops", "peak_mib"}


def test_steps_in_a_row_are_the_single_steps() -> None:
    plans = [PLAN, PLAN[3:], PLAN[:5], PLAN[2:9]]
    alone, together = make_trainer(), make_trainer()
    reference = references(alone)
    expected = [alone.train_step(plan, BOOK, reference) for plan in plans]
    found = list(together.train_steps(plans, BOOK, reference))
    assert [{k: v for k, v in line.items() if k not in TIMES} for line in found] == [
        {k: v for k, v in line.items() if k not in TIMES} for line in expected
    ]
    assert model_hash(together.model) == model_hash(alone.model)


def test_a_stop_begins_no_further_step_and_tells_of_all_begun() -> None:
    trainer = make_trainer()
    found = []
    for line in trainer.train_steps([PLAN] * 8, BOOK, references(trainer), stop=lambda: len(found) == 2):
        found.append(line["step"])
    assert found == [1, 2, 3]
    assert trainer.step == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("packing")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_stops_the_steps_after_it_too(dtype: torch.dtype) -> None:
    """Step 3 breaks and step 4 is under way when that is read: the weights are those after step 2."""
    trainer = make_trainer(dtype=dtype, warmup=0.0)
    reference = references(trainer)
    calls = []

    def break_the_third(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * (math.inf if len(calls) == 7 else 1)

    trainer.model.get_decoder().layers[0].mlp.up_proj.weight.register_hook(break_the_third)
    seen = []
    hashes = {}
    with pytest.raises(NumericalError, match="step 3: gradient norm is"):
        for line in trainer.train_steps([PLAN] * 6, BOOK, reference):
            seen.append(line["step"])
            hashes[trainer.step] = model_hash(trainer.model)
    assert seen == [1, 2]
    assert len(calls) == 12, "three passes a step, four steps begun"
    assert trainer.step == 2
    assert model_hash(trainer.model) == hashes[2] == hashes[3]
    assert trainer.train_step(PLAN, BOOK, reference)["step"] == 3
    assert model_hash(trainer.model) != hashes[2]


def test_what_cannot_be_packed_is_told_where_it_is_due() -> None:
    trainer = make_trainer()
    reference = references(trainer)
    unscored = np.where(np.arange(len(BOOK)) == PLAN.chosen[0], np.nan, reference)
    steps = pack_ahead(BOOK, [PLAN], unscored, 64)
    with pytest.raises(DataError, match="no finite reference"):
        next(steps)


def test_packing_is_full_and_even_at_the_lengths_of_mbpp() -> None:
    """Lengths of 192 answers to 24 MBPP problems by Qwen2.5-Coder-0.5B: log-normal, medians 48 and 72 tokens."""
    chance = np.random.default_rng(0)
    prompts = np.exp(chance.normal(np.log(48), 0.12, 32)).astype(int)
    answers = np.exp(chance.normal(np.log(72), 0.65, (32, 4))).astype(int).clip(8, 1024)
    book = make_book(prompts.tolist(), answers.tolist())
    plan = make_plan(book, [(4 * i + j, 4 * i + j + 2) for i in range(32) for j in range(2)])
    cost = Cost.of(tiny_model("qwen2"))
    for budget in (2048, 4096, 8192):
        step = pack_step(book, plan, np.zeros(len(book)), budget, cost)
        assert step.efficiency > 0.97, budget
        assert step.tokens == prompts.sum() + answers.sum()
        assert step.answer_tokens == answers.sum()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_cost_counts_what_is_multiplied(kind: str) -> None:
    """Against torch's counter, for what is not attention; that it computes masked pairs on the CPU."""
    model = tiny_model(kind)
    cost = Cost.of(model)
    book = make_book([9, 4], [[5, 3], [2, 7]])
    step = pack_step(book, make_plan(book, [(0, 1), (2, 3)]), np.zeros(4), 64, cost)
    (batch,) = step.batches
    with FlopCounterMode(display=False) as forward:
        hidden = packed_hidden(model, batch)[batch.rows]
        loss = model.get_output_embeddings()(hidden).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    products = {"mm", "addmm"}  # the rotation of positions is a bmm, of two operations a token and half head

    def counted(mode: FlopCounterMode) -> int:
        return sum(n for op, n in mode.get_flop_counts()["Global"].items() if str(op).split(".")[-1] in products)

    keys = [9 * 10 / 2, 5 * 9 + 15, 3 * 9 + 6, 4 * 5 / 2, 2 * 4 + 3, 7 * 4 + 28]
    assert cost.key == 4 * 2 * 4 * 16
    assert cost.packed(batch) - cost.key * sum(keys) == counted(forward)
    assert step.flops - 3 * cost.key * sum(keys) == counted(forward) + counted(backward)
    whole = [cost.forward(9, [5, 3]), cost.forward(4, [2, 7])]
    assert cost.packed(batch) == sum(whole)


def test_frozen_weights_need_no_gradient() -> None:
    model = tiny_model("llama")
    full = Cost.of(model)
    model.get_decoder().requires_grad_(False)
    model.get_output_embeddings().requires_grad_(False)
    frozen = Cost.of(model)
    assert full.token_trained == 3 * full.token and frozen.token_trained == 2 * full.token
    assert full.row_trained == 3 * full.row and frozen.row_trained == 2 * full.row


def test_packing_stays_ahead_by_a_few_steps_only() -> None:
    taken = []

    def plans() -> object:
        for number in range(9):
            taken.append(number)
            yield PLAN

    steps = pack_ahead(BOOK, plans(), np.zeros(len(BOOK)), 64)  # type: ignore[arg-type]
    assert len(list(islice(steps, 1))) == 1
    assert len(taken) == 3
    steps.close()  # type: ignore[attr-defined]
