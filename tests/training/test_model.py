"""Loading, refusing, hashing, saving; and generation with a model that is prepared for training."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from ap2o_fast.config import ModelSettings
from ap2o_fast.errors import MachineError, UsageError
from ap2o_fast.training import load_model, load_tokenizer, model_hash, prepare_model, save_model
from tests.training.support import CONFIGS, VOCABULARY, plain_model, tiny_model


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"t{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", padding_side="left"
    )


def generate(model: PreTrainedModel) -> list[list[int]]:
    """Greedy answers to two prompts of unlike length, left-padded, with the KV cache."""
    batch = make_tokenizer()(["t5 t6 t7 t8 t9 t10 t11", "t20 t21"], padding=True, return_tensors="pt")
    tokens: list[list[int]] = model.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=12, do_sample=False
    ).tolist()
    return tokens


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_prepared_model_generates_as_before(kind: str, checkpointing: bool) -> None:
    plain, ours = plain_model(kind), tiny_model(kind)
    if checkpointing:
        ours.gradient_checkpointing_enable()
    assert generate(ours) == generate(plain)
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = (ids > 0).long()
    assert torch.equal(ours(ids, attention_mask=mask).logits, plain(ids, attention_mask=mask).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_saved_model_is_an_ordinary_one(tmp_path: Path, dtype: str) -> None:
    model = tiny_model("qwen3", getattr(torch, dtype))
    model.generation_config.eos_token_id = [2, 7]
    folder = tmp_path / "best"
    save_model(model, make_tokenizer(), folder, note={"epoch": 3})
    assert json.loads((folder / "COMPLETE").read_text()) == {"epoch": 3}
    assert "ap2o" not in (folder / "config.json").read_text()
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.dtype == getattr(torch, dtype)
    assert plain.generation_config.eos_token_id == [2, 7]
    assert generate(plain) == generate(model)
    assert AutoTokenizer.from_pretrained(folder)("t9 t300").input_ids == [9, 300]
    ours, tokenizer = load_model(ModelSettings(name=str(folder), dtype=dtype))  # type: ignore[arg-type]
    assert model_hash(ours) == model_hash(model)
    assert tokenizer("t9").input_ids == [9]
    assert not ours.training


def test_save_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    save_model(tiny_model("llama", seed=0), make_tokenizer(), folder)
    second = tiny_model("llama", seed=1)
    save_model(second, make_tokenizer(), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert model_hash(AutoModelForCausalLM.from_pretrained(folder)) == model_hash(second)


@pytest.fixture
def _small_files() -> Iterator[None]:
    """Writing a file beyond 64 KiB fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_failed_save_keeps_the_old_model(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = tmp_path / "best"
    first = tiny_model("llama", seed=0)
    save_model(first, make_tokenizer(), folder)
    request.getfixturevalue("_small_files")
    with pytest.raises(MachineError, match="cannot write the model"):
        save_model(tiny_model("llama", seed=1), make_tokenizer(), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert model_hash(AutoModelForCausalLM.from_pretrained(folder)) == model_hash(first)


def test_hash_sees_every_weight() -> None:
    model = tiny_model("llama")
    first = model_hash(model)
    assert first == model_hash(tiny_model("llama"))
    for parameter in model.parameters():
        with torch.no_grad():
            before = parameter.flatten()[-1].clone()
            parameter.view(-1)[-1] = torch.nextafter(before, before + 1)
            assert model_hash(model) != first
            parameter.view(-1)[-1] = before
    assert model_hash(model) == first
    assert model_hash(model.double()) != first


REFUSED = {
    "soft-capped logits": (transformers.Gemma2Config(), "caps its logits"),
    "scaled logits": (transformers.CohereConfig(), "scales its logits"),
    "divided logits": (transformers.GraniteConfig(logits_scaling=8.0), "scales its logits"),
    "a window that may stay in the mask": (transformers.Starcoder2Config(sliding_window=64), r"window \(64\)"),
    "chunked attention": (transformers.Llama4TextConfig(), "chunked_attention"),
    "batch-dependent positions": (
        transformers.LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        "longest text",
    ),
    "encoder-decoder": (transformers.T5Config(), "encoder-decoder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_weight_is_read(case: str, tmp_path: Path) -> None:
    config, reason = REFUSED[case]
    config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=reason):
        load_model(ModelSettings(name=str(tmp_path)))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        # Its forward drops the layout on the way to the attention, so that sequences would see each other.
        (transformers.StableLmConfig, "packed sequences change its logits"),
        (transformers.BloomConfig, "AttentionInterface"),
    ],
)
def test_refused_by_trying(config: type[transformers.PretrainedConfig], reason: str) -> None:
    shape = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(config(**shape, num_key_value_heads=2, intermediate_size=32))
    with pytest.raises(UsageError, match=reason):
        prepare_model(model)


def test_unused_window_is_no_window() -> None:
    prepare_model(plain_model("qwen2", use_sliding_window=False, sliding_window=4))


def test_missing_models_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match=r"cannot load(?s:.*)config\.json"):
        load_model(ModelSettings(name=str(tmp_path)))
    with pytest.raises(MachineError, match="cannot load"):
        load_tokenizer(ModelSettings(name=str(tmp_path)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MachineError, match="HF_HUB_OFFLINE is set"):
        load_model(ModelSettings(name=str(tmp_path)))
    with pytest.raises(MachineError, match=r"model\.device=cpu"):
        load_model(ModelSettings(name=str(tmp_path), device="cuda:99"))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(UsageError, match="no-such-architecture"):
        load_model(ModelSettings(name=str(tmp_path)))


def test_damaged_weights_are_reported(tmp_path: Path) -> None:
    save_model(tiny_model("llama"), make_tokenizer(), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(MachineError, match="cannot load the model"):
        load_model(ModelSettings(name=str(tmp_path / "model")))
