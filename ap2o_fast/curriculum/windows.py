"""What each problem's window holds in an epoch, by `curriculum.system`, `.order`, `.scope` and `.window`.

The paper's window has ceil(F/T) of a problem's F failures. `upstream` is the authors' code, whose window depends on how
far the epoch has come: their clock moves with the optimiser steps, ours with the problems, from 0 to 1 as they are
passed. `by_type` slides over a problem's K types: ceil(K/T) of them with all their failures, so a problem with many
failures of few types trains on many more pairs than the paper's unless `pairs_per_problem` or the budget limits it.
With `scope` = `global` one window slides over the failures of all problems: types are sorted by how often they occur
anywhere, so each type is one stretch of the training, and a problem has a window only where that stretch touches it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum import upstream
from ap2o_fast.curriculum.order import Positions, at_random, by_frequency, over_problems, whole_types, window
from ap2o_fast.curriculum.pools import Pool


def paper_width(failures: int, epochs: int, settings: CurriculumSettings) -> int:
    """How many failures of a problem the paper's window holds in any epoch, `pairs_per_problem` at most."""
    width, limit = len(window(failures, 0, epochs)), settings.pairs_per_problem
    return min(width, limit) if limit else width


def windows(
    pools: Sequence[Pool],
    settings: CurriculumSettings,
    *,
    epoch: int,
    epochs: int,
    seed: int,
    progress: npt.NDArray[np.float64],
) -> Iterable[Positions]:
    """For each pool the positions of the failures in its window, in the order in which it slides over them.

    Args:
        settings: of a system whose direction is decided (`ap2o` with `order` = `auto` is not).
        progress: (M,) how far the epoch has come when the problem's turn is, from 0 to 1.
    """
    if settings.scope == "global":
        return _global(pools, settings, epoch, epochs, seed)
    return (_of_problem(pool, settings, epoch, epochs, seed, at) for pool, at in zip(pools, progress, strict=True))


def high_first(settings: CurriculumSettings) -> bool:
    """Whether frequent types come before rare ones."""
    assert settings.system in ("ap2o-l2h", "ap2o-h2l"), f"{settings.system} has no direction"
    return settings.system == "ap2o-h2l"


def _of_problem(
    pool: Pool, settings: CurriculumSettings, epoch: int, epochs: int, seed: int, progress: float
) -> Positions:
    failures = len(pool.failed)
    if settings.window == "off":
        return np.empty(0, dtype=np.int64)
    if settings.system == "ap2o":
        order, reverse = at_random(pool, seed), False
    elif settings.window == "upstream":
        order, reverse = np.arange(failures), high_first(settings)  # `upstream.in_order` has sorted them
    else:
        order, reverse = by_frequency(pool, high_first=high_first(settings)), False
    if settings.window == "upstream":
        covered = upstream.window(failures, epoch + progress, epochs, reverse=reverse)
        return order[covered.start : covered.stop]
    if settings.window == "by_type":
        return whole_types(order, pool.errors, epoch, epochs)
    covered = window(failures, epoch, epochs)
    return order[covered.start : covered.stop]


def _global(pools: Sequence[Pool], settings: CurriculumSettings, epoch: int, epochs: int, seed: int) -> list[Positions]:
    errors = np.concatenate([pool.errors for pool in pools])
    starts = np.cumsum([0, *(len(pool.failed) for pool in pools)])
    order = over_problems(errors, seed, high_first=high_first(settings))
    if settings.window == "by_type":
        held = whole_types(order, errors, epoch, epochs)
    else:
        held = order[window(len(order), epoch, epochs)]
    owner = np.searchsorted(starts, held, side="right") - 1
    return [held[owner == index] - starts[index] for index in range(len(pools))]
