"""A program for torchrun: train a tiny model in as many processes as there are, and save it; then again by `Trainer`.

Argument: a folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tiny import byte_tokenizer

from ap2o_fast import Trainer
from ap2o_fast.config import LossSettings, ModelSettings, TrainSettings
from ap2o_fast.errors import UsageError
from ap2o_fast.training import (
    Engine,
    check_head,
    initial_weights,
    load_checkpoint,
    load_model,
    model_hash,
    save_checkpoint,
    save_model,
    score,
)
from ap2o_fast.training.parallel.distributed import join, processes, together
from tests.training.support import ANSWERS, PAIRS, PROMPTS, make_book, make_plan, plain_model


def main(folder: Path) -> None:
    book = make_book(PROMPTS, ANSWERS)
    plan = make_plan(book, PAIRS)
    train, loss = TrainSettings(lr=1e-3, token_budget=64), LossSettings()
    with join("cpu", deadline=train.deadline) as world:

        def write_model() -> None:
            if world.rank == 0:
                plain_model("qwen2").save_pretrained(folder / "model")
                byte_tokenizer().save_pretrained(folder / "model")

        together(write_model, world)
        settings = ModelSettings(name=str(folder / "model"), threads=1)
        model, tokenizer = load_model(settings, world=world)
        check_head(loss, model)
        rows, initial = np.arange(len(book)), model_hash(model)
        reference = score(model, book, rows, train.token_budget, world=world)
        trainer = Engine(model, train=train, loss=loss, total_steps=2, world=world)
        for metrics in trainer.train_steps([plan, plan], book, reference):
            if world.rank == 0:
                print(f"step {metrics['step']} of 2: loss {metrics['loss']:.4f}")
        trained = score(model, book, rows, train.token_budget, world=world)
        assert np.abs(trained - reference).max() > 1e-3, "it has learnt"
        with initial_weights(model, settings, initial, world):
            again = score(model, book, rows, train.token_budget, world=world)
            assert np.array_equal(again, reference), "fresh answers are scored by the initial weights"
        assert np.array_equal(score(model, book, rows, train.token_budget, world=world), trained)
        save_checkpoint(folder / "checkpoints", trainer, {})
        load_checkpoint(folder / "checkpoints", trainer)
        save_model(model, tokenizer, folder / "trained", world=world)


def main_of_trainer(folder: Path) -> None:
    rows = [{"prompt": "a b", "chosen": " c", "rejected": " d"}, {"prompt": "e f", "chosen": " g", "rejected": " h"}]
    small = {"epochs": 2, "batch_pairs": 1, "token_budget": 64}
    trainer = Trainer(str(folder / "model"), rows, run_dir=str(folder / "run"), train=small, quiet=True)
    done = trainer.train()
    assert trainer.train() == done, "a finished run is not trained again, and the processes can meet again"
    assert trainer.model is None
    if processes() > 1:
        try:
            Trainer(plain_model("qwen2"), rows, tokenizer=byte_tokenizer(), run_dir=str(folder / "other"))
        except UsageError as error:
            print(f"refused: {error.what}")


main(Path(sys.argv[1]))
main_of_trainer(Path(sys.argv[1]))
