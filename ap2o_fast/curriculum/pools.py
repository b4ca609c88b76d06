"""Analysis (paper Eq. 5-6): the usable problems of an exam, with their passed answers and their typed failures."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook, first_alike
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

    @cached_property
    def replayed(self) -> ReplayPool:
        """All that the exam gave, to be replayed (`replay.source = book`)."""
        fresh = np.zeros(len(self.failed), bool)
        return ReplayPool(problem=self.problem, passed=self.passed, failed=self.failed, errors=self.errors, fresh=fresh)

    @cached_property
    def orders(self) -> dict[bool, npt.NDArray[np.int64]]:
        """What `order.by_frequency` has found: it is asked again in every epoch."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ReplayPool(Pool):
    """What is replayed of a problem.

    Attributes:
        fresh: (N_f,) bool, which of the failures the model gave in the problem's latest round of fresh answers.
    """

    fresh: npt.NDArray[np.bool_]

    def of_kind(self, kind: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """Positions of the failures of a type, ascending: the fresh ones and the others; None where there is none."""
        kinds, bounds, positions = self._by_kind
        place = kinds.find(kind)
        if place < 0:
            return None
        start, middle, end = bounds[2 * place : 2 * place + 3]
        return positions[start:middle], positions[middle:end]

    @cached_property
    def _by_kind(self) -> tuple[bytes, array[int], npt.NDArray[np.int64]]:
        """The K types, the 2 K + 1 bounds of their fresh failures and of their others, and the positions themselves."""
        groups = 2 * self.errors.astype(np.uint16) + ~self.fresh
        counts = [*np.bincount(groups).tolist(), 0]
        kinds, bounds = bytearray(), array("q", [0])
        for kind, (fresh, others) in enumerate(zip(counts[::2], counts[1::2], strict=False)):
            if fresh or others:
                kinds.append(kind)
                bounds.extend((bounds[-1] + fresh, bounds[-1] + fresh + others))
        return bytes(kinds), bounds, np.argsort(groups, kind="stable")


def make_pools(book: ErrorBook, settings: CurriculumSettings, *, round: int = 0) -> tuple[list[Pool], dict[str, str]]:
    """Sort a round's answers into pools, one a usable problem, in the book's problem order.

    Answers with the same tokens count once. Tokens that were judged both ways, or found `Flaky` once, are in neither
    pool: whether they pass is chance.
    Returns: the pools, and for every dropped problem the reason by task id.
    """
    rows = np.flatnonzero(book.column("round") == round)
    rows = rows[np.argsort(book.column("problem")[rows], kind="stable")]
    problem, error = book.column("problem")[rows], book.column("error")[rows]
    passes = error == ErrorType.Passed
    fails = (error > ErrorType.Passed) & (error < ErrorType.Unjudgeable)
    alike = first_alike(book, rows)
    chance = _any(alike, passes) & _any(alike, fails) | _any(alike, error == ErrorType.Flaky)
    first_passed, first_failed = (_first(alike, kind) & ~chance[alike] for kind in (passes, fails))
    bounds = np.searchsorted(problem, np.arange(len(book.task_ids) + 1)).tolist()
    judged, passed, failed = (_before(marks) for marks in (error < ErrorType.Unjudgeable, first_passed, first_failed))
    passed_rows, failed_rows, errors = rows[first_passed], rows[first_failed], error[first_failed]
    pools, dropped = [], {}
    for index, (start, end) in enumerate(pairwise(bounds)):
        if start == end:
            continue
        mine, other = slice(passed[start], passed[end]), slice(failed[start], failed[end])
        good, bad = mine.stop - mine.start, other.stop - other.start
        answers = f"of {end - start} answers"
        if judged[start] == judged[end]:
            why = f"none {answers} could be judged: {book.message(int(rows[start]))}"
        elif good < settings.min_passed:
            why = f"{good} distinct passed {answers}, {settings.min_passed} needed"
        elif bad < settings.min_failed:
            why = f"{bad} distinct failed {answers}, {settings.min_failed} needed"
        else:
            pools.append(Pool(problem=index, passed=passed_rows[mine], failed=failed_rows[other], errors=errors[other]))
            continue
        dropped[book.task_ids[index]] = why
    return pools, dropped


def _any(alike: npt.NDArray[np.int64], marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(N,) at the first of alike rows whether one of them is marked."""
    found = np.zeros(len(alike), bool)
    found[alike[marks]] = True
    return found


def _first(alike: npt.NDArray[np.int64], marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(N,) True at the first marked one of alike rows."""
    marked = np.flatnonzero(marks)
    first = np.zeros(len(alike), bool)
    first[marked[np.unique(alike[marked], return_index=True)[1]]] = True
    return first


def _before(marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(N + 1,) how many marks there are before each place."""
    return np.concatenate([[0], np.cumsum(marks)])
