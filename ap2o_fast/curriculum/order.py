"""The order of failures and the window that slides over it (paper Eq. 7)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ap2o_fast.curriculum.pools import Pool

Positions = npt.NDArray[np.int64]
_STREAM = 8  # of chance, for orders that stay the same in all epochs


def by_frequency(pool: Pool, *, high_first: bool) -> Positions:
    """(N_f,) positions of the pool's failures, sorted by how often their error type occurs in this problem.

    A type's failures stay together (upstream interleaves types of equal frequency); types of equal frequency go by
    code, failures of one type in the order of the exam.
    """
    if high_first not in pool.orders:
        frequency = np.bincount(pool.errors)[pool.errors]
        order = np.lexsort((pool.failed, pool.errors, -frequency if high_first else frequency)).astype(np.int32)
        order.setflags(write=False)
        pool.orders[high_first] = order
    return pool.orders[high_first]


def at_random(pool: Pool, seed: int) -> Positions:
    """(N_f,) positions of the pool's failures in an order that follows from the seed alone (ablation, no order)."""
    return np.random.default_rng([seed, _STREAM, pool.problem]).permutation(len(pool.failed))


def over_problems(errors: npt.NDArray[np.uint8], seed: int, *, high_first: bool) -> Positions:
    """(F,) positions of the failures of all problems, sorted by how often their type occurs in all of them.

    Failures of one type come in an order that follows from the seed, so a window meets many problems.

    Args:
        errors: (F,) type of each.
    """
    frequency = np.bincount(errors)[errors]
    chance = np.random.default_rng([seed, _STREAM]).permutation(len(errors))
    return np.lexsort((chance, errors, -frequency if high_first else frequency))


def window(failures: int, epoch: int, epochs: int) -> range:
    """Positions that the window covers in an epoch (counted from 0): width ceil(F/T), from start to end in T epochs.

    Every failure is covered at least once and no window is empty, also where there are fewer failures than epochs.
    """
    width = -(-failures // epochs)
    start = epoch * failures // epochs
    return range(start, min(start + width, failures))


def whole_types(order: Positions, errors: npt.NDArray[np.uint8], epoch: int, epochs: int) -> Positions:
    """The positions of `order` whose error types the window covers when it slides over types instead of failures.

    Args:
        order: positions sorted so that a type's failures are together.
        errors: (F,) type of each failure, by position.
    """
    kinds = errors[order]
    first = np.flatnonzero(np.diff(kinds, prepend=-1))
    ends = [*first[1:].tolist(), len(order)]
    covered = window(len(first), epoch, epochs)
    return order[first[covered.start] : ends[covered.stop - 1]]
