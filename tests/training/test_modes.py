"""Deterministic mode, traces of chosen steps, and Liger's layers in the place of the model's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from ap2o_fast.config import LossSettings, ModelSettings, TrainSettings
from ap2o_fast.errors import MachineError, UsageError
from ap2o_fast.training import Engine, load_model, prepare_model, save_model, score
from ap2o_fast.training.deterministic import deterministic
from ap2o_fast.training.engine import Launched
from ap2o_fast.training.models.liger import layers_in_use, replace_layers, use_liger, uses_liger
from ap2o_fast.training.profile import StepProfiler, parse_steps
from tests.training.support import ANSWERS, CONFIGS, PAIRS, PROMPTS, make_book, make_plan, plain_model, tiny_model
from tests.training.test_model import make_tokenizer

BOOK = make_book(PROMPTS, ANSWERS)
PLAN = make_plan(BOOK, PAIRS)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def steps(folder: Path, count: int, **settings: object) -> Engine:
    train = TrainSettings.model_validate({"token_budget": 200} | settings)
    trainer = Engine(tiny_model("qwen2"), train=train, loss=LossSettings(), total_steps=9, profiles=folder)
    reference = score(trainer.model, BOOK, np.arange(len(BOOK)), 200)
    for _ in range(count):
        trainer.train_step(PLAN, BOOK, reference)
    return trainer


def test_deterministic_holds_within_the_step_and_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    real = Engine._launch

    def look(*args: object) -> Launched:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "_launch", look)
    steps(tmp_path, 1, deterministic=True)
    steps(tmp_path, 1)
    assert seen == [True, False]
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ZeroDivisionError), deterministic(True, CPU):
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_deterministic_way_is_named() -> None:
    refused = pytest.raises(UsageError, match=r"(?s)train\.deterministic.*put_.*train\.deterministic=false")
    with refused, deterministic(True, CPU):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1), accumulate=False)
    with pytest.raises(RuntimeError, match="size"), deterministic(True, CPU):
        torch.zeros(3) + torch.zeros(4)


def test_a_gpu_needs_the_workspace_of_cublas_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(UsageError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"), deterministic(True, GPU):
        pass
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(True, GPU):
        assert torch.are_deterministic_algorithms_enabled()


def test_chosen_steps_are_one_trace_and_others_none(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    steps(folder, 4, profile_steps="2-3")
    (file,) = folder.iterdir()
    assert file.name == "steps-2-3.json.gz"
    names = {event.get("name", "") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]}
    assert {"step 2", "step 3"} <= names and not {"step 1", "step 4"} & names
    assert any("scaled_dot_product" in name for name in names)


def test_a_step_that_fails_leaves_no_trace_and_no_recording(tmp_path: Path) -> None:
    profiler = StepProfiler("1-2", tmp_path / "profiles")
    with pytest.raises(ZeroDivisionError), profiler.step(1):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with profiler.step(2):
        torch.zeros(2).sum()
    assert [path.name for path in (tmp_path / "profiles").iterdir()] == ["steps-1-2.json.gz"]
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write the trace"), StepProfiler("7", tmp_path / "file").step(7):
        pass


@pytest.mark.parametrize("text", ["0", "5-3", "x", "3-", "1,2", "-2"])
def test_what_names_no_steps_is_refused(text: str) -> None:
    assert parse_steps("3-5") == (3, 5) and parse_steps("4") == (4, 4)
    with pytest.raises(UsageError, match=r"train\.profile_steps"):
        parse_steps(text)


@pytest.mark.parametrize("kind", CONFIGS)
def test_ligers_layers_hold_the_models_parameters_and_leave_the_head(kind: str, tmp_path: Path) -> None:
    liger = pytest.importorskip("liger_kernel.transformers")
    model = plain_model(kind)
    head, forward, before = model.lm_head, type(model).forward, model.state_dict(keep_vars=True)
    module = __import__(type(model).__module__, fromlist=["_"])
    globally = dict(vars(module))
    # A normalisation at the end, two a layer, with Qwen3's on queries and keys four; an MLP a layer.
    assert replace_layers(model) == 1 + 2 * (5 if kind == "qwen3" else 3)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert not [
        n for n, m in model.named_modules() if type(m).__name__.endswith(("RMSNorm", "MLP")) and not is_liger(m)
    ]
    assert {type(layer.mlp) for layer in model.model.layers} == {liger.LigerSwiGLUMLP}
    assert isinstance(model.model.norm, liger.LigerRMSNorm) and model.model.norm.variance_epsilon == 1e-6
    assert model.lm_head is head and type(head) is torch.nn.Linear
    assert model.forward.__func__ is forward is type(model).forward
    assert vars(module) == globally, "another model of the kind must not notice"
    assert uses_liger(model) and not uses_liger(plain_model(kind))
    assert not any(m.training for m in model.modules())
    assert not any(parameter.is_meta for parameter in model.parameters())


def is_liger(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith("liger_kernel")


def test_a_model_with_ligers_layers_is_saved_as_an_ordinary_one(tmp_path: Path) -> None:
    pytest.importorskip("liger_kernel.transformers")
    plain = plain_model("qwen3", seed=3)
    model = plain_model("qwen3", seed=3)
    replace_layers(model)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[4, 5, 6]])
    assert torch.equal(again(ids).logits, plain(ids).logits)


def test_liger_is_refused_by_name_where_it_cannot_run(tmp_path: Path) -> None:
    model = plain_model("llama")
    assert use_liger(model, "auto") == use_liger(model, False) == 0
    with pytest.raises(UsageError, match=r"(?s)model\.liger=true.*on cpu"):
        use_liger(model, True)
    save_model(prepare_model(model), make_tokenizer(), tmp_path / "model")
    with pytest.raises(UsageError, match=r"model\.liger=true"):
        load_model(ModelSettings(name=str(tmp_path / "model"), liger=True))


def test_liger_steps_aside_for_the_compiler(tmp_path: Path) -> None:
    """Decided for a GPU, which need not be there."""
    pytest.importorskip("liger_kernel.transformers")
    model = plain_model("llama")
    assert use_liger(model, "auto", GPU, compiled=True) == 0
    assert layers_in_use(model, "auto", compiled=True) == "false: train.compile fuses the model's own layers"
    with pytest.raises(UsageError, match=r"model\.liger=true(?s:.*)train\.compile"):
        use_liger(model, True, GPU, compiled=True)
    assert use_liger(model, "auto", GPU) > 0
    assert layers_in_use(model, "auto", compiled=False) == "true"
    with pytest.raises(UsageError, match=r"train\.compile"):
        Engine(model, train=TrainSettings(compile=True), loss=LossSettings(), total_steps=1)
