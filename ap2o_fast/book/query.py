"""Questions to a book that are answered over whole columns at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.where import Condition, rows_where, unknown
from ap2o_fast.errors import UsageError
from ap2o_fast.judge.verdict import ErrorType

if TYPE_CHECKING:
    from ap2o_fast.book.reader import Reader


class Columns(Protocol):
    """As much of `ErrorBook` as the questions need."""

    @property
    def task_ids(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def column(self, name: str) -> npt.NDArray[Any]: ...

    def parts(self, *names: str) -> Iterator[tuple[int, tuple[npt.NDArray[Any], ...]]]: ...

    def problem_index(self, task_id: str) -> int: ...


def frequencies(book: Columns, round_: int | None = None) -> npt.NDArray[np.int64]:
    """Return (M, E): how many rows of each problem, of one round or all, have each of E `ErrorType`s (φ of Eq. 5)."""
    width = len(ErrorType)
    counts = np.zeros(len(book.task_ids) * width, np.int64)
    for _, (problem, error, rounds) in book.parts("problem", "error", "round"):
        cells = problem.astype(np.int64) * width + error
        np.add.at(counts, cells if round_ is None else cells[rounds == round_], 1)
    return counts.reshape(-1, width)


def by_problem(book: Columns, round_: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.integer[Any]]]:
    """Return (M + 1,) bounds and (K,) the row ids of a round: problem by problem, one's in the order of the book.

    Row ids are int32 as far as they go: this is what memory a plan over the whole book takes.
    """
    counts = np.zeros(len(book.task_ids), np.int64)
    for _, (problem, rounds) in book.parts("problem", "round"):
        np.add.at(counts, problem[rounds == round_], 1)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    rows = np.empty(bounds[-1], np.int32 if len(book) <= np.iinfo(np.int32).max else np.int64)
    free = bounds[:-1].copy()
    for start, (problem, rounds) in book.parts("problem", "round"):
        places = np.flatnonzero(rounds == round_)
        places = places[np.argsort(problem[places], kind="stable")]
        mine, first, lengths = np.unique(problem[places], return_index=True, return_counts=True)
        within = np.arange(len(places)) - np.repeat(first, lengths)
        rows[np.repeat(free[mine], lengths) + within] = start + places
        free[mine] += lengths
    return bounds, rows


def done(book: Columns, round_: int) -> set[tuple[str, int]]:
    """Return the (task_id, sample) of a round's rows: what a resumed exam need not do again."""
    task_ids = book.task_ids
    found = set()
    for _, (problem, rounds, sample) in book.parts("problem", "round", "sample"):
        rows = np.flatnonzero(rounds == round_)
        pairs = zip(problem[rows].tolist(), sample[rows].tolist(), strict=True)
        found |= {(task_ids[place], number) for place, number in pairs}
    return found


def select(book: Reader, where: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """Return (K,) int64, ascending: the rows for which every condition holds; all rows where there is none.

    Args:
        where: values by field, one of `where.FIELDS`, such as ``{"error": "NameError", "round": "0"}``;
            `where.rows_where` knows other relations than equality.

    Raises:
        UsageError: an unknown key or value; it names the nearest known one.
    """
    return rows_where(book, [Condition(field=key, operator="=", values=(text,)) for key, text in where.items()])


def unknown_problem(task_id: str, known: Sequence[str]) -> UsageError:
    """Return the error for a problem that the book does not have."""
    return unknown("problem", task_id, known)
