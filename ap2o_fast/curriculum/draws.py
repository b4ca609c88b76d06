"""The pairs of one problem in an epoch: what its window gives, what is replayed beside it, and the chosen answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum.chance import permutation, spread
from ap2o_fast.curriculum.order import Positions
from ap2o_fast.curriculum.plan import FILLED, FRESH, REPLAY, WINDOW
from ap2o_fast.curriculum.pools import Pool, ReplayPool
from ap2o_fast.curriculum.replay import DRAWS
from ap2o_fast.curriculum_checks import WITHOUT_REPLAY
from ap2o_fast.judge.verdict import ErrorType

Pair = tuple[int, int, int, int, int]
"""Columns of a `PairPlan`: chosen, rejected, problem, error, source."""
Quiz = Mapping[int, int]
"""Count of every error type, by code, in the latest quiz."""


def has_windows(settings: CurriculumSettings) -> bool:
    """Whether failures come in an order."""
    return settings.system.startswith("ap2o") and settings.window != "off"


def is_fixed(settings: CurriculumSettings) -> bool:
    """Whether the quiz has no say in how many pairs an epoch has."""
    return settings.budget == "matched" or settings.draw == "upstream" or settings.window == "off"


def of_problem(
    pool: Pool,
    again: ReplayPool | None,
    settings: CurriculumSettings,
    held: Positions,
    number: int,
    quiz_errors: Quiz,
    rng: np.random.Generator,
) -> list[list[Pair]]:
    """A problem's pairs in groups that stay together: a window pair and what is replayed with it.

    Args:
        again: what is replayed of it, None for nothing.
        held: positions of the failures that its window holds, or of all to choose from; of `sft` of passed answers.
        number: how many pairs come of them, half of a matched budget.
    """
    matched = settings.budget == "matched"
    total = 2 * number if matched else number
    if settings.system == "sft":
        rows = [int(pool.passed[position]) for position in spread(held, total, rng)]
        return [[(row, row, pool.problem, int(ErrorType.Passed), WINDOW)] for row in rows]
    if settings.window == "off":
        picked = []
    else:
        replays = settings.replay != "off" and settings.system not in WITHOUT_REPLAY
        picked = spread(held, number if replays else total, rng)
    drawn, missing = [], 0
    if again is not None:
        drawn = _drawn(again, settings, total - len(picked) if matched else number, quiz_errors, rng)
    if settings.draw == "upstream":
        picked, drawn = _one_of(picked, drawn, rng)
        missing = 1 - len(picked) - len(drawn)
    elif is_fixed(settings):
        missing = total - len(picked) - len(drawn)
    filled = spread(picked or range(len(pool.failed)), missing, rng)
    own = _pairs(pool, picked + filled, [WINDOW] * len(picked) + [FILLED] * len(filled), rng)
    first, beside = own[: len(picked)], own[len(picked) :]
    if again is not None:
        beside = _replayed(again, drawn, rng) + beside
    if not first:
        return [[pair] for pair in beside]
    if len(first) == 1:
        return [first + beside]
    bounds = np.linspace(0, len(beside), len(first) + 1).astype(int).tolist()
    return [[pair, *beside[bounds[turn] : bounds[turn + 1]]] for turn, pair in enumerate(first)]


def of_replay(
    again: ReplayPool,
    settings: CurriculumSettings,
    width: int,
    quiz_errors: Quiz,
    rng: np.random.Generator,
) -> list[Pair]:
    """What is replayed of a problem that has no window, as beside one of `width`."""
    return _replayed(again, _drawn(again, settings, width, quiz_errors, rng), rng)


def _drawn(
    again: ReplayPool,
    settings: CurriculumSettings,
    amount: int,
    quiz_errors: Quiz,
    rng: np.random.Generator,
) -> list[int]:
    """Positions in what is replayed, in random order."""
    return permutation(DRAWS[settings.replay](again, quiz_errors, amount, rng), rng) if amount else []


def _one_of(picked: list[int], drawn: list[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """One of both, the other list empty; nothing of nothing."""
    pooled = len(picked) + len(drawn)
    if not pooled:
        return [], []
    place = int(rng.integers(pooled))
    return picked[place : place + 1], drawn[place - len(picked) :][:1] if place >= len(picked) else []


def _replayed(again: ReplayPool, positions: list[int], rng: np.random.Generator) -> list[Pair]:
    return _pairs(again, positions, [FRESH if again.fresh[position] else REPLAY for position in positions], rng)


def _pairs(pool: Pool, positions: list[int], sources: list[int], rng: np.random.Generator) -> list[Pair]:
    """The failures at these positions, each beside a random passed answer, one that is there twice beside two."""
    counts = Counter(positions)
    chosen = {
        position: iter(permutation(spread(pool.passed, counts[position], rng), rng)) for position in sorted(counts)
    }
    return [
        (next(chosen[position]), int(pool.failed[position]), pool.problem, int(pool.errors[position]), source)
        for position, source in zip(positions, sources, strict=True)
    ]
