"""The pairs of an epoch under a system and a variant, drawn once or any number of times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum import REPLAY, WINDOW, Pool, plan_epoch
from ap2o_fast.curriculum.upstream import draw, replay_counts, window
from ap2o_fast.errors import DataError, UsageError
from ap2o_fast.planning.exam import Exam

SYSTEMS = ("sft", "dpo", "curri-dpo", "dyn-dpo", "ap2o-l2h", "ap2o-h2l")
VARIANTS = ("paper", "upstream")
STATIC = ("dpo", "curri-dpo")
NOTHING = -1
"""In place of a rejected answer: `sft` has none."""
_ORDER, _PAIRS = 6, 7  # of chance: what problems come in, which answers they give; other numbers stand for other uses
_TOGETHER = 4096  # draws of a problem at one time
Rows = npt.NDArray[np.int64]
SOURCES = ("window", "replay", "fresh", "filled")
"""What the numbers of `PairPlan.source` are called."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What is to be planned.

    Attributes:
        system, variant: of `SYSTEMS` and `VARIANTS`.
        epoch: epochs done so far; between two whole ones with the variant `upstream` alone.
        epochs: T.
        quiz_errors: count of every error type, by the exam's codes, in the latest quiz; empty: nothing is replayed.
    """

    system: str
    variant: str
    epoch: float
    epochs: int
    quiz_errors: Mapping[int, int]

    def __post_init__(self) -> None:
        """Errors: `UsageError` for an unknown system or variant, or an epoch that is not in the run."""
        for name, value, known in (("system", self.system, SYSTEMS), ("variant", self.variant, VARIANTS)):
            if value not in known:
                raise UsageError(f"there is no {name} {value!r} with a plan", do=f"use one of {', '.join(known)}")
        if self.epochs < 1:
            raise UsageError(f"--epochs {self.epochs} is no number of epochs", do="give the T of the run, 1 or more")
        if not (math.isfinite(self.epoch) and 0 <= self.epoch < self.epochs):
            raise UsageError(
                f"--epoch {self.epoch:g} is outside of a run of {self.epochs} epochs",
                do=f"give the epochs done so far: 0 or more, and less than {self.epochs}",
            )
        if self.variant == "paper" and self.epoch != int(self.epoch):
            raise UsageError(
                f"--epoch {self.epoch:g} is between two epochs",
                why="the paper's windows stay for an epoch; only the authors' code moves them in between",
                do="give a whole number, or --variant upstream",
            )


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The P pairs of one epoch, in training order.

    Attributes:
        problem, chosen, rejected: (P,) int64 index of the problem and row ids of its answers; `NOTHING` where none is.
        source: (P,) uint8: `WINDOW` (also for what has no window), `REPLAY` or `FRESH`.
    """

    problem: Rows
    chosen: Rows
    rejected: Rows
    source: npt.NDArray[np.uint8]


def draws(exam: Exam, what: Epoch, settings: CurriculumSettings, *, seed: int, count: int) -> Iterator[Pairs]:
    """Yield the epoch `count` times, each with chance of its own. The first is the same whatever `count`.

    Args:
        settings: whose least numbers of answers and limit of pairs the variant `paper` goes by.
    Errors: `DataError` where no problem is usable; `UsageError` for a system that cannot be planned.
    """
    if not exam.pools:
        raise DataError(
            "no problem has enough distinct passed and failed answers",
            why="; ".join(f"{name}: {why}" for name, why in list(exam.left_out.items())[:3]),
            do="plan on another exam",
        )
    if what.variant == "paper":
        return _paper(exam, what, settings, seed, count)
    return _static(exam, what, seed, count) if what.system in STATIC else _single(exam, what, seed, count)


