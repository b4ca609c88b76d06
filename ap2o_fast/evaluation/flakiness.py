"""How often a verdict depends on chance: of the answers that were judged twice, those that came out two ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ap2o_fast.book import ErrorBook
from ap2o_fast.evaluation.passk import LEVEL
from ap2o_fast.judge.twice import is_drawn
from ap2o_fast.judge.verdict import ErrorType


@dataclass(frozen=True, kw_only=True)
class Flakiness:
    """Answers that were judged twice, and how many of them were `Flaky`."""

    twice: int
    flaky: int

    @property
    def rate(self) -> float | None:
        """Flaky answers as a share of those judged twice; None where there is none."""
        return self.flaky / self.twice if self.twice else None

    @property
    def interval(self) -> tuple[float, float]:
        """The exact (Clopper-Pearson) 95 % confidence interval of the rate: (0, 1) where nothing was judged twice."""
        beside = (1 - LEVEL) / 2
        low, high = 0.0, 1.0
        if self.flaky:
            low = _solve(lambda rate: 1 - _at_most(self.flaky - 1, self.twice, rate) - beside)
        if self.flaky < self.twice:
            high = _solve(lambda rate: beside - _at_most(self.flaky, self.twice, rate))
        return low, high

    def __add__(self, other: Flakiness) -> Flakiness:
        return Flakiness(twice=self.twice + other.twice, flaky=self.flaky + other.flaky)


def flakiness(book: ErrorBook, round: int, recheck: float) -> Flakiness:
    """Count a round's answers that were judged twice.

    Args:
        recheck: the run's `judge.recheck`. Who was drawn follows from it and from task and seed, so the book needs no
            column for it, and a run that was killed and resumed counts as one that was not.
    """
    error = book.column("error")
    rows = np.flatnonzero((book.column("round") == round) & (error != ErrorType.SandboxFailure))
    problem, seed, task_ids = book.column("problem"), book.column("seed"), book.task_ids
    twice = sum(is_drawn(recheck, task_ids[problem[row]], int(seed[row])) for row in rows.tolist())
    return Flakiness(twice=twice, flaky=int(np.count_nonzero(error[rows] == ErrorType.Flaky)))


def _at_most(count: int, n: int, rate: float) -> float:
    """P(X <= count) of the binomial distribution, 0 < rate < 1."""
    logs = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(rate)
        + (n - k) * math.log1p(-rate)
        for k in range(count + 1)
    )
    return sum(math.exp(value) for value in logs)


def _solve(rising: Callable[[float], float]) -> float:
    """Where a rising function on (0, 1) is zero."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
