"""Analysis (paper Eq. 5-6): the usable problems of an exam, with their passed answers and their typed failures."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook, first_alike
from ap2o_fast.config import CurriculumSettings
from ap2o_fast.judge.verdict import ErrorType

KEPT, LOOKED_AT = 1 << 20, 1 << 20
"""Rows whose pools stay in memory with what an epoch has found out about them; rows that are sorted at one time."""


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


class Pools(Sequence[Pool]):
    """The pools of many problems, as arrays: 5 bytes a row. One is made when it is asked for; the first of them, with
    `KEPT` rows in all, stay, and with them what every epoch asks again.

    Args:
        parts: one or more, which follow one another.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        whole = _Part(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        self._problems, self._errors = whole.problems, whole.errors
        self._passed, self._failed = whole.passed, whole.failed
        self._good, self._bad = _before(whole.good), _before(whole.bad)
        self._kept: dict[int, Pool] = {}

    def __len__(self) -> int:
        return len(self._problems)

    @overload
    def __getitem__(self, index: int) -> Pool: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pool]: ...
    def __getitem__(self, index: int | slice) -> Pool | list[Pool]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no pool {index} of {len(self)}")
        index %= len(self)
        if (kept := self._kept.get(index)) is not None:
            return kept
        passed, failed = (slice(ends[index], ends[index + 1]) for ends in (self._good, self._bad))
        pool = Pool(
            problem=int(self._problems[index]),
            passed=self._passed[passed].astype(np.int64),
            failed=self._failed[failed].astype(np.int64),
            errors=self._errors[failed],
        )
        if failed.stop + passed.stop <= KEPT:
            self._kept[index] = pool
        return pool


class _Part(NamedTuple):
    """What `Pools` has of some problems: which they are, how many answers to each passed and failed, and those."""

    problems: npt.NDArray[np.int64]
    good: npt.NDArray[np.int64]
    bad: npt.NDArray[np.int64]
    passed: npt.NDArray[np.integer[Any]]
    failed: npt.NDArray[np.integer[Any]]
    errors: npt.NDArray[np.uint8]


def make_pools(book: ErrorBook, settings: CurriculumSettings, *, round: int = 0) -> tuple[Pools, dict[str, str]]:
    """Sort a round's answers into pools, one a usable problem, in the book's problem order.

    Answers with the same tokens count once. Tokens that were judged both ways, or found `Flaky` once, are in neither
    pool: whether they pass is chance.
    Returns: the pools, and for every dropped problem the reason by task id.
    """
    bounds, rows = book.by_problem(round)
    dropped: dict[str, str] = {}
    parts = [
        _sorted(book, settings, bounds[first : last + 1], rows, first, dropped) for first, last in _stretches(bounds)
    ]
    return Pools(parts), dropped


def _stretches(bounds: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of problems, one or more: of `LOOKED_AT` rows or fewer, but one problem at least where there is."""
    first, problems = 0, len(bounds) - 1
    while True:
        last = int(np.searchsorted(bounds, bounds[first] + LOOKED_AT, side="right")) - 1
        last = min(max(last, first + 1), problems)
        yield first, last
        if last == problems:
            return
        first = last


def _sorted(
    book: ErrorBook,
    settings: CurriculumSettings,
    bounds: npt.NDArray[np.int64],
    all_rows: npt.NDArray[np.integer[Any]],
    start: int,
    dropped: dict[str, str],
) -> _Part:
    """The usable ones of some problems in a row, the first of them `start`; the others go into `dropped`."""
    rows, ends = all_rows[bounds[0] : bounds[-1]], bounds - bounds[0]
    error, answers = book.values("error", rows), np.diff(bounds)
    passes = error == ErrorType.Passed
    fails = (error > ErrorType.Passed) & (error < ErrorType.Unjudgeable)
    alike = first_alike(book, rows)
    chance = _any(alike, passes) & _any(alike, fails) | _any(alike, error == ErrorType.Flaky)
    first_passed, first_failed = (_first(alike, kind) & ~chance[alike] for kind in (passes, fails))
    judged, good, bad = (
        np.diff(_before(marks)[ends]) for marks in (error < ErrorType.Unjudgeable, first_passed, first_failed)
    )
    usable = (judged > 0) & (good >= settings.min_passed) & (bad >= settings.min_failed)
    for index in np.flatnonzero(~usable & (answers > 0)).tolist():
        number = f"of {answers[index]} answers"
        if not judged[index]:
            why = f"none {number} could be judged: {book.message(int(rows[ends[index]]))}"
        elif good[index] < settings.min_passed:
            why = f"{good[index]} distinct passed {number}, {settings.min_passed} needed"
        else:
            why = f"{bad[index]} distinct failed {number}, {settings.min_failed} needed"
        dropped[book.task_ids[start + index]] = why
    first_passed, first_failed = (marks & np.repeat(usable, answers) for marks in (first_passed, first_failed))
    return _Part(
        problems=start + np.flatnonzero(usable),
        good=good[usable],
        bad=bad[usable],
        passed=rows[first_passed],
        failed=rows[first_failed],
        errors=error[first_failed],
    )


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


def _before(marks: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(N + 1,) how many marks there are before each place, or what the numbers before it sum to."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(marks)])
