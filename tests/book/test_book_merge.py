from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook, Row, copy_rows
from ap2o_fast.book.copy_rows import annotated, copy_subset, draw
from ap2o_fast.book.merge import Merged, Source, merge, shared_facts
from ap2o_fast.errors import DataError, UsageError
from ap2o_fast.judge.verdict import ErrorType
from tests.book.support import PROBLEMS, add_problems, make_row, plain, rows_of
from tests.book.test_book_round_trip import Unsynced

Change = Callable[[Row], Row]


def write(path: Path, rows: Sequence[Row]) -> ErrorBook:
    book = ErrorBook.create(path, files=Unsynced())
    add_problems(book)
    book.append(rows)
    book.commit()
    return book


def source(book: ErrorBook, **facts: str) -> Source:
    return Source(name=book.folder.name, book=book, facts=facts)


def merged(path: Path, *books: ErrorBook) -> tuple[ErrorBook, Merged]:
    target = ErrorBook.create(path, files=Unsynced())
    return target, merge([source(book) for book in books], target)


def sorted_rows(book: ErrorBook) -> list[Any]:
    return sorted(rows_of(book), key=repr)


def test_what_several_have_is_there_once_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_rows, "BATCH", 7)
    rows = [make_row(number, round) for number in range(20) for round in (0, 2)]
    books = [write(tmp_path / name, part) for name, part in (("a", rows[:25]), ("b", rows[15:]), ("c", rows[5:9]))]
    book, made = merged(tmp_path / "all", *books)
    assert rows_of(book) == [plain(row) for row in rows]
    assert made == Merged(taken=(25, 15, 0), double=10 + 4)
    assert book.task_ids == books[0].task_ids
    assert [book.prompt(i) for i in range(PROBLEMS)] == [books[0].prompt(i) for i in range(PROBLEMS)]
    again, made = merged(tmp_path / "again", books[1], book, books[0])
    assert sorted_rows(again) == sorted_rows(book) and made.double == 25 + 25
    assert ErrorBook.open(book.folder, check=True).verify() == []


def test_problems_are_numbered_anew(tmp_path: Path) -> None:
    books = []
    for name, tasks in (("a", "xy"), ("b", "zyw")):
        book = ErrorBook.create(tmp_path / name, files=Unsynced())
        for task in tasks:
            book.add_problem(task, np.array([ord(task)], np.int32), f"prompt {task}")
            if task != "w":
                book.append([dataclasses.replace(make_row(ord(task) + 5 * (name == "b")), task_id=task)])
        book.commit()
        books.append(book)
    book, _ = merged(tmp_path / "all", *books)
    assert book.task_ids == ("x", "y", "z", "w")
    assert [book.task_ids[problem] for problem in book.column("problem")] == ["x", "y", "z", "y"]
    assert book.prompt(3) == "prompt w" and book.prompt_ids(2).tolist() == [ord("z")]


def test_annotations_come_along_and_the_first_book_counts(tmp_path: Path) -> None:
    rows = [make_row(number) for number in range(6)]
    a, b = write(tmp_path / "a", rows[:4]), write(tmp_path / "b", rows[2:])
    a.annotate("ref_logp", np.array([0, 2]), np.array([-1, -2], np.float32), "m")
    b.annotate("ref_logp", np.array([0, 1, 3]), np.array([-20, -30, -50], np.float32), "m")
    b.annotate("logp", np.array([3]), np.array([7], np.float32), "epoch 1")
    book, _ = merged(tmp_path / "all", a, b)
    nan = np.nan
    np.testing.assert_array_equal(book.annotation("ref_logp", "m"), np.array([-1, nan, -2, -30, nan, -50], np.float32))
    np.testing.assert_array_equal(book.annotation("logp", "epoch 1"), np.array([nan] * 5 + [7], np.float32))
    assert annotated(book) == [("ref_logp", "m"), ("logp", "epoch 1")]


def other_verdict(row: Row) -> Row:
    error = ErrorType.Flaky if row.verdict.error is ErrorType.Passed else ErrorType.Passed
    return dataclasses.replace(row, verdict=dataclasses.replace(row.verdict, error=error))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: dataclasses.replace(
                row, token_ids=np.array([5], np.int32), logprobs=np.array([-1], np.float32)
            ),
            r"^b \(row 1\) and a \(row 3\) have other tokens for answer 0 of round 0 to 'task/3', seed -?\d+",
        ),
        (other_verdict, r"b \(row 1\) and a \(row 3\) have another verdict[\s\S]*Passed"),
        (lambda row: dataclasses.replace(row, policy="epoch-9"), "another policy"),
    ],
)
def test_a_key_with_two_answers_is_refused_by_name(tmp_path: Path, change: Change, message: str) -> None:
    rows = [make_row(number) for number in range(6)]
    a, b = write(tmp_path / "a", rows[:4]), write(tmp_path / "b", [rows[2], change(rows[3]), *rows[4:]])
    target = ErrorBook.create(tmp_path / "all", files=Unsynced())
    with pytest.raises(DataError, match=message):
        merge([source(a), source(b)], target)
    assert len(target) == 0


