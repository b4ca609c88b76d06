"""A model's weights in shards, one a process, by PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`).

Parameters are `DTensor`s of the model's own dtype, of which the optimiser makes float32 masters and its states as it
does of plain ones. Float32 shards that are cast when they are gathered would save the bfloat16 ones (2 of 18 bytes a
weight), but always round to the nearest, and what is gathered, hashed, saved and scored would no longer be one and the
same model on any number of processes. Gradients are added up over the processes in float32, never averaged: the loss is
normalised by the pairs of the whole step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ap2o_fast.errors import MachineError, UsageError
from ap2o_fast.training.parallel.distributed import World

P = ParamSpec("P")
Result = TypeVar("Result")
_FORWARD = "forward_of_all"


def shard_model(model: PreTrainedModel, world: World) -> PreTrainedModel:
    """Divide the weights among the processes: a unit a decoder layer, one for an embedding that is not tied, and one
    for the rest with the head, which is whole during a forward pass and its backward.

    Returns: the same object, as it is for one process. Shard before the optimiser is made.

    Errors: `UsageError` for weights that are no floating-point numbers (quantised ones).
    """
    if world.mesh is None:
        return model
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise UsageError(
                f"a quantised model cannot be divided among {world.size} processes ({name} is {parameter.dtype})",
                do="train it in one process, or take the model in bfloat16",
            )
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32 if model.dtype != torch.float64 else None)
    decoder, embedding = model.get_decoder(), model.get_input_embeddings()
    units = [*decoder.layers]
    if embedding.weight is not model.get_output_embeddings().weight:
        units.append(embedding)
    for unit in [*units, model]:
        fully_shard(unit, mesh=world.mesh, mp_policy=policy)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    setattr(model, _FORWARD, lambda call: call())
    register_fsdp_forward_method(model, _FORWARD)
    return model


def forward_pass(
    function: Callable[Concatenate[PreTrainedModel, P], Result],
) -> Callable[Concatenate[PreTrainedModel, P], Result]:
    """Decorator of a function of a model (its first argument) that runs it and takes its head's weight besides.

    On a sharded model the whole function is the forward pass: the weights of the root are whole within. What it returns
    must hold the loss in tuples, lists or dictionaries.
    """

    @functools.wraps(function)
    def run(model: PreTrainedModel, *args: P.args, **kwargs: P.kwargs) -> Result:
        if not isinstance(model, FSDPModule):
            return function(model, *args, **kwargs)
        found: Result = getattr(model, _FORWARD)(lambda: function(model, *args, **kwargs))
        if not torch.is_grad_enabled():
            reshard(model)
        return found

    return run


def reshard(model: PreTrainedModel) -> None:
    """Free what a forward pass has gathered of the root and keeps for a backward pass, where none is to come."""
    if isinstance(model, FSDPModule):
        model.reshard()


@contextmanager
def unsharded(model: PreTrainedModel) -> Iterator[None]:
    """Inside, every process has all weights, and a forward pass in one needs none of the others: to sample answers.

    The model's parameters are ordinary whole tensors then, those of the shards to the bit. They are gathered where FSDP
    puts them for a forward pass and freed at the end: one copy of the model a process for that time. They must not be
    trained inside. All processes enter.

    Errors: `MachineError` where they do not fit.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not units:
        yield
        return
    try:
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        yield
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"{model.config.name_or_path} does not fit whole on {model.device}, beside what training keeps there",
            why=str(error),
            do="lower sampling.batch_answers if it was the answers' cache that did not fit, or take a smaller model",
        ) from error
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not model, recurse=False)
            unit.reshard()


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is one process's view of a tensor that is divided among several."""
    return isinstance(tensor, DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard, sharing its memory; a tensor that is not sharded as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_as(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`values`, this process's rows of something with as many as `parameter`, as a tensor that knows the whole.

    It shares their memory if they are on the device of `parameter`.
    """
    if not isinstance(parameter, DTensor) or isinstance(values, DTensor):
        return values
    all_of_it = torch.empty(len(parameter), *values.shape[1:], device="meta")
    return DTensor.from_local(
        values,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=all_of_it.shape,
        stride=all_of_it.stride(),
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a sharded tensor, on every process, which must all ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_rank(tensor: torch.Tensor) -> int:
    """Which shard this process has of `tensor`, from 0."""
    return int(tensor.device_mesh.get_local_rank(-1)) if isinstance(tensor, DTensor) else 0
