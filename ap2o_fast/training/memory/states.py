"""What the optimiser keeps for parameters, as `prepare_parameter` makes it, and what an update takes beside that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ap2o_fast.config import TrainSettings
from ap2o_fast.training.optimizer.lean_adamw import SLICE_ROWS, SMALLEST, can_be_lean
from ap2o_fast.training.optimizer.moments import BLOCK
from ap2o_fast.training.optimizer.release import is_released
from ap2o_fast.training.optimizer.rounding import SLICE

_COMPUTED, _DECODED = 32, 9
"""Bytes a weight of what a lean update computes on a CPU, and what it takes more to decode 8-bit moments."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Bytes for one parameter, of which a process has its shard.

    Attributes:
        size: weights of it.
        gradient: in the model's dtype; sum: what it is turned into, 0 where the optimiser takes it as it is.
        master, moments: wherever they are; away: whether that is host memory.
        part: weights that are updated at a time where the update is lean, else 0; compact: with 8-bit moments.
        rounded: weights that are rounded afterwards.
        released: whether the gradient is freed as soon as it is used.
    """

    size: int
    gradient: int
    sum: int
    master: int
    moments: int
    away: bool
    part: int
    compact: bool
    rounded: int
    released: bool

    @classmethod
    def of(cls, parameter: torch.Tensor, train: TrainSettings, shards: int = 1) -> State:
        """For a parameter that is trained as `train` says."""
        row = parameter.numel() // len(parameter)
        size = shard_rows(parameter, shards) * row
        compact = train.optimizer == "adamw_8bit"
        wanted = compact or train.offload_optimizer or not train.masters
        fits = can_be_lean(parameter) if shards == 1 else parameter.numel() >= SMALLEST and row % BLOCK == 0
        lean = wanted and fits
        has_master = parameter.dtype == torch.bfloat16 and (train.masters or not lean)
        return cls(
            size=size,
            gradient=size * parameter.itemsize,
            sum=4 * size if has_master else 0,
            master=4 * size if has_master else 0,
            moments=2 * (size + 4 * size // BLOCK) if lean and compact else 2 * size * max(4, parameter.itemsize),
            away=lean and train.offload_optimizer,
            part=min(size, SLICE_ROWS * BLOCK) if lean else 0,
            compact=compact,
            rounded=size if has_master and not lean else 0,
            released=train.gradient_release and is_released(parameter),
        )

    @property
    def visiting(self) -> int:
        """What comes from host memory at a time."""
        return (self.master + self.moments) * self.part // self.size if self.away else 0


class States:
    """Of all parameters.

    Attributes:
        masters, moments: on the device; host: both, where they wait there.
        released: whether any gradient is freed as soon as it is used; the others do not count those.
        sums: gradients that are added up in float32; in_place: gradients that the optimiser takes from the model.
        largest_gradient: the model's largest gradient that is turned into a sum.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], train: TrainSettings, shards: int = 1) -> None:
        found = [State.of(parameter, train, shards) for parameter in parameters]
        self.masters = sum(one.master for one in found if not one.away)
        self.moments = sum(one.moments for one in found if not one.away)
        self.host = sum(one.master + one.moments for one in found if one.away)
        self.released = any(one.released for one in found)
        self._kept = [one for one in found if not one.released]
        self.sums = sum(one.sum for one in self._kept)
        self.in_place = sum(one.gradient for one in self._kept if not one.sum)
        self.largest_gradient = max((one.gradient for one in self._kept if one.sum), default=0)

    def beside(self, *, on_gpu: bool) -> int:
        """What the update at the end of a step takes beside what it updates."""
        return beside(self._kept, on_gpu=on_gpu)


def beside(states: Iterable[State], *, on_gpu: bool) -> int:
    """What an update takes beside what it updates: random bits, and on a CPU whatever it computes."""
    states = list(states)
    part = max((one.part for one in states), default=0)
    visiting = max((one.visiting for one in states), default=0)
    computed = _COMPUTED + (_DECODED if any(one.compact for one in states) else 0)
    lean = 4 * part + 2 * visiting if on_gpu else computed * part + visiting
    return max(lean, 8 * min(sum(one.rounded for one in states), SLICE))


def shard_rows(parameter: torch.Tensor, shards: int) -> int:
    """Rows of a parameter that the first of so many processes has."""
    return -(-len(parameter) // shards)
