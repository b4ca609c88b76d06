"""What is done to a book, in steps; after each step it must hold, and hold for ever, what it holds then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook
from ap2o_fast.book.fs import Files
from ap2o_fast.book.manifest import Manifest
from ap2o_fast.errors import Ap2oError
from tests.book.support import add_problems, expected, make_row, rows_of
from tests.book.test_book_round_trip import Unsynced

State = tuple[list[Any], list[str]]


EMPTY: State = ([], [])


FAN_IN = 4


def state_of(book: ErrorBook) -> State:
    return rows_of(book), [repr(value) for value in book.annotation("v", "k").tolist()]  # NaN equals itself as text


def begin(folder: Path, files: Files) -> Iterator[ErrorBook]:
    """A new book and its first commits."""
    book = ErrorBook.create(folder, files=files)
    yield book
    add_problems(book)
    book.append([make_row(0), make_row(1)])
    book.commit()
    yield book
    book.annotate("v", np.array([1]), np.array([0.5], np.float32), "k")
    yield book


def merge(folder: Path, files: Files) -> Iterator[ErrorBook]:
    """Commits of which the first merges rows and the second merges annotations (see `almost_full`)."""
    book = ErrorBook.open(folder, write=True, files=files)
    yield book
    start = len(book)
    book.append([make_row(start)])
    book.commit()
    yield book
    book.annotate("v", np.array([start]), np.array([7], np.float32), "k")
    yield book
    book.append([make_row(start + 1)])
    book.commit()
    yield book


def clear_up(folder: Path, files: Files) -> Iterator[ErrorBook]:
    """Opening after a crash, with leftovers of two kinds (see `left_by_a_crash`)."""
    book = ErrorBook.open(folder, write=True, files=files)
    yield book
    start = len(book)
    book.append([make_row(start)])
    book.commit()
    yield book


def nothing(folder: Path) -> None:
    """Where `begin` begins."""


def almost_full(folder: Path) -> None:
    """One commit of each kind before a merge."""
    with ErrorBook.create(folder, files=Unsynced()) as book:
        add_problems(book)
        for number in range(FAN_IN - 1):
            book.append([make_row(number)])
            book.commit()
            book.annotate("v", np.array([number]), np.array([number], np.float32), "k")


def left_by_a_crash(folder: Path) -> None:
    """Files of a commit that did not come to its end, one of them with a namesake in the quarantine."""
    with ErrorBook.create(folder) as book:
        add_problems(book)
        book.append([make_row(0)])
        book.commit()
    number = Manifest.decode((folder / "manifest.json").read_bytes(), folder).next_number
    (folder / f"{number:08d}.rows").write_bytes(b"torn")
    (folder / f"{number + 1:08d}.manifest").write_bytes(b"{")
    (folder / "quarantine").mkdir()
    (folder / "quarantine" / f"{number:08d}.rows").write_bytes(b"torn earlier")


def one_row(folder: Path) -> None:
    with ErrorBook.create(folder) as book:
        add_problems(book)
        book.append([make_row(0)])
        book.commit()


def commit_one(folder: Path, files: Files) -> Iterator[ErrorBook]:
    book = ErrorBook.open(folder, write=True, files=files)  # one sync
    yield book
    book.append([make_row(1), make_row(2)])
    book.commit()
    yield book


PROGRAMS = pytest.mark.parametrize(
    ("prepare", "program"), [(nothing, begin), (almost_full, merge), (left_by_a_crash, clear_up)]
)


def reopened(folder: Path, allowed: list[State | None]) -> str:
    """Open a book as the next run would, go on writing, and return what is wrong, "" if nothing is."""
    if not (folder / "manifest.json").exists():
        if None not in allowed:
            return "the book is gone"
        try:
            ErrorBook.create(folder, files=Unsynced()).close()
        except Ap2oError as error:
            return f"cannot be created again: {error}"
        return ""
    try:
        with ErrorBook.open(folder, write=True, check=True, files=Unsynced()) as book:
            state = state_of(book)
            if state not in [one or EMPTY for one in allowed]:
                return f"holds {len(state[0])} rows and {len(state[1])} values, or others than were given"
            count = len(book)
            add_problems(book)
            book.append([make_row(1000)])
            book.commit()
        with ErrorBook.open(folder, check=True) as book:
            if rows_of(book) != state[0] + expected(1, 1000) or len(book) != count + 1:
                return "cannot be continued"
    except Ap2oError as error:
        return f"cannot be opened: {error}"
    return ""
