"""Adapters: what they train and what stays, the reference beside them, what is saved of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ap2o_fast.config import AdapterSettings, ModelSettings
from ap2o_fast.errors import DataError, UsageError
from ap2o_fast.sampling import Answer, Request
from ap2o_fast.sampling.transformers import TransformersSampler
from ap2o_fast.training import (
    adapters_off,
    load_checkpoint,
    load_model,
    model_hash,
    save_checkpoint,
    save_model,
    score,
)
from tests.training.adapted import (
    BOOK,
    KINDS,
    ROWS,
    load,
    make_tokenizer,
    make_trainer,
    settings,
    train,
    trained_model,
    write_base,
)
from tests.training.support import plain_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "model")


def values(model: PreTrainedModel, *, trained: bool) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad == trained}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_and_the_base_keeps_every_byte(base: Path, kind: str) -> None:
    model = load(base, kind)
    hashed, frozen, trained = model_hash(model), values(model, trained=False), values(model, trained=True)
    assert all(".lora_" in name for name in trained) and not any(".lora_" in name for name in frozen)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained} == {
        f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")
    }
    reference = score(model, BOOK, ROWS, 64)
    losses = [line[0] for line in train(make_trainer(model), reference, 6)]
    assert losses[0] == pytest.approx(math.log(2), abs=0.01 if model.dtype == torch.bfloat16 else 1e-5)
    assert losses[-1] < 0.5
    assert equal(values(model, trained=False), frozen) and model_hash(model) == hashed
    moved = values(model, trained=True)
    assert all(not torch.equal(moved[name], before) for name, before in trained.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_base_whatever_was_learnt(base: Path, kind: str) -> None:
    """To the bit: with adapters off, and before they have learnt anything."""
    model = load(base, kind)
    before = score(model, BOOK, ROWS, 64, reference=True)
    assert np.array_equal(score(model, BOOK, ROWS, 64), before)
    train(make_trainer(model), before, 3)
    assert np.array_equal(score(model, BOOK, ROWS, 64, reference=True), before)
    assert np.abs(score(model, BOOK, ROWS, 64) - before).max() > 0.01
    assert any(p.requires_grad for p in model.parameters()), "scoring switches adapters back on"
    plain = settings(base, kind)[0].model_copy(update={"quantization": "none"})
    if plain == settings(base, kind)[0]:
        unadapted, _ = load_model(plain)
        assert np.array_equal(score(unadapted, BOOK, ROWS, 64), before)
        assert model_hash(unadapted) == model_hash(model)


def test_a_new_quantisation_or_precision_is_another_reference(base: Path) -> None:
    hashes = [model_hash(load(base, kind)) for kind in KINDS]
    assert len(set(hashes)) == 4, "full and 4 bits, float32 and bfloat16; LoRA and DoRA share a base"
    model = load(base, "qlora")
    first = model_hash(model)
    state = model.get_decoder().layers[1].mlp.up_proj.base_layer.weight.quant_state
    state.absmax[0] ^= 1
    assert model_hash(model) != first, "what unpacks the weights is hashed with them"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_a_frozen_head_gets_no_gradient(base: Path, kind: str, checkpointing: bool) -> None:
    """The fused head hands out an empty one instead of V x D, and checkpointed blocks still learn."""
    found: list[tuple[int, int]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if "ap2o_kernels" in str(func) and "dpo" in str(func):
                found.append((out[2].numel(), out[3].numel()))
            return out

    model = load(base, kind)
    reference = score(model, BOOK, ROWS, 64)
    with Watch():
        (line,) = train(make_trainer(model, gradient_checkpointing=checkpointing, warmup=0.0), reference, 1)
    assert found and all(by_hidden > 0 and by_weight == 0 for by_hidden, by_weight in found)
    assert model.get_output_embeddings().weight.grad is None
    (kept,) = train(make_trainer(load(base, kind), warmup=0.0), reference, 1)
    assert line == pytest.approx(kept, rel=1e-5)
    assert line[1] > 0


@pytest.mark.parametrize("kind", ["lora in half precision", "dora", "qlora"])
@pytest.mark.parametrize("done", [0, 2])
def test_resumed_equals_uninterrupted(base: Path, tmp_path: Path, kind: str, done: int) -> None:
    whole = make_trainer(load(base, kind))
    reference = score(whole.model, BOOK, ROWS, 64)
    train(whole, reference, done)
    kept = save_checkpoint(tmp_path, whole, {"epoch": 1})
    size = sum(path.stat().st_size for path in kept.iterdir())
    assert size < 150_000, "adapters with their masters and moments; the model alone has 330,000 in float32"
    rest = train(whole, reference, 6 - done)
    resumed = make_trainer(load(base, kind, seed=5))
    assert load_checkpoint(tmp_path, resumed) == {"epoch": 1}
    assert train(resumed, reference, 6 - done) == rest
    assert equal(values(resumed.model, trained=True), values(whole.model, trained=True))


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", make_trainer(load(base, "lora")), {})
    other = write_base(tmp_path / "other")
    weights = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        weights.get_decoder().layers[0].mlp.up_proj.weight[0, 0] += 1
    weights.save_pretrained(other)
    for model in (load(other, "lora"), load(base, "qlora")):
        with pytest.raises(DataError, match="other frozen weights"):
            load_checkpoint(tmp_path / "checkpoint", make_trainer(model))
    with pytest.raises(DataError, match="does not fit"):
        load_checkpoint(tmp_path / "checkpoint", make_trainer(load(base, "lora", rank=2)))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([[5, 6, 7, 8, 9]])).logits
    return found


@pytest.mark.parametrize("kind", ["lora", "dora in half precision", "qlora"])
def test_saved_adapters_load_in_peft_and_here(base: Path, tmp_path: Path, kind: str) -> None:
    model = trained_model(base, kind)
    folder = tmp_path / "best"
    save_model(model, make_tokenizer(), folder, note={"epoch": 2})
    assert not (folder / "model.safetensors").exists() and json.loads((folder / "COMPLETE").read_text())["epoch"] == 2
    again = load(base, kind, seed=3, trained=folder)
    assert equal(values(again, trained=True), values(model, trained=True))
    assert torch.equal(logits(again), logits(model))
    assert AutoTokenizer.from_pretrained(folder)("t9 t300").input_ids == [9, 300]
    made, _ = load_model(settings(base, kind)[0].model_copy(update={"quantization": "none"}))
    whole = PeftModel.from_pretrained(made, folder, autocast_adapter_dtype="dora" in kind)
    auto = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=made.dtype)
    for theirs in (whole, auto):
        if KINDS[kind][1] == "none":
            torch.testing.assert_close(logits(theirs), logits(model), rtol=0, atol=1e-5 if kind == "lora" else 0.1)
        assert not torch.equal(logits(theirs), logits(load_model(ModelSettings(name=str(base)))[0]))


def test_an_adapter_that_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    save_model(load(base, "lora"), make_tokenizer(), tmp_path / "best")
    for other in ({"rank": 8}, {"targets": ("q_proj",)}, {"kind": "dora"}):
        with pytest.raises(DataError, match="does not fit"):
            load(base, "lora", trained=tmp_path / "best", **other)
    with pytest.raises(DataError, match="holds no adapter"):
        load(base, "lora", trained=base)


@pytest.mark.parametrize("kind", ["lora", "dora", "qlora"])
def test_the_sampler_samples_with_adapters_on(base: Path, kind: str) -> None:
    model, tokenizer = load(base, kind), make_tokenizer()
    trainer, reference = make_trainer(model), score(model, BOOK, ROWS, 64)
    train(trainer, reference, 4)
    request = Request(task_id="t", prompt_ids=np.array([5, 6, 7], np.int32), seeds=(0,))

    def sampled() -> Answer:
        sampler = TransformersSampler(model, tokenizer, batch_answers=2)
        ((answer,),) = sampler.sample([request], temperature=0, top_p=1.0, max_new_tokens=8)
        return answer

    on = sampled()
    generated = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False)[0, 3:]
    assert on.token_ids.tolist() == generated.tolist()
    with adapters_off(model):  # the likeliest token may stay the same
        assert abs(sampled().logprobs[0] - on.logprobs[0]) > 1e-3
    np.testing.assert_array_equal(sampled().logprobs, on.logprobs)
    assert train(trainer, reference, 1)[0][1] > 0, "and trains on after it"


def test_targets_scale_and_seed(base: Path) -> None:
    model = load(base, "lora", targets=("q_proj", "up_proj"), rank_stabilized=True)
    layer = model.get_decoder().layers[0]
    assert layer.self_attn.q_proj.scaling["default"] == 8 / 4**0.5
    assert not hasattr(layer.self_attn.k_proj, "lora_A") and hasattr(layer.mlp.up_proj, "lora_A")
    assert load(base, "lora").get_decoder().layers[0].self_attn.k_proj.scaling["default"] == 2
    assert equal(values(load(base, "lora", seed=4), trained=True), values(load(base, "lora", seed=4), trained=True))
    assert not equal(values(load(base, "lora", seed=4), trained=True), values(load(base, "lora"), trained=True))
    with pytest.raises(UsageError, match=r"lm_head(?s:.*)down_proj, gate_proj"):
        load(base, "lora", targets=("q_proj", "lm_head"))


def test_combinations_that_cannot_be(base: Path) -> None:
    with pytest.raises(UsageError, match="needs an adapter"):
        load_model(ModelSettings(name=str(base), quantization="nf4"))
    with pytest.raises(UsageError, match="float64"):
        load_model(ModelSettings(name=str(base), quantization="nf4", dtype="float64"), AdapterSettings(kind="lora"))


def test_a_plain_model_has_nothing_to_switch_off() -> None:
    model = plain_model("llama")
    with adapters_off(model):
        assert all(p.requires_grad for p in model.parameters())