def test_what_a_machine_measured_may_differ(tmp_path: Path) -> None:
    row = make_row(3)
    slower = dataclasses.replace(row, verdict=dataclasses.replace(row.verdict, cpu_seconds=9.5, peak_mib=1.0))
    book, made = merged(tmp_path / "all", write(tmp_path / "a", [row]), write(tmp_path / "b", [slower]))
    assert rows_of(book) == [plain(row)] and made.double == 1


@pytest.mark.parametrize(("ids", "prompt", "what"), [([1], "q", "prompt"), ([2], "p", "prompt's tokens")])
def test_another_prompt_is_refused_by_name(tmp_path: Path, ids: list[int], prompt: str, what: str) -> None:
    books = []
    for name, given in (("a", ([1], "p")), ("b", (ids, prompt))):
        book = ErrorBook.create(tmp_path / name, files=Unsynced())
        book.add_problem("task/0", np.array(given[0], np.int32), given[1])
        book.commit()
        books.append(source(book))
    with pytest.raises(DataError, match=f"b and a have another {what} for the problem 'task/0'"):
        merge(books, ErrorBook.create(tmp_path / "all", files=Unsynced()))


def test_another_model_is_refused_by_name_and_what_one_does_not_know_is_taken_from_the_other(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, []) for name in "ab")
    assert shared_facts([source(a, model="1"), source(b, tokenizer="2")]) == {"model": "1", "tokenizer": "2"}
    with pytest.raises(DataError, match=r"b and a were made with another model[\s\S]*'2' there, '1' here"):
        merge([source(a, model="1"), source(b, model="2")], ErrorBook.create(tmp_path / "all", files=Unsynced()))


def test_other_seeds_are_other_answers(tmp_path: Path) -> None:
    row = make_row(3)
    other = dataclasses.replace(make_row(8), sample=row.sample, seed=row.seed ^ 1)
    book, made = merged(tmp_path / "all", write(tmp_path / "a", [row]), write(tmp_path / "b", [other]))
    assert rows_of(book) == [plain(row), plain(other)] and made.double == 0


def test_a_subset_holds_the_chosen_rows_their_problems_and_annotations(tmp_path: Path) -> None:
    rows = [make_row(number) for number in range(20)]
    book = write(tmp_path / "a", rows)
    book.annotate("ref_logp", np.array([3, 8, 9]), np.array([3, 8, 9], np.float32), "m")
    target = ErrorBook.create(tmp_path / "b", files=Unsynced())
    copy_subset(book, np.array([3, 4, 9, 13]), target)
    assert rows_of(target) == [plain(rows[at]) for at in (3, 4, 9, 13)]
    assert target.task_ids == ("task/3", "task/4")
    np.testing.assert_array_equal(target.annotation("ref_logp", "m"), np.array([3, np.nan, 9, np.nan], np.float32))


@pytest.mark.parametrize("rows", [range(60), [59, 3, 4, 5, 30, 29, 0], [7], []])
def test_rows_taken_as_they_are_stored_are_those_appended_one_by_one(tmp_path: Path, rows: Sequence[int]) -> None:
    """From several files, to another numbering of the problems, bit for bit."""
    book = ErrorBook.create(tmp_path / "a", files=Unsynced())
    add_problems(book)
    for start in range(0, 60, 13):
        book.append([make_row(number) for number in range(start, min(start + 13, 60))])
        book.commit()
        book.commit()
    targets = []
    for name in "bc":
        target = ErrorBook.create(tmp_path / name, files=Unsynced())
        for problem in reversed(range(PROBLEMS)):
            target.add_problem(book.task_ids[problem], book.prompt_ids(problem), book.prompt(problem))
        targets.append(target)
    one_by_one, stored = targets
    one_by_one.append([book.row(row) for row in rows])
    stored.append_from(book, np.array(rows, np.int64))
    for target in targets:
        target.commit()
    assert rows_of(stored) == [plain(book.row(row)) for row in rows]
    (one,), (other,) = (list(target.folder.glob("*.rows")) for target in targets)
    assert one.read_bytes() == other.read_bytes()


def test_rows_of_another_book_are_refused_as_any_others(tmp_path: Path) -> None:
    book = write(tmp_path / "a", [make_row(number) for number in range(9)])
    target = ErrorBook.create(tmp_path / "b", files=Unsynced())
    with pytest.raises(DataError, match="problem 'task/0' is not in the error book"):
        target.append_from(book, np.arange(9))
    add_problems(target)
    target.append([make_row(4)])
    with pytest.raises(DataError, match="answer 0 of round 0 to 'task/4'"):
        target.append_from(book, np.arange(2, 9))
    target.append_from(book, np.arange(4))
    target.commit()
    assert rows_of(target) == [plain(make_row(number)) for number in (4, 0, 1, 2, 3)]


def test_drawing_is_by_seed_without_repetition_and_in_order() -> None:
    rows = np.arange(100, 200)
    drawn = draw(rows, 30, seed=1)
    assert len(set(drawn.tolist())) == 30 and set(drawn.tolist()) <= set(rows.tolist())
    assert drawn.tolist() == sorted(drawn.tolist()) == draw(rows, 30, seed=1).tolist() != draw(rows, 30, 2).tolist()
    assert draw(rows, 0, 1).tolist() == draw(rows, 500, 1).tolist() == rows.tolist()
    with pytest.raises(UsageError, match="no row of the book fits"):
        draw(rows[:0], 3, 1)
