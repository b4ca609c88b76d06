"""A book against a list: random sequences of everything a caller can do."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ap2o_fast.book import ErrorBook
from ap2o_fast.errors import DataError
from tests.book.support import add_problems, make_row, plain
from tests.book.test_book_round_trip import Unsynced

numbers = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), max_size=5)


class BookMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.book = ErrorBook.create(self.folder / "book", files=Unsynced())
        add_problems(self.book)
        self.book.commit()
        self.reader = ErrorBook.open(self.book.folder)
        self.committed: list[tuple[int, int]] = []
        self.seen: list[tuple[int, int]] = []
        self.pending: list[tuple[int, int]] = []
        self.values: dict[str, dict[int, float]] = {"a": {}, "b": {}}

    @rule(rows=numbers)
    def append(self, rows: list[tuple[int, int]]) -> None:
        taken = self.committed + self.pending
        free = len(set(rows)) == len(rows) and not set(rows) & set(taken)
        try:
            self.book.append([make_row(*row) for row in rows])
            assert free
            self.pending += rows
        except DataError:
            assert not free

    @rule()
    def commit(self) -> None:
        assert self.book.commit() == range(len(self.committed), len(self.committed) + len(self.pending))
        self.committed, self.pending = self.committed + self.pending, []

    @rule()
    def discard(self) -> None:
        self.book.discard()
        self.pending = []

    @rule()
    def reopen(self) -> None:
        self.book.close()
        self.book = ErrorBook.open(self.book.folder, write=True, check=True, files=Unsynced())
        assert self.book.quarantined == 0
        self.pending = []

    @rule()
    def refresh(self) -> None:
        self.reader.refresh()
        self.seen = list(self.committed)

    @precondition(lambda self: self.committed)
    @rule(data=st.data(), key=st.sampled_from("ab"))
    def annotate(self, data: st.DataObject, key: str) -> None:
        some = st.lists(
            st.tuples(st.integers(0, len(self.committed) - 1), st.floats(width=32, allow_nan=False)), max_size=4
        )
        pairs = data.draw(some)
        rows, values = (
            np.array([row for row, _ in pairs], np.int64),
            np.array([value for _, value in pairs], np.float32),
        )
        self.book.annotate("v", rows, values, key)
        self.values[key].update(pairs)

    @invariant()
    def writer_and_reader_hold_what_the_model_holds(self) -> None:
        for book, rows in ((self.book, self.committed), (self.reader, self.seen)):
            assert len(book) == len(rows)
            assert [plain(book.row(row)) for row in range(len(book))] == [plain(make_row(*row)) for row in rows]
            assert book.column("sample").tolist() == [make_row(*row).sample for row in rows]
        for key, values in self.values.items():
            found = self.book.annotation("v", key)
            assert {row: found[row] for row in np.flatnonzero(~np.isnan(found)).tolist()} == values
        done = {(make_row(*row).task_id, make_row(*row).sample) for row in self.committed if row[1] == 1}
        assert self.book.done(1) == done

    def teardown(self) -> None:
        self.book.close()
        shutil.rmtree(self.folder)


BookMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestBookMachine = BookMachine.TestCase
