"""Every system is a strategy: which failures of a problem an epoch rejects. All else is shared.

The paper's systems (section on correction) differ only here, so that a comparison between them is fair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum.order import by_frequency, window
from ap2o_fast.curriculum.plan import FRESH, REPLAY, WINDOW, PairPlan
from ap2o_fast.curriculum.pools import Pool
from ap2o_fast.curriculum.replay import ReplayPool, draw_replay

Strategy = Callable[[Pool, int, int, np.random.Generator], npt.NDArray[np.int64]]


def random_failures(pool: Pool, epoch: int, epochs: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """As many failures as the window would hold, drawn anew from all of them (`dyn-dpo`)."""
    return rng.choice(len(pool.failed), size=len(window(len(pool.failed), epoch, epochs)), replace=False)


def low_to_high(pool: Pool, epoch: int, epochs: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The window over failures sorted from rare to frequent types (`ap2o-l2h`)."""
    return by_frequency(pool, high_first=False)[window(len(pool.failed), epoch, epochs)]


def high_to_low(pool: Pool, epoch: int, epochs: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The window over failures sorted from frequent to rare types (`ap2o-h2l`)."""
    return by_frequency(pool, high_first=True)[window(len(pool.failed), epoch, epochs)]


STRATEGIES: Mapping[str, Strategy] = {"dyn-dpo": random_failures, "ap2o-l2h": low_to_high, "ap2o-h2l": high_to_low}
REPLAYS = frozenset({"ap2o-l2h", "ap2o-h2l"})


def plan_epoch(
    pools: Sequence[Pool],
    settings: CurriculumSettings,
    *,
    epoch: int,
    epochs: int,
    quiz_errors: Mapping[int, int],
    seed: int,
    replay: Mapping[int, ReplayPool] | None = None,
) -> PairPlan:
    """Choose the pairs of one epoch (counted from 0).

    A rejected answer's chosen one is a random passed answer to the same problem, drawn anew for every pair. Each
    window pair is followed by its replay pair where there is one (both losses of Eq. 8); problems come in random
    order. The streams of chance depend on seed, epoch and problem alone, so any epoch can be planned again.

    Args:
        quiz_errors: count of every error type (by code) in the latest quiz.
        replay: by problem what is replayed, the pools themselves by default. Where it comes from does not change how
            many pairs there are: as many as the problem's window has. A problem without a window, which the exam gave
            too few answers for, replays as many as a window over what is replayed would hold.
    """
    replay = {pool.problem: ReplayPool.of_exam(pool) for pool in pools} if replay is None else replay
    if settings.system not in REPLAYS or settings.replay != "paper":
        replay = {}
    windows = {pool.problem: pool for pool in pools}
    problems = [*windows, *sorted(replay.keys() - windows.keys())]
    shuffled = np.random.default_rng([seed, 1, epoch]).permutation(len(problems))
    columns: list[list[tuple[int, int, int, int, int]]] = []
    for problem in (problems[index] for index in shuffled):
        rng = np.random.default_rng([seed, 2, epoch, problem])
        columns.append(
            _pairs(problem, windows.get(problem), replay.get(problem), settings, epoch, epochs, quiz_errors, rng)
        )
    flat = np.array([pair for column in columns for pair in column], dtype=np.int64).reshape(-1, 5)
    return PairPlan(
        chosen=flat[:, 0],
        rejected=flat[:, 1],
        problem=flat[:, 2],
        error=flat[:, 3].astype(np.uint8),
        source=flat[:, 4].astype(np.uint8),
    )


def window_pairs(pools: Sequence[Pool], settings: CurriculumSettings, *, epoch: int, epochs: int) -> int:
    """How many window pairs an epoch will have, whatever the quiz says."""
    limit = settings.pairs_per_problem
    widths = (len(window(len(pool.failed), epoch, epochs)) for pool in pools)
    return sum(min(width, limit) if limit else width for width in widths)


def _pairs(
    problem: int,
    pool: Pool | None,
    again: ReplayPool | None,
    settings: CurriculumSettings,
    epoch: int,
    epochs: int,
    quiz_errors: Mapping[int, int],
    rng: np.random.Generator,
) -> list[tuple[int, int, int, int, int]]:
    """A problem's pairs, from its window `pool` and from what is replayed of it, `again`."""
    limit = settings.pairs_per_problem
    picked = replayed = np.empty(0, dtype=np.int64)
    if pool is not None:
        picked = STRATEGIES[settings.system](pool, epoch, epochs, rng)
        if limit and len(picked) > limit:
            picked = picked[np.sort(rng.choice(len(picked), size=limit, replace=False))]
    if again is not None:
        amount = len(picked) if pool is not None else len(window(len(again.failed), epoch, epochs))
        amount = min(amount, limit) if limit else amount
        replayed = rng.permutation(draw_replay(again, quiz_errors, amount, rng))
    pairs = []
    for turn in range(max(len(picked), len(replayed))):
        for position in picked[turn : turn + 1]:
            assert pool is not None
            chosen = int(rng.choice(pool.passed))
            pairs.append((chosen, int(pool.failed[position]), problem, int(pool.errors[position]), WINDOW))
        for position in replayed[turn : turn + 1]:
            assert again is not None
            source = FRESH if again.fresh[position] else REPLAY
            chosen = int(rng.choice(again.passed))
            pairs.append((chosen, int(again.failed[position]), problem, int(again.errors[position]), source))
    return pairs
