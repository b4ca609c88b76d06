"""The trial of a model when it is loaded: rounding passes however deep the model, what is wrong does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ap2o_fast.errors import UsageError
from ap2o_fast.training import prepare_model
from ap2o_fast.training.models import check
from tests.training.support import plain_model

Attend = Callable[..., tuple[torch.Tensor, Any]]


def around_attention(model: PreTrainedModel, change: Callable[[Attend], Attend]) -> None:
    for layer in model.get_decoder().layers:
        layer.self_attn.forward = change(layer.self_attn.forward)


def rounded_otherwise(attend: Attend) -> Attend:
    """As by another kernel: what is packed comes out up to one bfloat16 unit beside."""
    chance = torch.Generator().manual_seed(0)

    def forward(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, Any]:
        out, weights = attend(*args, **kwargs)
        if kwargs.get("packed") is not None:
            out = out * (1 + 2**-7 * (torch.rand(out.shape, generator=chance) - 0.5)).to(out.dtype)
        return out, weights

    return forward


def without_layout(attend: Attend) -> Attend:
    """Every token sees all that are packed before it: an answer sees the ones before."""
    return lambda *args, **kwargs: attend(*args, **kwargs | {"packed": None, "attention_mask": None})


def positions_go_on(model: PreTrainedModel) -> None:
    """A second answer does not begin where its prompt ends."""
    rotary = model.get_decoder().rotary_emb
    inner = rotary.forward
    rotary.forward = lambda x, position_ids: inner(x, torch.arange(position_ids.shape[1])[None])


def logits_are_scaled(model: PreTrainedModel) -> None:
    inner = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        out.logits = out.logits * 1.5
        return out

    model.forward = forward


WRONG: dict[str, Callable[[PreTrainedModel], None]] = {
    "leak": lambda model: around_attention(model, without_layout),
    "positions": positions_go_on,
    "head": logits_are_scaled,
}


def deep_model() -> PreTrainedModel:
    model = plain_model(
        "qwen2", torch.bfloat16, num_hidden_layers=64, hidden_size=32, intermediate_size=48, initializer_range=0.4
    )
    around_attention(model, rounded_otherwise)
    return model


def test_a_deep_model_in_bfloat16_passes_whatever_it_makes_of_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_model(deep_model())
    # By its logits alone it would not have.
    monkeypatch.setattr(check, "_LAYER_TOLERANCE", 0.0)
    with pytest.raises(UsageError, match=r"what a layer adds to its input by 0\.0"):
        prepare_model(deep_model())


@pytest.mark.parametrize("fault", WRONG)
def test_a_deep_model_in_bfloat16_that_is_wrong_is_refused(fault: str) -> None:
    model = deep_model()
    WRONG[fault](model)
    with pytest.raises(UsageError, match="packed sequences change what a layer adds"):
        prepare_model(model)


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shallow_model_that_is_wrong_is_refused(fault: str, dtype: torch.dtype) -> None:
    """In the second answer too, which the first one must not be seen by."""
    model = plain_model("llama", dtype)
    prepare_model(model)
    WRONG[fault](model)
    with pytest.raises(UsageError, match="packed sequences change"):
        prepare_model(model)
