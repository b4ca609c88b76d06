"""AdamW in one pass over slices of a tensor: 8-bit moments, no float32 masters, state in host memory, each by choice.

Own code because no kept library does what a run asks of it. bitsandbytes rounds new bfloat16 weights to the nearest,
and at a learning rate of 5e-7 those do not move. torchao rounds by chance, but from torch's global generator, so that a
resumed run would round otherwise, and in a graph that it compiles for every shape (114 s for three on two cores). Its
offloading wants a GPU and a copy of the weights. None of them leaves a step out on the word of a tensor on the GPU.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from ap2o_fast.config import TrainSettings
from ap2o_fast.training.optimizer.moments import BLOCK, Moment, decode, encode
from ap2o_fast.training.optimizer.rounding import random_bits, round_with
from ap2o_fast.training.parallel.sharding import is_sharded, local

SLICE_ROWS = 1 << 16
"""Blocks of weights that are updated at a time: what that needs beside them stays small."""
SMALLEST = 4096
"""Parameters with fewer weights are left to torch: there is nothing to save."""


@dataclass(frozen=True, kw_only=True)
class Lean:
    """A parameter with what its update needs.

    Attributes:
        weight: what is optimised: a float32 or bfloat16 parameter of the model, or a float32 master.
        copy: the model's bfloat16 parameter where `weight` is its master, else None.
        first, second: moments.
        away: whether moments and master are in host memory, from where slices of them visit the model's device.
    """

    weight: torch.Tensor
    copy: torch.Tensor | None
    first: Moment
    second: Moment
    away: bool


def can_be_lean(parameter: torch.Tensor) -> bool:
    """Whether a parameter consists of whole blocks, and of enough of them; a sharded one every row of it.

    So no block is divided among processes, and all decide alike, whatever rows they have.
    """
    size = parameter.numel()
    return size >= SMALLEST and (size // len(parameter) if is_sharded(parameter) else size) % BLOCK == 0


def make_lean(weight: torch.Tensor, model: torch.Tensor, settings: TrainSettings) -> Lean:
    """Moments at zero for the tensor that is optimised: `model` itself, or its master."""
    device = torch.device("cpu") if settings.offload_optimizer else model.device
    pinned = settings.offload_optimizer and model.is_cuda
    first, second = (torch.int8, torch.uint8) if settings.optimizer == "adamw_8bit" else (torch.float32,) * 2
    size = local(model).numel()
    return Lean(
        weight=local(weight.detach()),
        copy=None if weight is model else local(model.detach()),
        first=Moment.zeros(size, first, device, pinned=pinned),
        second=Moment.zeros(size, second, device, pinned=pinned),
        away=settings.offload_optimizer,
    )


def make_rates(lr: float, settings: TrainSettings, step: int) -> torch.Tensor:
    """What `update` multiplies with at the `step`-th update, counted from 1: (6,) float32, on the host."""
    beta1, beta2 = settings.betas
    size, root = lr / (1 - beta1**step), (1 - beta2**step) ** -0.5
    return torch.tensor([size, root, 1 - lr * settings.weight_decay, 1 - beta1, 1 - beta2, settings.eps])


def update(
    weight: torch.Tensor,
    copy: torch.Tensor | None,
    gradient: torch.Tensor,
    moments: list[list[torch.Tensor]],
    rates: torch.Tensor,
    scale: torch.Tensor,
    good: torch.Tensor,
    bits: torch.Tensor | None,
) -> None:
    """One step of AdamW in place, on rows of BLOCK weights: of `weight`, of `copy` where there is one, of the moments.

    Args:
        gradient: in any float dtype; what counts is `scale`, 0-d, times it.
        moments: `Moment.tensors()` of the first and the second.
        rates: of `make_rates`.
        good: 0-d boolean; False leaves everything as it is.
        bits: `random_bits`: half-precision weights are rounded by chance with them. None: to the nearest.
    """
    size, root, decay, new1, new2, eps = rates.unbind()
    gradient = gradient.float() * scale
    mean, square = decode(moments[0]), decode(moments[1])
    mean = mean + (gradient - mean) * new1
    square = square + (gradient * gradient - square) * new2
    values = weight.float() * decay - size * mean / (square.sqrt() * root + eps)
    for moment, now in zip(moments, (mean, square), strict=True):
        for old, new in zip(moment, encode(now, moment[0].dtype), strict=True):
            old.copy_(torch.where(good, new, old))
    half = weight if copy is None else copy
    if half.dtype == torch.bfloat16:
        rounded = values if bits is None else round_with(values, bits)
        half.copy_(torch.where(good, rounded.to(half.dtype), half))
    if weight.dtype == torch.float32:
        weight.copy_(torch.where(good, values, weight))


@functools.cache
def _compiled() -> Callable[..., None]:
    """On a GPU one kernel a slice instead of forty."""
    return torch.compile(update, fullgraph=True)


@torch.no_grad()
def step(
    lean: Lean,
    gradient: torch.Tensor,
    rates: torch.Tensor,
    scale: torch.Tensor,
    good: torch.Tensor,
    chance: torch.Generator | None,
    turn: Callable[[], AbstractContextManager[object]],
) -> None:
    """Update a parameter slice by slice. Arguments as of `update`, on the gradient's device.

    Args:
        chance: makes the bits; None rounds to the nearest.
        turn: of `take_turns`.
    """
    run = _compiled() if gradient.is_cuda else update
    first, second = lean.first.tensors(), lean.second.tensors()
    homes = [*first, *second] if lean.copy is None else [*first, *second, lean.weight.view(-1, BLOCK)]
    here = (lean.weight if lean.copy is None else lean.copy).view(-1, BLOCK), local(gradient).reshape(-1, BLOCK)
    for start in range(0, len(here[0]), SLICE_ROWS):
        own, slope = (tensor[start : start + SLICE_ROWS] for tensor in here)
        at_home = [tensor[start : start + SLICE_ROWS] for tensor in homes]
        with turn():
            bits = None
            if chance is not None and own.dtype == torch.bfloat16:
                bits = random_bits(own, chance)
            visiting = [_fetch(tensor, own.device) for tensor in at_home] if lean.away else at_home
            moments = [visiting[: len(first)], visiting[len(first) : 2 * len(first)]]
            weight, copy = (own, None) if lean.copy is None else (visiting[-1], own)
            run(weight, copy, slope, moments, rates, scale, good, bits)
            if lean.away:
                for home, visitor in zip(at_home, visiting, strict=True):
                    home.copy_(visitor, non_blocking=True)


@contextmanager
def take_turns(device: torch.device, *, away: bool) -> Iterator[Callable[[], AbstractContextManager[object]]]:
    """A function that gives the context for the next slice.

    Where state is `away`, in host memory, two streams of a GPU take turns, so that one slice comes in while another
    goes out; what follows waits for both.
    """
    if not (away and device.type == "cuda"):
        yield nullcontext
        return
    main = torch.cuda.current_stream(device)
    streams = [torch.cuda.Stream(device) for _ in range(2)]
    for stream in streams:
        stream.wait_stream(main)
    next_one = itertools.cycle(streams)
    yield lambda: torch.cuda.stream(next(next_one))
    for stream in streams:
        main.wait_stream(stream)


def _fetch(home: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty_like(home, device=device, pin_memory=False).copy_(home, non_blocking=True)
