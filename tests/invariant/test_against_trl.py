"""TRL's DPOTrainer on the same pairs: same losses, rewards, gradient norms and weights, step by step, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.training import Trainer, score
from tests.training.support import MemoryBook, make_book, make_plan, plain_model, tiny_model
from tests.training.test_model import make_tokenizer

pytest.importorskip("trl", reason="TRL is the oracle here; it is in the `dev` extra")
datasets = pytest.importorskip("datasets", reason="TRL's datasets are not installed")

STEPS, BATCH, LR, BETA, CLIP = 8, 3, 2e-3, 0.2, 1.0
NAMES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


def make_pairs() -> tuple[MemoryBook, list[tuple[int, int]]]:
    """24 pairs on 4 problems of 6 answers; answers are in several pairs of a step. All end with EOS, as TRL's."""
    book = make_book([6, 3, 9, 4], [[7, 3, 5, 8, 1, 6]] * 4, seed=5)
    for answer in book.answers:
        answer[-1] = 2
    chance = np.random.default_rng(2)
    pairs = []
    for _ in range(STEPS * BATCH):
        problem = int(chance.integers(4))
        chosen, rejected = chance.choice(6, size=2, replace=False)
        pairs.append((6 * problem + int(chosen), 6 * problem + int(rejected)))
    return book, pairs


def by_trl(book: MemoryBook, pairs: list[tuple[int, int]], folder: Path) -> tuple[list[dict[str, float]], Any]:
    from trl import DPOConfig, DPOTrainer

    def text(tokens: np.ndarray) -> str:
        return " ".join("<eos>" if token == 2 else f"t{token}" for token in tokens)

    rows = [
        {
            "prompt": text(book.prompts[book.problems[chosen]]),
            "chosen": " " + text(book.answers[chosen]),
            "rejected": " " + text(book.answers[rejected]),
        }
        for chosen, rejected in pairs
    ]
    losses: list[float] = []

    class Recording(DPOTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            losses.append(float(loss.detach()))
            return loss

    plain_model("qwen2").save_pretrained(folder / "model")
    trainer = Recording(
        model=str(folder / "model"),
        args=DPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            beta=BETA,
            learning_rate=LR,
            warmup_steps=0.25,
            lr_scheduler_type="linear",
            optim="adamw_torch",
            weight_decay=0.0,
            max_grad_norm=CLIP,
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=make_tokenizer(),
    )
    for example, (chosen, rejected) in zip(trainer.train_dataset, pairs, strict=True):
        assert example["prompt_ids"] == book.prompts[book.problems[chosen]].tolist()
        assert example["chosen_ids"] == book.answers[chosen].tolist()
        assert example["rejected_ids"] == book.answers[rejected].tolist()
    trainer.train()
    logged = [line for line in trainer.state.log_history if "grad_norm" in line]
    return [line | {"loss": loss} for line, loss in zip(logged, losses, strict=True)], trainer.model


def test_trajectory_equals_trl(tmp_path: Path) -> None:
    book, pairs = make_pairs()
    theirs, their_model = by_trl(book, pairs, tmp_path)

    settings = TrainSettings(lr=LR, warmup=0.25, clip=CLIP, token_budget=64, chunk_rows=16)
    trainer = Trainer(tiny_model("qwen2"), train=settings, loss=LossSettings(beta=BETA), total_steps=STEPS)
    reference = score(trainer.model, book, np.arange(len(book)), 64)
    steps = [make_plan(book, pairs[BATCH * i : BATCH * (i + 1)]) for i in range(STEPS)]
    ours = [trainer.train_step(plan, book, reference) for plan in steps]

    assert len(theirs) == STEPS
    for mine, line in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(line["loss"], abs=2e-5)
        assert mine["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)
        assert mine["learning_rate"] == pytest.approx(line["learning_rate"])
        for name in NAMES:
            assert mine[name] == pytest.approx(line[name], abs=1e-3), name
    assert abs(ours[-1]["loss"] - ours[0]["loss"]) > 0.05, "the run must go somewhere"
    start = plain_model("qwen2").state_dict()
    for name, weight in their_model.state_dict().items():
        moved = float((weight - start[name]).abs().max())
        assert float((trainer.model.state_dict()[name] - weight).abs().max()) <= max(0.02 * moved, 1e-6), name
    assert torch.isfinite(weight).all()
