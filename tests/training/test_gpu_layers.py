"""Whole models on a GPU: Liger's layers and compiled ones err no more than transformers' own do in bfloat16."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from ap2o_fast.training import prepare_model
from ap2o_fast.training.models.compiled import compile_blocks
from ap2o_fast.training.models.forward import packed_hidden
from ap2o_fast.training.models.liger import use_liger
from ap2o_fast.training.packing.sequences import SharedPrompt, pack_sequences
from tests.training.support import CONFIGS, VOCABULARY, plain_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "initializer_range": 0.05,
    "max_position_embeddings": 2048,
}


def half_model(kind: str) -> PreTrainedModel:
    return plain_model(kind, torch.bfloat16, **SHAPE).cuda()


def results(model: PreTrainedModel, lengths: int = 0, *, checkpointing: bool = False) -> dict[str, torch.Tensor]:
    """Logits of the answers' tokens and every gradient, in float32. `lengths` makes batches of another length."""
    chance = torch.Generator().manual_seed(lengths)

    def tokens(count: int) -> list[int]:
        found: list[int] = torch.randint(3, VOCABULARY, (count,), generator=chance).tolist()
        return found

    problems = [
        SharedPrompt(prompt=tokens(200 + lengths), answers=[tokens(90), tokens(130 + lengths), tokens(1)]),
        SharedPrompt(prompt=tokens(31), answers=[tokens(64), tokens(77)]),
    ]
    if checkpointing and not model.is_gradient_checkpointing:
        model.gradient_checkpointing_enable()
    batch = pack_sequences(problems).to("cuda")
    model.zero_grad()
    logits = model.get_output_embeddings()(packed_hidden(model, batch)[batch.rows])
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).cuda()
    (logits.float() * weight).sum().backward()
    gradients = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach().float(), **gradients}


def assert_errs_as_little(
    ours: dict[str, torch.Tensor], plain: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]
) -> None:
    assert ours.keys() == plain.keys() == exact.keys()
    for name, right in exact.items():
        error, usual = (float((found[name] - right).norm() / right.norm()) for found in (ours, plain))
        assert error <= 1.5 * usual + 2e-3, f"{name}: {error} where plain bfloat16 has {usual}"


def exact_results(model: PreTrainedModel, lengths: int = 0) -> dict[str, torch.Tensor]:
    return results(prepare_model(copy.deepcopy(model).float()), lengths)


@pytest.mark.parametrize("kind", CONFIGS)
def test_ligers_layers_err_as_transformers_own(kind: str) -> None:
    pytest.importorskip("liger_kernel")
    plain = half_model(kind)
    ours, exact = copy.deepcopy(plain), exact_results(plain)
    assert use_liger(ours, True) > 0
    assert_errs_as_little(results(prepare_model(ours)), results(prepare_model(plain)), exact)
    assert_errs_as_little(results(ours, checkpointing=True), results(plain), exact)


@pytest.mark.slow
@pytest.mark.parametrize("liger", [False, True])
@pytest.mark.parametrize(("kind", "checkpointing"), [("qwen2-mixed", False), ("qwen3", True)])
def test_compiled_layers_err_as_uncompiled_ones(kind: str, checkpointing: bool, liger: bool) -> None:
    plain = prepare_model(half_model(kind))
    ours = copy.deepcopy(plain)
    if liger:
        pytest.importorskip("liger_kernel")
        assert use_liger(ours, True) > 0
    torch._dynamo.reset()
    counters.clear()
    compile_blocks(ours)
    for lengths in range(0, 60, 20):
        found = results(ours, lengths, checkpointing=checkpointing)
        assert_errs_as_little(found, results(plain, lengths), exact_results(plain, lengths))
    if not liger:
        # One program for each kind of layer, whatever the lengths.
        assert counters["stats"]["unique_graphs"] <= (2 if kind == "qwen2-mixed" else 1)
        assert not counters["graph_break"]
