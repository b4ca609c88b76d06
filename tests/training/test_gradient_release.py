"""Weights updated within the backward pass: the same way to the bit, gradients never all at once, nothing half done."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ap2o_fast.config import AdapterSettings, LossSettings, TrainSettings, load
from ap2o_fast.errors import NumericalError, UsageError
from ap2o_fast.training import Engine, adapt, load_checkpoint, model_hash, save_checkpoint, score
from ap2o_fast.training.models.compiled import compile_blocks
from ap2o_fast.training.parallel.distributed import World
from tests.training.support import ANSWERS, PAIRS, PROMPTS, make_book, make_plan, tiny_model

BOOK = make_book(PROMPTS * 3, ANSWERS * 3)
PLAN = make_plan(BOOK, [(9 * i + chosen, 9 * i + rejected) for i in range(3) for chosen, rejected in PAIRS])
BFLOAT16 = torch.bfloat16
SAME = ("loss", "grad_norm", "logps/chosen", "learning_rate", "step")


def make_trainer(kind: str = "qwen2", dtype: torch.dtype = torch.float32, **settings: object) -> Engine:
    # 320 tokens, so that the embedding consists of whole blocks, as those of real models.
    model = tiny_model(kind, dtype, vocab_size=320)
    if rank := settings.pop("rank", 0):
        adapt(model, AdapterSettings(kind="dora", rank=rank))
    if settings.pop("compiled", False):
        compile_blocks(model, backend="aot_eager")
    common = {"lr": 1e-3, "warmup": 0.25, "clip": 0, "token_budget": 256, "gradient_release": True}
    train = TrainSettings.model_validate(common | settings)
    return Engine(model, train=train, loss=LossSettings(), total_steps=8)


def references(trainer: Engine) -> np.ndarray:
    return score(trainer.model, BOOK, np.arange(len(BOOK)), 256, reference=True)


def states(trainer: Engine) -> dict[str, torch.Tensor]:
    weights = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    return weights | {name: state.clone() for name, state in trainer.optimizer.state_tensors().items()}


def learn(trainer: Engine, steps: int = 3) -> list[dict[str, float]]:
    reference = references(make_trainer("llama" if trainer.model.config.model_type == "llama" else "qwen2"))
    if trainer.model.dtype == BFLOAT16:
        reference = references(trainer)
    found = list(trainer.train_steps([PLAN, PLAN[3:], PLAN[:9]][:steps], BOOK, reference))
    return [{name: line[name] for name in SAME} for line in found]


CASES: dict[str, tuple[str, torch.dtype, dict[str, object]]] = {
    "tied": ("qwen2", torch.float32, {}),
    "untied": ("llama", torch.float32, {"weight_decay": 0.1}),
    "checkpointing": ("qwen2", torch.float32, {"gradient_checkpointing": True, "activation_offload": True}),
    "8-bit": ("llama", torch.float32, {"optimizer": "adamw_8bit"}),
    "offloaded": ("qwen2", torch.float32, {"offload_optimizer": True}),
    "masters": ("qwen2", BFLOAT16, {"rounding": "nearest"}),
    "masters, 8-bit, offloaded": (
        "qwen2",
        BFLOAT16,
        {"rounding": "nearest", "optimizer": "adamw_8bit", "offload_optimizer": True},
    ),
    "adapters": ("qwen2", torch.float32, {"rank": 4}),
    "compiled": ("qwen2", torch.float32, {"compiled": True}),
    "deterministic": ("qwen2", torch.float32, {"deterministic": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_way_is_the_same_to_the_bit(case: str) -> None:
    kind, dtype, settings = CASES[case]
    ours, plain = (make_trainer(kind, dtype, **settings, gradient_release=release) for release in (True, False))
    start = states(ours)
    assert learn(ours) == learn(plain)
    expected = states(plain)
    for name, value in states(ours).items():
        assert torch.equal(value, expected[name]), name
    assert any(not torch.equal(value, start[name]) for name, value in expected.items() if value.dim() > 1)


@pytest.mark.parametrize("changes", [{}, {"masters": False, "optimizer": "adamw_8bit"}])
def test_what_is_rounded_by_chance_is_rounded_by_other_draws_only(changes: dict[str, object]) -> None:
    """One step from equal weights: equal moments and masters, weights that are one of two neighbours."""
    ours, plain = (
        make_trainer("qwen2", BFLOAT16, warmup=0.0, gradient_release=release, **changes) for release in (True, False)
    )
    reference = references(plain)
    for trainer in (ours, plain):
        trainer.train_step(PLAN, BOOK, reference)
    expected, found = states(plain), states(ours)
    differ = 0
    for name, value in expected.items():
        if name.partition(".")[0] in ("master", "exp_avg", "exp_avg_sq", "exp_avg_scale", "step"):
            assert torch.equal(found[name], value), name
        elif value.dtype == BFLOAT16:
            apart = (found[name].float() - value.float()).abs()
            assert bool((apart <= value.float().abs() * 2**-7 + 1e-9).all()), name
            differ += int((apart > 0).sum())
    assert differ > 100


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@pytest.mark.parametrize("release", [True, False])
def test_gradients_never_exist_all_at_once(release: bool, dtype: torch.dtype) -> None:
    trainer = make_trainer("llama", dtype, gradient_release=release)
    alive = []

    def count(_: torch.Tensor) -> None:
        there = [g for p in trainer.optimizer.parameters for g in (p.model.grad, p.sum) if g is not None]
        alive.append(sum(gradient.nbytes for gradient in there))

    for parameter in trainer.model.parameters():
        parameter.register_post_accumulate_grad_hook(count)
    trainer.train_step(PLAN, BOOK, references(trainer))
    sizes = [parameter.nbytes for parameter in trainer.model.parameters()]
    vectors = sum(parameter.nbytes for parameter in trainer.model.parameters() if parameter.dim() == 1)
    assert len(alive) == len(sizes)
    if release:
        assert max(alive) <= max(sizes) + vectors < 0.5 * sum(sizes)
    else:
        assert max(alive) == sum(sizes)
    assert all(p.gradient is None and p.model.grad is None for p in trainer.optimizer.parameters)


def test_resumed_equals_uninterrupted_with_rounding_by_chance(tmp_path: Path) -> None:
    how = {"masters": False, "optimizer": "adamw_8bit"}
    straight = make_trainer("qwen2", BFLOAT16, **how)
    reference = references(straight)
    straight.train_step(PLAN, BOOK, reference)
    save_checkpoint(tmp_path, straight, {})
    resumed = make_trainer("qwen2", BFLOAT16, **how)
    load_checkpoint(tmp_path, resumed)
    for trainer in (straight, resumed):
        list(trainer.train_steps([PLAN[2:], PLAN], BOOK, reference))
    expected = states(straight)
    assert all(torch.equal(value, expected[name]) for name, value in states(resumed).items())


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    trainer = make_trainer(warmup=0.0)
    reference = references(trainer)
    trainer.train_step(PLAN, BOOK, reference)
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight[0, 0] = math.nan
    before = states(trainer)
    with pytest.raises(NumericalError, match=r"step 2: loss is nan; the weights were not changed"):
        trainer.train_step(PLAN, BOOK, reference)
    assert all(torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in states(trainer).items())
    assert not trainer.damaged and trainer.step == 1


def test_a_gradient_that_is_not_finite_ends_the_run_until_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    """It comes late in the backward pass of step 2: the head and the last layer have had their step by then."""
    trainer, straight = (make_trainer(warmup=0.0) for _ in range(2))
    reference = references(trainer)
    trainer.train_step(PLAN, BOOK, reference)
    save_checkpoint(tmp_path, trainer, {})
    before = states(trainer)
    layer = trainer.model.get_decoder().layers[0]
    hook = layer.mlp.up_proj.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NumericalError, match=r"step 2: gradient norm is (nan|inf); the weights were changed in part"):
        list(trainer.train_steps([PLAN] * 3, BOOK, reference))
    hook.remove()
    after = states(trainer)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any(".layers.1." in name for name in changed)
    assert not any(name.endswith(("layers.0.mlp.up_proj.weight", "embed_tokens.weight")) for name in changed)
    assert all(bool(value.isfinite().all()) for value in after.values())
    for use in (lambda: trainer.train_step(PLAN, BOOK, reference), lambda: save_checkpoint(tmp_path, trainer, {})):
        with pytest.raises(NumericalError, match=r"between two steps(?s:.*)last checkpoint"):
            use()
    load_checkpoint(tmp_path, trainer)
    straight.train_step(PLAN, BOOK, reference)
    for one in (trainer, straight):
        one.train_step(PLAN, BOOK, reference)
    assert model_hash(trainer.model) == model_hash(straight.model)


def test_a_step_that_breaks_off_leaves_weights_that_are_not_used(tmp_path: Path) -> None:
    trainer = make_trainer()

    def fail(_: torch.Tensor) -> None:
        raise MemoryError

    handle = trainer.model.get_decoder().layers[0].mlp.up_proj.weight.register_hook(fail)
    with pytest.raises(MemoryError):
        trainer.train_step(PLAN, BOOK, references(trainer))
    handle.remove()
    with pytest.raises(NumericalError, match="between two steps"):
        save_checkpoint(tmp_path, trainer, {})


def test_what_release_does_not_go_with_is_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.clip = 1(?s:.*)train\.clip=0"):
        load(None, ["train.gradient_release=true"])
    with pytest.raises(UsageError, match=r"train\.clip = 0\.5"):
        make_trainer(clip=0.5)
    with pytest.raises(UsageError, match="2 processes"):
        Engine(
            tiny_model("qwen2"),
            train=TrainSettings(clip=0, gradient_release=True),
            loss=LossSettings(),
            total_steps=1,
            world=World(size=2),
        )
    trainer = make_trainer(token_budget=64)
    before, reference = model_hash(trainer.model), references(trainer)
    with pytest.raises(UsageError, match=r"step 1 takes 3 forward passes(?s:.*)train\.token_budget to at least 183"):
        trainer.train_step(PLAN, BOOK, reference)
    assert model_hash(trainer.model) == before
    assert trainer.train_step(PLAN[:5], BOOK, reference)["step"] == 1
