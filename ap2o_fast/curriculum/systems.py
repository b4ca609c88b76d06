"""Every system is a strategy: which failures of a problem an epoch rejects. All else is shared.

The paper's systems (section on correction) differ only here, so that a comparison between them is fair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum.order import by_frequency, window
from ap2o_fast.curriculum.plan import REPLAY, WINDOW, PairPlan
from ap2o_fast.curriculum.pools import Pool
from ap2o_fast.curriculum.replay import draw_replay

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
) -> PairPlan:
    """Choose the pairs of one epoch (counted from 0).

    A rejected answer's chosen one is a random passed answer to the same problem, drawn anew for every pair. Each
    window pair is followed by its replay pair where there is one (both losses of Eq. 8); problems come in random
    order. The streams of chance depend on seed, epoch and problem alone, so any epoch can be planned again.

    Args:
        quiz_errors: count of every error type (by code) in the latest quiz.
    """
    shuffled = np.random.default_rng([seed, 1, epoch]).permutation(len(pools))
    columns: list[list[tuple[int, int, int, int, int]]] = [
        _pairs(pools[index], settings, epoch, epochs, quiz_errors, seed) for index in shuffled
    ]
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
    pool: Pool,
    settings: CurriculumSettings,
    epoch: int,
    epochs: int,
    quiz_errors: Mapping[int, int],
    seed: int,
) -> list[tuple[int, int, int, int, int]]:
    rng = np.random.default_rng([seed, 2, epoch, pool.problem])
    picked = STRATEGIES[settings.system](pool, epoch, epochs, rng)
    if settings.pairs_per_problem and len(picked) > settings.pairs_per_problem:
        picked = picked[np.sort(rng.choice(len(picked), size=settings.pairs_per_problem, replace=False))]
    replayed = np.empty(0, dtype=np.int64)
    if settings.system in REPLAYS and settings.replay == "paper":
        replayed = rng.permutation(draw_replay(pool, quiz_errors, len(picked), rng))
    pairs = []
    for turn, position in enumerate(picked):
        for source, failure in [(WINDOW, position), *((REPLAY, again) for again in replayed[turn : turn + 1])]:
            chosen = int(rng.choice(pool.passed))
            pairs.append((chosen, int(pool.failed[failure]), pool.problem, int(pool.errors[failure]), source))
    return pairs
