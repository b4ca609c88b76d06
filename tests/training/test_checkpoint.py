"""Checkpoints: bit-exact, complete or absent, old one safe until the new one is."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.errors import DataError, MachineError
from ap2o_fast.training import Engine, latest_checkpoint, load_checkpoint, model_hash, save_checkpoint, score
from tests.training.support import ANSWERS, PAIRS, PROMPTS, make_book, make_plan, tiny_model

SHARD = "shard-00001-model-00001-of-00001.safetensors"
BOOK = make_book(PROMPTS, ANSWERS)
PLAN = make_plan(BOOK, PAIRS)


def make_trainer(dtype: torch.dtype = torch.float32, *, seed: int = 0, steps: int = 6, kind: str = "qwen3") -> Engine:
    settings = TrainSettings(lr=1e-3, warmup=0.3, token_budget=64)
    return Engine(tiny_model(kind, dtype, seed=seed), train=settings, loss=LossSettings(), total_steps=steps)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return score(make_trainer().model, BOOK, np.arange(len(BOOK)), 64)


def train(trainer: Engine, reference: np.ndarray, steps: int) -> list[tuple[float, ...]]:
    names = ("loss", "grad_norm", "learning_rate", "logps/chosen", "step")
    found = [trainer.train_step(PLAN[trainer.step % 2 :], BOOK, reference) for _ in range(steps)]
    return [tuple(line[name] for name in names) for line in found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_resumed_equals_uninterrupted(tmp_path: Path, done: int, dtype: torch.dtype) -> None:
    whole = make_trainer(dtype)
    reference = score(whole.model, BOOK, np.arange(len(BOOK)), 64)
    train(whole, reference, done)
    save_checkpoint(tmp_path, whole, {"epoch": 4, "note": "ü"})
    rest = train(whole, reference, 6 - done)

    resumed = make_trainer(dtype, seed=7)
    assert load_checkpoint(tmp_path, resumed) == {"epoch": 4, "note": "ü"}
    assert resumed.step == done
    assert train(resumed, reference, 6 - done) == rest
    assert model_hash(resumed.model) == model_hash(whole.model)


def test_the_newest_replaces_the_others(tmp_path: Path, reference: np.ndarray) -> None:
    trainer = make_trainer()
    assert latest_checkpoint(tmp_path) is None
    train(trainer, reference, 1)
    first = save_checkpoint(tmp_path, trainer, {"n": 1})
    second = save_checkpoint(tmp_path, trainer, {"n": 2})
    assert first != second, "the same step again must not touch the one before"
    assert load_checkpoint(tmp_path, make_trainer()) == {"n": 2}
    train(trainer, reference, 1)
    third = save_checkpoint(tmp_path, trainer, {"n": 3})
    assert list(tmp_path.iterdir()) == [third] == [latest_checkpoint(tmp_path)]


def test_an_unfinished_one_is_ignored_aloud(
    tmp_path: Path, reference: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer()
    kept = save_checkpoint(tmp_path, trainer, {"n": 1})
    (tmp_path / "step-00000009-0001.partial").mkdir()
    (tmp_path / "step-00000008-0001").mkdir()
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path) == kept
    assert caplog.text.count("incomplete") == 2
    train(trainer, reference, 1)
    assert list(tmp_path.iterdir()) != [kept]
    newest = save_checkpoint(tmp_path, trainer, {"n": 2})
    assert list(tmp_path.iterdir()) == [newest], "left-overs go with the old one"


@pytest.mark.parametrize("name", [SHARD, "state.json"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, reference: np.ndarray) -> None:
    trainer = make_trainer()
    train(trainer, reference, 1)
    path = save_checkpoint(tmp_path, trainer, {}) / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    other = make_trainer(seed=3)
    before = model_hash(other.model)
    with pytest.raises(DataError, match=f"{name} is damaged"):
        load_checkpoint(tmp_path, other)
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is damaged"):
        load_checkpoint(tmp_path, other)
    assert model_hash(other.model) == before


def test_another_model_or_schedule_is_refused(tmp_path: Path, reference: np.ndarray) -> None:
    trainer = make_trainer()
    train(trainer, reference, 1)
    save_checkpoint(tmp_path, trainer, {})
    with pytest.raises(DataError, match=r"does not fit: .* differs"):
        load_checkpoint(tmp_path, make_trainer(kind="llama"))
    with pytest.raises(DataError, match=r"does not fit: .* differs"):
        load_checkpoint(tmp_path, make_trainer(torch.bfloat16))
    with pytest.raises(DataError, match="made for 6 steps, this run plans 7"):
        load_checkpoint(tmp_path, make_trainer(steps=7))
    with pytest.raises(DataError, match="no complete checkpoint"):
        load_checkpoint(tmp_path / "elsewhere", trainer)


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, reference: np.ndarray) -> None:
    trainer = make_trainer()
    kept = save_checkpoint(tmp_path, trainer, {"n": 1})
    train(trainer, reference, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Files may grow to 64 KiB, so writing fails in their midst as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(MachineError, match="free some disk space"):
            save_checkpoint(tmp_path, trainer, {"n": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [kept]
    assert load_checkpoint(tmp_path, make_trainer()) == {"n": 1}


def test_nothing_is_pickled(tmp_path: Path, reference: np.ndarray) -> None:
    trainer = make_trainer()
    train(trainer, reference, 1)
    folder = save_checkpoint(tmp_path, trainer, {})
    assert sorted(path.name for path in folder.iterdir()) == [
        "COMPLETE",
        SHARD,
        "state.json",
    ]
    with safe_open(folder / SHARD, framework="pt") as file:
        assert {"model.model.norm.weight", "exp_avg_sq.model.norm.weight"} < set(file.keys())
