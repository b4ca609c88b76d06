"""Failed answers of a problem, each with the passed answer that it is most like."""

from __future__ import annotations

import difflib

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.alike import distinct
from ap2o_fast.book.reader import Reader
from ap2o_fast.errors import DataError
from ap2o_fast.judge.verdict import ErrorType

_CANDIDATES = 64
_LONGEST = 4000
"""Passed answers that are looked at, and how much of each: the comparison's time grows with the square."""


def closest_pairs(book: Reader, problem: int, rows: npt.NDArray[np.int64], limit: int) -> list[tuple[int, int]]:
    """Return up to `limit` (passed row, failed row) of a problem, a pair for each distinct failed answer.

    Args:
        problem: its index.
        rows: (K,) rows that the failed answers may be of.

    Raises:
        DataError: no answer passed, or none of `rows` failed.
    """
    error = book.column("error")
    mine = np.flatnonzero(book.column("problem") == problem)
    passed = distinct(book, mine[error[mine] == ErrorType.Passed])
    failed = np.intersect1d(mine[(error[mine] > ErrorType.Passed) & (error[mine] < ErrorType.Unjudgeable)], rows)
    task_id = book.task_ids[problem]
    if not len(passed):
        raise DataError(f"no answer to {task_id!r} passed", do="`ap2o book BOOK --by problem` says where some did")
    if not len(failed):
        raise DataError(f"no answer to {task_id!r} that fits failed", do="loosen --where, or take another problem")
    codes = {row: _program(book, row) for row in passed[:_CANDIDATES].tolist()}
    pairs = []
    for row in distinct(book, failed)[:limit].tolist():
        matcher = difflib.SequenceMatcher(b=_program(book, row), autojunk=False)

        def likeness(candidate: int, matcher: difflib.SequenceMatcher[str] = matcher) -> float:
            matcher.set_seq1(codes[candidate])
            return matcher.ratio()

        pairs.append((max(codes, key=likeness), row))
    return pairs


def _program(book: Reader, row: int) -> str:
    return (book.code(row) or book.text(row))[:_LONGEST]
