"""The learning rate of each step: up from 0 in a line, and down to 0 in a line."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ap2o_fast.config import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rises over the first `warmup` of `total` steps, starting at 0 as in transformers' and TRL's trainers."""

    total: int
    warmup: int

    @classmethod
    def of(cls, settings: TrainSettings, total: int) -> Schedule:
        """A single step has no warm-up: at a learning rate of 0 it would be for nothing."""
        return cls(total=total, warmup=math.ceil(total * settings.warmup) if total > 1 else 0)

    def share(self, done: int) -> float:
        """Of the peak learning rate, after `done` updates."""
        if done < self.warmup:
            return done / self.warmup
        return max(0.0, (self.total - done) / max(1, self.total - self.warmup))

    def note(self) -> str:
        """What a run so short loses to the warm-up; empty where that is less than a tenth of its steps."""
        if not self.warmup or self.total >= 10:
            return ""
        return (
            f"the first of {self.total} optimiser steps has learning rate 0, so its pairs teach nothing:"
            " train.warmup=0, a smaller train.batch_pairs or more epochs change that"
        )
