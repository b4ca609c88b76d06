from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook, reader
from ap2o_fast.book.writer import FIRST_FAN_IN
from ap2o_fast.errors import DataError, UsageError
from ap2o_fast.judge.verdict import ErrorType
from tests.book.support import PROBLEMS, add_problems, make_row
from tests.book.test_book_round_trip import Unsynced

ROWS = [make_row(number) for number in range(90)] + [make_row(number, round=2) for number in range(45)]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> ErrorBook:
    book = ErrorBook.create(tmp_path_factory.mktemp("queries") / "book", files=Unsynced())
    add_problems(book)
    for start in range(0, len(ROWS), 10):
        book.append(ROWS[start : start + 10])
        book.commit()
    return book


@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_frequencies_count_every_type_of_every_problem(
    book: ErrorBook, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_PART", chunk)
    for round_ in (None, 0, 1, 2):
        counted = Counter((int(row.task_id[5:]), int(row.verdict.error)) for row in ROWS if round_ in (None, row.round))
        frequencies = book.frequencies(round_)
        assert frequencies.shape == (PROBLEMS, len(ErrorType))
        assert frequencies.dtype == np.int64
        assert frequencies.sum() == sum(counted.values())
        assert {tuple(cell): frequencies[tuple(cell)] for cell in np.argwhere(frequencies).tolist()} == dict(counted)


def test_select_joins_its_conditions(book: ErrorBook) -> None:
    assert book.select({}).tolist() == list(range(len(ROWS)))
    error = ROWS[7].verdict.error
    for where, holds in (
        ({"error": error.name}, lambda row: row.verdict.error == error),
        ({"problem": "task/3"}, lambda row: row.task_id == "task/3"),
        ({"round": "2", "sample": "4"}, lambda row: (row.round, row.sample) == (2, 4)),
        ({"error": error.name, "problem": "task/2", "round": "0"},
         lambda row: (row.verdict.error, row.task_id, row.round) == (error, "task/2", 0)),
    ):  # fmt: skip
        assert book.select(where).tolist() == [index for index, row in enumerate(ROWS) if holds(row)]
    assert len(book.select({"error": error.name, "problem": "task/2"})) > 0


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"error": "indexerror"}, r"no error type 'indexerror'[\s\S]*did you mean 'IndexError'"),
        ({"error": "0"}, r"no error type '0'[\s\S]*known are: Passed, "),
        ({"erorr": "IndexError"}, r"no key 'erorr'[\s\S]*did you mean 'error'"),
        ({"problem": "task/33"}, r"no problem 'task/33'[\s\S]*did you mean 'task/3'"),
        ({"round": "-1"}, "a whole number is needed"),
        ({"sample": "two"}, "a whole number is needed"),
    ],
)
def test_select_says_what_it_does_not_know(book: ErrorBook, where: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        book.select(where)


def test_annotations_are_kept_apart_by_name_and_key_and_the_last_value_counts(tmp_path: Path) -> None:
    book = ErrorBook.create(tmp_path / "book", files=Unsynced())
    add_problems(book)
    book.append(ROWS[:10])
    book.commit()
    reader = ErrorBook.open(book.folder)
    book.annotate("ref_logp", np.array([1, 3, 9, 1]), np.array([1, 2, -np.inf, 4], np.float32), "model a")
    book.annotate("ref_logp", np.array([3], np.int32), np.array([7], np.float32), "model b")
    book.annotate("other", np.array([0], np.uint8), np.array([8], np.float32), "model a")
    book.append(ROWS[10:12])
    book.commit()
    book.annotate("ref_logp", np.array([11, 3]), np.array([5, 6], np.float32), "model a")
    book.annotate("ref_logp", np.array([], np.int64), np.array([], np.float32), "model a")
    nan = np.nan
    reader.refresh()
    for shown in (book, reader, ErrorBook.open(book.folder)):
        values = shown.annotation("ref_logp", "model a")
        np.testing.assert_array_equal(values, np.array([nan, 4, nan, 6, nan, nan, nan, nan, nan, -np.inf, nan, 5]))
        assert values.dtype == np.float32
        assert np.flatnonzero(~np.isnan(shown.annotation("ref_logp", "model b"))).tolist() == [3]
        assert np.flatnonzero(~np.isnan(shown.annotation("other", "model a"))).tolist() == [0]
        assert np.isnan(shown.annotation("ref_logp", "model c")).all()


def test_many_annotations_are_merged_in_order(tmp_path: Path) -> None:
    book = ErrorBook.create(tmp_path / "book", files=Unsynced())
    add_problems(book)
    book.append(ROWS[:10])
    book.commit()
    for turn in range(FIRST_FAN_IN + 2):
        for key in "ab":
            value = turn * (1 if key == "a" else -1)
            book.annotate("v", np.array([0, turn % 10]), np.array([value, value], np.float32), key)
    assert len(list(book.folder.glob("*.values"))) == 2 * (1 + 2)
    last = [max(turn for turn in range(FIRST_FAN_IN + 2) if turn % 10 == row or row == 0) for row in range(10)]
    assert book.annotation("v", "a").tolist() == last
    assert ErrorBook.open(book.folder).annotation("v", "b").tolist() == [-value for value in last]
    assert book.verify() == []


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        (np.array([0.0]), np.zeros(1, np.float32), "array of integers"),
        (np.array([[0]]), np.zeros(1, np.float32), "one-dimensional"),
        (np.array([0]), np.zeros(1), "of float32"),
        (np.array([0, 1]), np.zeros(1, np.float32), "2 rows and 1 values"),
        (np.array([len(ROWS)]), np.zeros(1, np.float32), "outside 0 to"),
        (np.array([-1]), np.zeros(1, np.float32), "outside 0 to"),
        (np.array([4]), np.array([np.nan], np.float32), "NaN for row 4"),
    ],
)
def test_a_wrong_annotation_is_refused(book: ErrorBook, rows: np.ndarray, values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        book.annotate("v", rows, values, "k")
