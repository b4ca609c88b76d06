"""Analysis (paper Eq. 5-6): the usable problems of an exam, with their passed answers and their typed failures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook
from ap2o_fast.config import CurriculumSettings
from ap2o_fast.judge.verdict import ErrorType


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The distinct judged answers to one problem.

    Attributes:
        problem: its index in the book.
        passed: (N_p,) int64 row ids, ascending.
        failed: (N_f,) int64 row ids, ascending.
        errors: (N_f,) uint8 `ErrorType` of each failure.
    """

    problem: int
    passed: npt.NDArray[np.int64]
    failed: npt.NDArray[np.int64]
    errors: npt.NDArray[np.uint8]


def make_pools(book: ErrorBook, settings: CurriculumSettings, *, round: int = 0) -> tuple[list[Pool], dict[str, str]]:
    """Sort a round's answers into pools, one a usable problem, in the book's problem order.

    Answers with the same tokens count once. Tokens that were judged both ways, or found `Flaky` once, are in neither
    pool: whether they pass is chance.
    Returns: the pools, and for every dropped problem the reason by task id.
    """
    error, problem, digest = book.column("error"), book.column("problem"), book.column("digest")
    rows = np.flatnonzero(book.column("round") == round)
    pools, dropped = [], {}
    order = rows[np.argsort(problem[rows], kind="stable")]
    bounds = np.searchsorted(problem[order], np.arange(len(book.task_ids) + 1))
    for index, task_id in enumerate(book.task_ids):
        mine = order[bounds[index] : bounds[index + 1]]
        if not len(mine):
            continue
        kinds = error[mine]
        passed = _distinct(mine[kinds == ErrorType.Passed], digest)
        failed = _distinct(mine[(kinds > ErrorType.Passed) & (kinds < ErrorType.Unjudgeable)], digest)
        both = np.intersect1d(digest[passed], digest[failed])
        flaky = np.union1d(both, digest[mine[kinds == ErrorType.Flaky]])
        passed, failed = passed[~np.isin(digest[passed], flaky)], failed[~np.isin(digest[failed], flaky)]
        if (kinds >= ErrorType.Unjudgeable).all():
            dropped[task_id] = f"none of {len(mine)} answers could be judged: {book.message(int(mine[0]))}"
        elif len(passed) < settings.min_passed:
            dropped[task_id] = f"{len(passed)} distinct passed of {len(mine)} answers, {settings.min_passed} needed"
        elif len(failed) < settings.min_failed:
            dropped[task_id] = f"{len(failed)} distinct failed of {len(mine)} answers, {settings.min_failed} needed"
        else:
            pools.append(Pool(problem=index, passed=passed, failed=failed, errors=error[failed]))
    return pools, dropped


def _distinct(rows: npt.NDArray[np.int64], digest: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    _, first = np.unique(digest[rows], return_index=True)
    return np.asarray(rows[np.sort(first)], dtype=np.int64)
