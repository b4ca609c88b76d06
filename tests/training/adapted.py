"""A tiny model on the disk, and the ways to adapt it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from ap2o_fast.config import AdapterSettings, LossSettings, ModelSettings, TrainSettings
from ap2o_fast.training import Engine, load_adapter, load_model, save_model, score
from tests.training.support import ANSWERS, PAIRS, PROMPTS, make_book, make_plan, tiny_model
from tests.training.test_model import make_tokenizer

BOOK = make_book(PROMPTS, ANSWERS)
PLAN = make_plan(BOOK, PAIRS)
ROWS = np.arange(len(BOOK))
# Adapter, quantisation, dtype.
KINDS = {
    "lora": ("lora", "none", "float32"),
    "lora in half precision": ("lora", "none", "bfloat16"),
    "dora": ("dora", "none", "float32"),
    "dora in half precision": ("dora", "none", "bfloat16"),
    "qlora": ("lora", "nf4", "float32"),
    "qlora in half precision": ("lora", "nf4", "bfloat16"),
    "qdora": ("dora", "nf4", "float32"),
}


def write_base(folder: Path, kind: str = "qwen2") -> Path:
    """An ordinary checkpoint."""
    save_model(tiny_model(kind), make_tokenizer(), folder)
    return folder


def settings(base: Path, which: str, **adapter: object) -> tuple[ModelSettings, AdapterSettings]:
    """How to load it in one of `KINDS`."""
    adapted, quantization, dtype = KINDS[which]
    model = ModelSettings.model_validate({"name": str(base), "quantization": quantization, "dtype": dtype})
    return model, AdapterSettings.model_validate({"kind": adapted, "rank": 4, "alpha": 8} | adapter)


def load(base: Path, which: str, *, seed: int = 0, trained: Path | None = None, **adapter: object) -> PreTrainedModel:
    """The model with new or trained adapters."""
    model, _ = load_model(*settings(base, which, **adapter), seed=seed)
    if trained is not None:
        load_adapter(model, trained)
    return model


def make_trainer(model: PreTrainedModel, **train: object) -> Engine:
    """For six steps."""
    how = TrainSettings.model_validate({"lr": 2e-2, "warmup": 0.2, "token_budget": 64} | train)
    return Engine(model, train=how, loss=LossSettings(), total_steps=6)


def train(trainer: Engine, reference: np.ndarray, steps: int) -> list[tuple[float, ...]]:
    """The metrics of so many steps."""
    names = ("loss", "grad_norm", "learning_rate", "logps/chosen", "step")
    found = [trainer.train_step(PLAN[trainer.step % 2 :], BOOK, reference) for _ in range(steps)]
    return [tuple(line[name] for name in names) for line in found]


def trained_model(base: Path, kind: str, steps: int = 4) -> PreTrainedModel:
    """A model whose adapters have learnt something."""
    model = load(base, kind)
    train(make_trainer(model), score(model, BOOK, ROWS, 64), steps)
    return model
