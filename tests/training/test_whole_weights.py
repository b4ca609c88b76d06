"""What a sampler is handed: the weights that the model computes with, adapters and quantisation included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from ap2o_fast.training import adapters_off, whole_weights
from tests.training.adapted import load, trained_model, write_base
from tests.training.support import plain_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "model")


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([[5, 6, 7, 8, 9]])).logits
    return found


def filled(model: PreTrainedModel) -> PreTrainedModel:
    """Another model with the weights that this one hands over."""
    other = plain_model("qwen2", seed=99).to(model.dtype)
    given = {name: weight.clone() for name, weight in whole_weights(model)}
    assert {name for name, _ in other.named_parameters()} == given.keys(), "tied weights once, no adapters"
    missing, unexpected = other.load_state_dict(given, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return other


@pytest.mark.parametrize("kind", ["lora", "dora", "qlora", "qdora"])
def test_a_model_that_takes_them_computes_the_same(base: Path, kind: str) -> None:
    model = trained_model(base, kind)
    before = logits(model)
    torch.testing.assert_close(logits(filled(model)), before, rtol=1e-4, atol=1e-4)
    assert (before - logits(load(base, kind))).abs().max() > 0.1, "the adapters have learnt something"
    with adapters_off(model):
        torch.testing.assert_close(logits(filled(model)), logits(load(base, kind)), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), before), "the model itself is as it was"


def test_in_half_precision_a_sum_is_rounded_once(base: Path) -> None:
    model = trained_model(base, "lora in half precision")
    given = dict(whole_weights(model))
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            a, b = (part["default"].weight.detach().float() for part in (layer.lora_A, layer.lora_B))
            wanted = layer.get_base_layer().weight.float() + 2 * (b @ a)
            assert torch.equal(given[f"{name}.weight"], wanted.bfloat16()), name


def test_weights_of_a_plain_model_are_not_copied() -> None:
    model = plain_model("qwen2")
    own = dict(model.named_parameters())
    for name, weight in whole_weights(model):
        assert weight.data_ptr() == own[name].data_ptr() and not weight.requires_grad
