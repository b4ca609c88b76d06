"""The order of a problem's failures and the window that slides over it (paper Eq. 7)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ap2o_fast.curriculum.pools import Pool


def by_frequency(pool: Pool, *, high_first: bool) -> npt.NDArray[np.int64]:
    """(N_f,) positions of the pool's failures, sorted by how often their error type occurs in this problem.

    A type's failures stay together (upstream interleaves types of equal frequency); types of equal frequency go by
    code, failures of one type in the order of the exam.
    """
    frequency = np.bincount(pool.errors)[pool.errors]
    return np.lexsort((pool.failed, pool.errors, -frequency if high_first else frequency))


def window(failures: int, epoch: int, epochs: int) -> range:
    """Positions that the window covers in an epoch (counted from 0): width ceil(F/T), from start to end in T epochs.

    Every failure is covered at least once and no window is empty, also where there are fewer failures than epochs.
    """
    width = -(-failures // epochs)
    start = epoch * failures // epochs
    return range(start, min(start + width, failures))
