"""Adapters merged into the weights, and quantisation of models in memory."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, PreTrainedModel

from ap2o_fast.config import AdapterSettings
from ap2o_fast.errors import DataError
from ap2o_fast.training import adapt, load_merged, model_hash, prepare_model, quantise, save_model, score
from tests.training.adapted import BOOK, ROWS, load, make_trainer, settings, train, trained_model, write_base
from tests.training.support import plain_model
from tests.training.test_model import make_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "model")


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([[5, 6, 7, 8, 9]])).logits
    return found


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_computes_what_was_trained(base: Path, tmp_path: Path, kind: str) -> None:
    model = trained_model(base, kind)
    save_model(model, make_tokenizer(), tmp_path / "best")
    merged = load_merged(settings(base, kind)[0], tmp_path / "best", expected=model_hash(model))
    assert (logits(model) - logits(load(base, kind))).abs().max() > 0.1
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-5, atol=1e-5)
    save_model(merged, make_tokenizer(), tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert "lora" not in " ".join(name for name, _ in plain.named_parameters())
    assert torch.equal(logits(plain), logits(merged))


@pytest.mark.parametrize("kind", ["lora in half precision", "qlora in half precision"])
def test_merging_rounds_once_and_takes_the_original_weights(base: Path, tmp_path: Path, kind: str) -> None:
    model = trained_model(base, kind)
    save_model(model, make_tokenizer(), tmp_path / "best")
    merged = load_merged(settings(base, kind)[0], tmp_path / "best")
    original = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    for name, layer in model.get_decoder().layers.named_modules():
        if hasattr(layer, "lora_A"):
            a, b = (part["default"].weight.detach().float() for part in (layer.lora_A, layer.lora_B))
            wanted = original.get_decoder().layers.get_submodule(name).weight.float() + 2 * (b @ a)
            assert torch.equal(merged.get_decoder().layers.get_submodule(name).weight, wanted.bfloat16()), name
    assert merged.dtype == torch.bfloat16


def test_merging_into_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    save_model(load(base, "lora"), make_tokenizer(), tmp_path / "best")
    with pytest.raises(DataError, match="not the model beside which"):
        load_merged(settings(base, "lora")[0], tmp_path / "best", expected="0" * 32)
    small = tmp_path / "small"
    save_model(prepare_model(plain_model("qwen2", num_hidden_layers=1)), make_tokenizer(), small)
    with pytest.raises(DataError, match=r"does not fit(?s:.*)layers\.1"):
        load_merged(settings(small, "lora")[0], tmp_path / "best")


@pytest.mark.parametrize("tied", [True, False])
def test_quantised_in_memory_as_while_loading(tmp_path: Path, tied: bool) -> None:
    folder = write_base(tmp_path / "model", "qwen2" if tied else "llama")
    loaded = load(folder, "qlora in half precision")
    made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    prepare_model(adapt(quantise(made, "cpu"), AdapterSettings(kind="lora", rank=4, alpha=8)))
    assert model_hash(made) == model_hash(loaded)
    assert torch.equal(logits(made), logits(loaded))
    head = made.get_output_embeddings().weight
    assert head.dtype == torch.bfloat16 and (head is made.get_input_embeddings().weight) == tied


def test_a_large_model_is_quantised_from_its_configuration() -> None:
    """Its parameters are never all there: each gets values, becomes 4 bits, and only then comes the next."""
    config = plain_model("qwen2").config
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    alive: list[int] = []

    def fill(values: torch.Tensor) -> None:
        values.normal_(0, 0.1, generator=torch.Generator().manual_seed(values.numel()))
        whole = [p for p in model.get_decoder().layers.parameters() if p.dim() == 2 and not p.is_meta]
        alive.append(sum(type(p) is torch.nn.Parameter for p in whole))

    quantise(model, "cpu", fill=fill)
    assert max(alive) <= 1, "weights beside the one that is being made"
    assert not any(p.is_meta for p in model.parameters())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    linear = [m for m in model.get_decoder().layers.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 14 and all(isinstance(m, bnb.nn.Linear4bit) for m in linear)
    trainer = make_trainer(prepare_model(adapt(model, AdapterSettings(kind="lora", rank=4))))
    losses = [line[0] for line in train(trainer, score(model, BOOK, ROWS, 64), 6)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("how", ["while loading", "in memory"])
def test_packed_weights_are_never_packed_anew(base: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On some CPUs bitsandbytes would do it in a forward pass without gradients, after which none would pass."""
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    if how == "in memory":
        model = quantise(AutoModelForCausalLM.from_pretrained(base), "cpu")
    else:
        model = load(base, "qlora")
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)
