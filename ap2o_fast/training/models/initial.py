"""The initial weights in the middle of training, for the reference log-probabilities of fresh answers.

Adapters are switched off, that is all. Where all weights are trained, the trained ones wait in the host's memory and
the initial ones are read into their place: no second model is on the device, beside all that the optimiser keeps there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from ap2o_fast.config import ModelSettings
from ap2o_fast.errors import DataError, MachineError
from ap2o_fast.training.models.adapters import adapters_off, is_adapted
from ap2o_fast.training.models.save import model_hash
from ap2o_fast.training.models.shards import fill_shards
from ap2o_fast.training.parallel.distributed import ALONE, World
from ap2o_fast.training.parallel.sharding import local


@contextmanager
def initial_weights(
    model: PreTrainedModel, settings: ModelSettings, expected: str, world: World = ALONE
) -> Iterator[None]:
    """Inside, the model computes as it did before training; after, also after an error, it is to the bit what it was.

    Args:
        settings: where the initial weights are.
        expected: their hash, `model_hash` of the untrained model.
        world: the processes that have the model in shards and call this together.

    Errors: `DataError` where the weights inside do not have that hash, `MachineError` where they cannot be read.
    """
    if is_adapted(model):
        _check(model, settings, expected)
        with adapters_off(model):
            yield
        return
    trained = {name: local(parameter.detach()) for name, parameter in model.named_parameters()}
    kept = {name: tensor.to("cpu", copy=True) for name, tensor in trained.items()}
    try:
        _read_into(model, settings, world)
        _check(model, settings, expected)
        yield
    finally:
        for name, tensor in trained.items():
            tensor.copy_(kept[name])


def _read_into(model: PreTrainedModel, settings: ModelSettings, world: World) -> None:
    """Give the model's parameters, where they are, the values of the initial ones."""
    try:
        if world.size > 1:
            fill_shards(model, settings, world)
            return
        loaded = AutoModelForCausalLM.from_pretrained(settings.name, revision=settings.revision, dtype=model.dtype)
        for name, parameter in loaded.named_parameters():
            model.get_parameter(name).detach().copy_(parameter.detach())
    except (OSError, SafetensorError) as error:
        raise MachineError(
            f"the initial weights of {settings.name} cannot be read again",
            why=str(error).splitlines()[0],
            do="restore the model, then `ap2o resume` the run",
        ) from error


def _check(model: PreTrainedModel, settings: ModelSettings, expected: str) -> None:
    found = model_hash(model)
    if found != expected:
        raise DataError(
            f"{settings.name} is not the model that this run began with",
            why=f"its weights hash to {found[:12]}, the run's to {expected[:12]}",
            do="restore the model, then `ap2o resume` the run",
        )
