"""torch.compile of the layers: the same losses and gradients, and one program for batches of every length.

The one-call attention has no CPU kernel; a registered operator with its signature that computes exactly stands in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from ap2o_fast.config import LossSettings
from ap2o_fast.errors import UsageError
from ap2o_fast.sampling import Request
from ap2o_fast.sampling.transformers import TransformersSampler
from ap2o_fast.training import dpo_step_loss, pack
from ap2o_fast.training.attention import backends, layout
from ap2o_fast.training.models.compiled import compile_blocks
from tests.training.support import make_book, make_plan, plain_model, tiny_model
from tests.training.test_model import make_tokenizer

PAIRS = [(0, 1), (2, 3), (4, 5), (4, 6)]


def weights(
    q: torch.Tensor, k: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, scale: float, left: int
) -> torch.Tensor:
    """(H, T, K) softmax weights, all sequences in one matrix."""
    query, key = torch.arange(len(q)), torch.arange(len(k))
    of_query, of_key = torch.bucketize(query, cu_q[1:], right=True), torch.bucketize(key, cu_k[1:], right=True)
    distance = (cu_k[of_query + 1] - cu_q[of_query + 1] + query)[:, None] - key[None]
    seen = (of_query[:, None] == of_key[None]) & (distance >= 0)
    if left >= 0:
        seen &= distance <= left
    scores = torch.einsum("qhe,khe->hqk", q, k.repeat_interleave(q.shape[1] // k.shape[1], 1)) * scale
    return scores.masked_fill(~seen, float("-inf")).softmax(-1)


@torch.library.custom_op("ap2o_test::varlen", mutates_args=())
def varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor,
    max_q: int, max_k: int, scale: float, left: int,
) -> torch.Tensor:  # fmt: skip
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    seen = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    return torch.einsum("hqk,khe->qhe", weights(q, k, cu_q, cu_k, scale, left), seen).contiguous()


@varlen.register_fake
def _(q: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@torch.library.custom_op("ap2o_test::varlen_backward", mutates_args=())
def varlen_backward(
    gradient: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor,
    scale: float, left: int,
) -> list[torch.Tensor]:  # fmt: skip
    groups = q.shape[1] // k.shape[1]
    wide_k, wide_v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    p = weights(q, k, cu_q, cu_k, scale, left)
    dp = torch.einsum("qhe,khe->hqk", gradient, wide_v)
    ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
    dk, dv = torch.einsum("hqk,qhe->khe", ds, q), torch.einsum("hqk,qhe->khe", p, gradient)
    dk, dv = (wide.unflatten(1, (k.shape[1], groups)).sum(2) for wide in (dk, dv))
    return [torch.einsum("hqk,khe->qhe", ds, wide_k).contiguous(), dk, dv]


@varlen_backward.register_fake
def _(gradient: torch.Tensor, *inputs: Any) -> list[torch.Tensor]:
    return [torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in inputs[:3]]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.how = inputs[7:]


varlen.register_autograd(
    lambda ctx, gradient: (*varlen_backward(gradient, *ctx.saved_tensors, *ctx.how), *[None] * 6),
    setup_context=_remember,
)


@pytest.fixture
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def call(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size):  # type: ignore[no-untyped-def]
        assert window_size[1] == 0
        return varlen(q, k, v, cu_q, cu_k, max_q, max_k, scale, window_size[0])

    monkeypatch.setattr(backends, "_varlen", call)
    monkeypatch.setattr(layout, "choose", lambda *_: request.param)
    torch._dynamo.reset()
    counters.clear()
    yield request.param
    torch._dynamo.reset()


def trajectory(kind: str, *, compiled: bool, checkpointing: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of six batches of unlike lengths, and the sum of their gradients."""
    model = tiny_model(kind, torch.float64)
    if checkpointing:
        model.gradient_checkpointing_enable()
    if compiled:
        compile_blocks(model, "aot_eager")
    losses = []
    for number in range(6):
        answers = [[4, 6 + number], [3, 7], [2, 5 + number, 6]]
        book = make_book([5 + number, 3, 9 + 2 * number], answers, seed=number)
        (batch,) = pack(book, make_plan(book, PAIRS), np.zeros(len(book)), 1000)
        output, _ = dpo_step_loss(model, batch, settings=LossSettings(), normalizer=len(PAIRS))
        output.loss.backward()
        losses.append(float(output.loss.detach()))
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "kind", "checkpointing"),
    [("exact", "qwen2", False), ("torch", "qwen2-mixed", True)],
    indirect=["attention"],
)
def test_compiled_layers_compute_the_same_and_are_compiled_once(attention: str, kind: str, checkpointing: bool) -> None:
    ours, our_gradients = trajectory(kind, compiled=True, checkpointing=checkpointing)
    programs = counters["stats"]["unique_graphs"]
    theirs, gradients = trajectory(kind, compiled=False, checkpointing=checkpointing)
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert our_gradients.keys() == gradients.keys()
    for name, expected in gradients.items():
        torch.testing.assert_close(our_gradients[name], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    # A program a kind of layer; exact attention stays outside, and cuts each into two with a piece between.
    kinds = 2 if kind == "qwen2-mixed" else 1
    assert programs <= kinds * (1 if attention == "torch" else 6)
    assert bool(counters["graph_break"]) == (attention == "exact")


def test_parameters_keep_their_names_and_decoding_runs_as_written() -> None:
    torch._dynamo.reset()
    counters.clear()
    model = tiny_model("llama")
    names = list(model.state_dict())
    request = Request(task_id="a", prompt_ids=np.array([5, 6, 7], np.int32), seeds=(1, 2))
    found = []
    for compiled in (False, True):
        if compiled:
            compile_blocks(model, "aot_eager")
        sampler = TransformersSampler(model, make_tokenizer(), batch_answers=2)
        answers = sampler.sample([request], temperature=1.0, top_p=1.0, max_new_tokens=6)
        found.append([answer.token_ids.tolist() for group in answers for answer in group])
    assert found[0] == found[1]
    assert list(model.state_dict()) == names
    assert not counters["stats"]["unique_graphs"]


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    model = plain_model("llama")
    model.model.layers = torch.nn.ModuleDict()
    with pytest.raises(UsageError, match=r"train\.compile"):
        compile_blocks(model)
