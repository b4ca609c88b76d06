"""The initial weights in the middle of training: inside they are those, afterwards the trained ones are back.

`torchrun_program.py` holds weights in shards to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ap2o_fast.config import LossSettings, ModelSettings, TrainSettings
from ap2o_fast.errors import DataError, MachineError
from ap2o_fast.training import Engine, initial_weights, load_model, model_hash, score
from tests.training.adapted import BOOK, ROWS, load, make_trainer, settings, train, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("initial") / "base")


def make_engine(model_settings: ModelSettings) -> tuple[Engine, str]:
    """One that can take six steps, and the hash of the weights that it begins with."""
    model, _ = load_model(model_settings)
    how = TrainSettings(lr=1e-2, warmup=0.0, token_budget=64)
    return Engine(model, train=how, loss=LossSettings(), total_steps=6), model_hash(model)


def bytes_of(engine: Engine) -> list[bytes]:
    return [value.detach().clone().view(torch.uint8).numpy().tobytes() for value in engine.model.parameters()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_scored_inside_is_the_untrained_model_and_training_goes_on_as_if_nothing_had_been(
    base: Path, dtype: str
) -> None:
    plain = ModelSettings.model_validate({"name": str(base), "dtype": dtype})
    histories = []
    for interrupts in (False, True):
        engine, initial = make_engine(plain)
        reference = score(engine.model, BOOK, ROWS, 64)
        history = train(engine, reference, 3)
        if interrupts:
            trained = score(engine.model, BOOK, ROWS, 64)
            before = bytes_of(engine)
            with initial_weights(engine.model, plain, initial):
                assert np.array_equal(score(engine.model, BOOK, ROWS, 64), reference)
            assert np.abs(trained - reference).max() > 0.05, "scoring under the trained weights would be seen"
            assert bytes_of(engine) == before
        histories.append(history + train(engine, reference, 3))
    assert histories[0] == histories[1]


def test_adapters_are_switched_off(base: Path) -> None:
    model = load(base, "lora")
    initial, reference = model_hash(model), score(model, BOOK, ROWS, 64)
    train(make_trainer(model), reference, 4)
    trained = score(model, BOOK, ROWS, 64)
    with initial_weights(model, settings(base, "lora")[0], initial):
        assert np.array_equal(score(model, BOOK, ROWS, 64), reference)
    assert np.array_equal(score(model, BOOK, ROWS, 64), trained) and np.abs(trained - reference).max() > 0.05


def test_the_trained_weights_come_back_after_any_error(base: Path, tmp_path: Path) -> None:
    plain = ModelSettings(name=str(base))
    engine, initial = make_engine(plain)
    train(engine, score(engine.model, BOOK, ROWS, 64), 2)
    before = bytes_of(engine)
    with pytest.raises(RuntimeError, match="inside"), initial_weights(engine.model, plain, initial):
        raise RuntimeError("inside")
    assert bytes_of(engine) == before
    other = write_base(tmp_path / "other", "llama")
    elsewhere = plain.model_copy(update={"name": str(tmp_path / "gone")})
    with pytest.raises(MachineError, match="cannot be read again"), initial_weights(engine.model, elsewhere, initial):
        pytest.fail("there is nothing to read")
    with pytest.raises(DataError, match="not the model"), initial_weights(engine.model, plain, "0" * 32):
        pytest.fail("another model than the run's")
    elsewhere = plain.model_copy(update={"name": str(other)})
    with pytest.raises(DataError, match="not the model"), initial_weights(engine.model, elsewhere, initial):
        pytest.fail("another model than the run's")
    assert bytes_of(engine) == before
