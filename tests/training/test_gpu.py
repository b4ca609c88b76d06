"""What only a GPU can show: the one-call attention, bfloat16 steps that never wait for the GPU and repeat exactly."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.errors import MachineError
from ap2o_fast.training import Engine, model_hash
from ap2o_fast.training.attention.backends import choose
from ap2o_fast.training.attention.layout import PackedAttention
from ap2o_fast.training.attention.packed import shared_prefix_attention
from ap2o_fast.training.objective import score
from ap2o_fast.training.packing.pack import pack_ahead
from ap2o_fast.training.packing.sequences import SharedPrompt, pack_sequences
from tests.training.support import MemoryBook, make_book, make_plan, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["torch", "flash2", "flash3", "flash4"])
def backend(request: pytest.FixtureRequest) -> str:
    try:
        choose(request.param, torch.device("cuda"), torch.bfloat16)
    except MachineError as error:
        pytest.skip(str(error).splitlines()[0])
    found: str = request.param
    return found


@pytest.mark.parametrize("window", [None, 1, 100, 350])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(14, 2, 64), (4, 4, 128), (8, 1, 64)])
def test_one_call_for_all_sequences_equals_one_for_each(
    heads: int, kv_heads: int, size: int, window: int | None, backend: str
) -> None:
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
    for dtype, wanted in ((torch.bfloat16, backend), (torch.bfloat16, backend), (torch.float32, "auto")):
        leaves = [tensor.to(dtype, copy=True).requires_grad_() for tensor in half]
        packed = PackedAttention.of(batch, dtype, wanted)
        assert packed.backend == (backend if dtype == torch.bfloat16 else "exact")
        out, _ = shared_prefix_attention(
            torch.nn.Module(), *leaves, None, packed=packed, scaling=size**-0.5, sliding_window=window
        )
        gradients = torch.autograd.grad(out, leaves, seed.to(dtype))
        found.append([out.detach(), *gradients])
    once, again, exact = found
    for name, a, b, right in zip(("output", "query", "key", "value"), once, again, exact, strict=True):
        # A token that sees itself alone has no gradient of its query and key to compare.
        scale = right.norm().clamp(min=float(seed.float().norm()))
        error = float((a.float() - right).norm() / scale)
        assert error < 8e-3, f"{name}: {error}"
        if name == "output":
            assert torch.equal(a, b), name


def make_problem() -> tuple[MemoryBook, object]:
    book = make_book([20, 9], [[30, 12, 25], [8, 16]])
    return book, make_plan(book, [(0, 1), (0, 2), (3, 4)])


@pytest.mark.parametrize("kind", ["qwen2", "qwen2-mixed"])
def test_a_step_in_bfloat16_never_waits_for_the_gpu(kind: str) -> None:
    model = tiny_model(kind, dtype=torch.bfloat16).cuda()
    book, plan = make_problem()
    references = score(model, book, np.arange(len(book)), 512)
    train = TrainSettings(lr=1e-3, token_budget=100, warmup=0.0)
    trainer = Engine(model, train=train, loss=LossSettings(), total_steps=10)
    before = model.get_input_embeddings().weight.clone()
    metrics = trainer.train_step(plan, book, references)
    assert metrics["loss"] == pytest.approx(0.6931, abs=2e-2)
    assert metrics["forward_passes"] > 1
    assert not torch.equal(model.get_input_embeddings().weight, before)
    packed = next(pack_ahead(book, [plan], references, 100, pin=True))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            launched = trainer.launch(packed)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{one.filename}:{one.lineno}" for one in seen if "called a synchronizing" in str(one.message)]
    assert not waits
    assert launched.read()["step"] == 2


@pytest.mark.parametrize("checkpointing", [False, True])
def test_deterministic_runs_are_equal(checkpointing: bool, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are long enough that FlashAttention's gradients of queries come from several blocks of keys."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    book = make_book([700, 300], [[300, 420, 250], [380, 160]])
    plan = make_plan(book, [(0, 1), (0, 2), (3, 4)])
    shape = {"head_dim": 64, "max_position_embeddings": 2048}
    hashes = []
    for _ in range(2):
        model = tiny_model("qwen2-mixed", dtype=torch.bfloat16, **shape).cuda()
        references = score(model, book, np.arange(len(book)), 4096)
        settings = {"deterministic": True, "gradient_checkpointing": checkpointing, "lr": 1e-3, "warmup": 0.0}
        train = TrainSettings.model_validate({"token_budget": 2048, **settings})
        trainer = Engine(model, train=train, loss=LossSettings(), total_steps=10)
        for _ in range(3):
            trainer.train_step(plan, book, references)
        hashes.append(model_hash(model))
    assert hashes[0] == hashes[1]