def _paper(exam: Exam, what: Epoch, settings: CurriculumSettings, seed: int, count: int) -> Iterator[Pairs]:
    """As a run plans it whose curriculum is the paper's."""
    usable = settings.model_dump(include={"min_passed", "min_failed", "pairs_per_problem"})
    try:
        settings = CurriculumSettings.model_validate(usable | {"system": what.system})
    except ValidationError as error:
        why = str(error.errors()[0]["msg"])
        raise UsageError(
            f"{what.system} has no plan with the variant paper",
            why=why,
            do="choose another --system, or --variant upstream",
        ) from error
    for number in range(count):
        # The first draw is a run's own; the others have seeds of their own.
        own = seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
        plan = plan_epoch(
            exam.pools,
            settings,
            epoch=int(what.epoch),
            epochs=what.epochs,
            quiz_errors=what.quiz_errors,
            seed=own,
        )
        # A passed answer beside itself is how a plan says that nothing is rejected.
        rejected = np.where(plan.rejected == plan.chosen, NOTHING, plan.rejected)
        yield Pairs(problem=plan.problem, chosen=plan.chosen, rejected=rejected, source=plan.source)


def _single(exam: Exam, what: Epoch, seed: int, count: int) -> Iterator[Pairs]:
    """Upstream's systems that draw one pair a problem, or for `sft` one passed answer."""
    epoch, problem = _words(what.epoch), np.array([pool.problem for pool in exam.pools])
    chance = [np.random.default_rng([seed, _PAIRS, *epoch, pool.problem]).spawn(2) for pool in exam.pools]
    for start in range(0, count, _TOGETHER):
        size = min(_TOGETHER, count - start)
        chosen, rejected, replayed = (np.empty((size, len(problem)), kind) for kind in (np.int64, np.int64, bool))
        for index, (pool, (passed_rng, failed_rng)) in enumerate(zip(exam.pools, chance, strict=True)):
            chosen[:, index] = pool.passed[passed_rng.integers(len(pool.passed), size=size)]
            if what.system == "sft":
                rejected[:, index], replayed[:, index] = NOTHING, False
            else:
                positions, replayed[:, index] = _rejected(pool, what, failed_rng, size)
                rejected[:, index] = pool.failed[positions]
        for number in range(size):
            order = np.random.default_rng([seed, _ORDER, *epoch, start + number]).permutation(len(problem))
            yield Pairs(
                problem=problem[order],
                chosen=chosen[number, order],
                rejected=rejected[number, order],
                source=np.where(replayed[number, order], REPLAY, WINDOW).astype(np.uint8),
            )


def _rejected(pool: Pool, what: Epoch, rng: np.random.Generator, count: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
    failures = len(pool.failed)
    if what.system == "dyn-dpo":
        return draw(pool.errors, range(failures), {}, rng, count)
    span = window(failures, what.epoch, what.epochs, reverse=what.system == "ap2o-h2l")
    return draw(pool.errors, span, replay_counts(what.quiz_errors, len(span), set(pool.errors.tolist())), rng, count)


def _static(exam: Exam, what: Epoch, seed: int, count: int) -> Iterator[Pairs]:
    """Every passed answer of a problem with every failed one, shuffled: upstream's trainer shuffles `curri-dpo` too."""
    problem, chosen, rejected = (
        np.concatenate(parts)
        for parts in zip(
            *(
                (
                    np.full(len(pool.passed) * len(pool.failed), pool.problem),
                    np.repeat(pool.passed, len(pool.failed)),
                    np.tile(pool.failed, len(pool.passed)),
                )
                for pool in exam.pools
            ),
            strict=True,
        )
    )
    source = np.full(len(problem), WINDOW, dtype=np.uint8)
    for number in range(count):
        order = np.random.default_rng([seed, _ORDER, *_words(what.epoch), number]).permutation(len(problem))
        yield Pairs(problem=problem[order], chosen=chosen[order], rejected=rejected[order], source=source[order])


def _words(epoch: float) -> list[int]:
    """The epoch as something that chance can be derived from: the bits of its float64, in two words."""
    return np.array([epoch], dtype=np.float64).view(np.uint32).tolist()
