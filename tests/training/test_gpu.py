"""What only a GPU can show: the one-call attention, and a training step in bfloat16 that waits for the GPU once."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.training import Trainer
from ap2o_fast.training.attention import PackedAttention, shared_prefix_attention
from ap2o_fast.training.objective import score
from ap2o_fast.training.packing import SharedPrompt, pack_sequences
from tests.training.support import make_book, make_plan, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(14, 2, 64), (4, 4, 128), (8, 1, 32)])
def test_one_call_for_all_sequences_equals_one_for_each(heads: int, kv_heads: int, size: int) -> None:
    """Against single precision, sequence by sequence; errors are those of bfloat16."""
    items = [
        SharedPrompt(prompt=[1] * 300, answers=[[2] * 130, [3], [4] * 260]),
        SharedPrompt(prompt=[5], answers=[[6] * 4]),
        SharedPrompt(prompt=[7] * 64, answers=[[8] * 64]),
    ]
    batch = pack_sequences(items).to("cuda")
    tokens = len(batch.input_ids)
    chance = torch.Generator("cuda").manual_seed(0)

    def normal(count: int) -> torch.Tensor:
        return torch.randn(1, count, tokens, size, device="cuda", generator=chance).bfloat16()

    half = [normal(heads), normal(kv_heads), normal(kv_heads)]
    seed = normal(heads).transpose(1, 2)
    found = []
    for dtype in (torch.bfloat16, torch.bfloat16, torch.float32):
        leaves = [tensor.to(dtype, copy=True).requires_grad_() for tensor in half]
        packed = PackedAttention.of(batch, dtype)
        assert (packed.offsets is not None) == (dtype == torch.bfloat16)
        out, _ = shared_prefix_attention(torch.nn.Module(), *leaves, None, packed=packed, scaling=size**-0.5)
        gradients = torch.autograd.grad(out, leaves, seed.to(dtype))
        found.append([out.detach(), *gradients])
    once, again, exact = found
    for name, a, b, right in zip(("output", "query", "key", "value"), once, again, exact, strict=True):
        error = float((a.float() - right).norm() / right.norm())
        assert error < 8e-3, f"{name}: {error}"
        if name in ("output", "key", "value"):
            assert torch.equal(a, b), name


def test_a_step_in_bfloat16_waits_for_the_gpu_once() -> None:
    model = tiny_model("qwen2", dtype=torch.bfloat16).cuda()
    book = make_book([20, 9], [[30, 12, 25], [8, 16]])
    plan = make_plan(book, [(0, 1), (0, 2), (3, 4)])
    references = score(model, book, np.arange(len(book)), 512)
    train = TrainSettings(lr=1e-3, token_budget=100, warmup=0.0)
    trainer = Trainer(model, train=train, loss=LossSettings(), total_steps=10)
    before = model.get_input_embeddings().weight.clone()
    metrics = trainer.train_step(plan, book, references)
    assert metrics["loss"] == pytest.approx(0.6931, abs=2e-2)
    assert metrics["forward_passes"] > 1
    assert not torch.equal(model.get_input_embeddings().weight, before)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train_step(plan, book, references)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{one.filename}:{one.lineno}" for one in seen if "called a synchronizing" in str(one.message)]
    assert len(waits) == 1, waits
