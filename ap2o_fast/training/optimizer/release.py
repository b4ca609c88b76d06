"""Each weight's step as soon as its gradient is complete, so that gradients never exist all at once.

autograd tells when a weight has all contributions to its gradient (a tied embedding those of the head and of the
tokens), which is also when nothing in the backward pass needs its value any more: had something, autograd would refuse
a weight that was changed meanwhile. Vectors, which are small, wait for the end of the step and share its launches.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ap2o_fast.training.optimizer.adamw import Optimizer


@contextmanager
def released(optimizer: Optimizer, bad: torch.Tensor) -> Iterator[None]:
    """Within, a backward pass updates every matrix whose gradient it completes, and frees the gradient.

    `Optimizer.step` is to follow, for what is left and for the schedule.

    Args:
        bad: as of `Optimizer.step`; a gradient that is not finite sets it to 1, and nothing is updated from then on.
    """
    rates = optimizer.rates()

    def complete(index: int, _: torch.Tensor) -> None:
        parameter = optimizer.parameters[index]
        optimizer.collect([parameter])
        optimizer.measure([parameter])
        assert parameter.norm is not None
        torch.maximum(bad, (~parameter.norm.isfinite()).to(bad.dtype), out=bad)
        optimizer.update([parameter], rates, bad, optimizer.chance(_seed(optimizer.done + 1, index)))

    handles = [
        parameter.model.register_post_accumulate_grad_hook(functools.partial(complete, index))
        for index, parameter in enumerate(optimizer.parameters)
        if is_released(parameter.model)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_released(parameter: torch.Tensor) -> bool:
    """Whether its gradient is freed as soon as it is used."""
    return parameter.dim() > 1


def _seed(step: int, index: int) -> int:
    """One a step and parameter: the order in which autograd comes to them is nobody's promise."""
    return int(np.random.SeedSequence((step, index)).generate_state(1, np.uint64)[0] >> 1)
