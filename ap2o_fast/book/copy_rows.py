"""Rows of one book written into another, with their problems and annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.book import ErrorBook
from ap2o_fast.book.manifest import read_manifest
from ap2o_fast.book.reader import Reader
from ap2o_fast.errors import UsageError

BATCH = 8192
"""Rows of a commit."""


def copy_rows(
    source: Reader, rows: npt.NDArray[np.int64], target: ErrorBook, advance: Callable[[int], object] | None = None
) -> None:
    """Append rows to another book, which has their problems, in their order and as they are, and commit them.

    Args:
        rows: (K,) row ids of `source`.
        advance: called with the number of rows after every commit.

    Raises:
        DataError: a row's key is taken in `target`, or its problem is not there.
        MachineError: the disk refuses.
    """
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        target.append_from(source, part)
        target.commit()
        if advance is not None:
            advance(len(part))


def copy_problems(source: Reader, problems: Iterable[int], target: ErrorBook) -> None:
    """Have problems of a book in another one.

    Args:
        problems: their indices in `source`.

    Raises:
        DataError: a problem is there with another prompt.
    """
    for index in problems:
        target.add_problem(source.task_ids[index], source.prompt_ids(index), source.prompt(index))
    target.commit()


def annotated(book: Reader) -> list[tuple[str, str]]:
    """Return the (name, key) of every annotation that a book has, in order of their first values."""
    entries = read_manifest(book.folder).annotations
    return list(dict.fromkeys((entry.name, entry.key) for entry in entries))


def copy_subset(
    source: Reader, rows: npt.NDArray[np.int64], target: ErrorBook, problems: Iterable[int] | None = None
) -> None:
    """Write rows into an empty book, with their problems and all that is annotated to them.

    Args:
        problems: indices of all problems that the new book gets; by default those of the rows.
    """
    copy_problems(source, np.unique(source.column("problem")[rows]).tolist() if problems is None else problems, target)
    copy_rows(source, rows, target)
    for name, key in annotated(source):
        annotate_known(target, name, key, source.annotation(name, key)[rows])


def annotate_known(target: ErrorBook, name: str, key: str, values: npt.NDArray[np.float32]) -> None:
    """Annotate the rows of a book from the first on with those of the values that are not NaN."""
    known = np.flatnonzero(~np.isnan(values))
    target.annotate(name, known, values[known], key)


def draw(rows: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Return `limit` of some rows by chance, without repetition, in the order of the book; all where it is 0.

    Raises:
        UsageError: `limit` is negative, or there are no rows.
    """
    if limit < 0:
        raise UsageError(f"--limit {limit}: a number of rows is needed", do="give 0 for all")
    if not len(rows):
        raise UsageError("no row of the book fits", do="loosen --where; `ap2o book BOOK --by error` says what there is")
    if not limit or limit >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, size=limit, replace=False))
