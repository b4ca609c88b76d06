"""Answers that are the same answer: the same tokens to the same problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.reader import Reader


def first_alike(book: Reader, rows: npt.NDArray[np.integer[Any]] | None = None) -> npt.NDArray[np.int64]:
    """(K,) for every row the place in `rows` of the first one that holds the same answer: its own, if it is new.

    Args:
        rows: (K,) row ids; by default all, and places are row ids.
    """
    problem, digest = (book.column(name) if rows is None else book.values(name, rows) for name in ("problem", "digest"))
    order = np.lexsort((digest, problem))  # stable: the first of those alike stays the first
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(problem[order]) != 0) | (np.diff(digest[order]) != 0)
    first = np.empty(len(order), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


def distinct(book: Reader, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The rows without those whose answer another one before them holds; their order stays."""
    return rows[first_alike(book, rows) == np.arange(len(rows))]
