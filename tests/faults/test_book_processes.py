"""A book and several processes: one writes, others read, one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ap2o_fast.book import ErrorBook
from ap2o_fast.errors import DataError
from tests.book.support import add_problems, expected, make_row, rows_of
from tests.book.test_book_round_trip import Unsynced
from tests.faults.book_programs import (
    FAN_IN,
)

ROOT = Path(__file__).resolve().parents[2]


WRITERS = """
import os, sys
from tests.book.support import add_problems, make_row
from ap2o_fast.book import ErrorBook, writer

writer.FAN_IN = writer.FIRST_FAN_IN = 4

def say(*lines):  # in one piece, which print does not where PYTHONUNBUFFERED is set: a kill must not leave half a line
    os.write(1, "".join(f"{line}\\n" for line in lines).encode())

def write(folder):
    book = ErrorBook.open(folder, write=True)
    add_problems(book)
    number = len(book)
    say(os.getpid(), number)
    while True:
        count = 1 + number % 4
        book.append([make_row(number + index) for index in range(count)])
        book.commit()
        number += count
        say(number)

for folder in sys.stdin:  # a writer forked from here is as good as one started anew, and costs no imports
    child = os.fork()
    if child == 0:
        write(folder.strip())
    os.waitpid(child, 0)
    say("gone")
"""


READER = """
import sys
from tests.book.support import expected, plain
from ap2o_fast.book import ErrorBook
book, seen = ErrorBook.open(sys.argv[1]), 0
while seen < int(sys.argv[2]):
    book.refresh()
    assert len(book) >= seen
    assert len(book) % 3 == 0, "a commit is of three rows"
    rows = [plain(book.row(row)) for row in range(seen, len(book))]
    assert rows == expected(len(rows), seen)
    assert book.column("sample").tolist() == [row // 5 for row in range(len(book))]
    seen = len(book)
print("fine")
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def begin_writing(server: subprocess.Popen[str], folder: Path) -> int:
    """Have a book written until the writer is killed; returns its process id. It prints the rows that are committed."""
    assert server.stdin and server.stdout
    server.stdin.write(f"{folder}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def kill_writers(folder: Path, turns: int) -> Iterator[int]:
    """Kill a writer so many times, and yield the rows in the book each time after holding them to what is promised."""
    ErrorBook.create(folder).close()
    acknowledged = 0
    with start(WRITERS) as server:
        assert server.stdout
        for turn in range(turns):
            writer = begin_writing(server, folder)
            printed = [server.stdout.readline() for _ in range(1 + turn % 5)]
            time.sleep(0.001 * (turn % 20))
            os.kill(writer, signal.SIGKILL)
            printed += iter(server.stdout.readline, "gone\n")
            acknowledged = max([acknowledged, *map(int, printed)])
            with ErrorBook.open(folder, check=True) as book:
                assert len(book) >= acknowledged
                ends = [0]
                while ends[-1] < len(book):
                    ends.append(ends[-1] + 1 + ends[-1] % 4)
                assert ends[-1] == len(book), "half a commit"
                acknowledged = len(book)
            with ErrorBook.open(folder, write=True) as book:
                assert book.lost_rows in (0, 1 + acknowledged % 4), "more than the commit that was cut off"
            yield acknowledged
        server.communicate()
    assert rows_of(book) == expected(acknowledged)


def test_a_killed_writer_leaves_every_acknowledged_row_and_no_half_commit(tmp_path: Path) -> None:
    """`soak_book.py` does it hundreds of times."""
    *_, rows = kill_writers(tmp_path / "book", 20)
    assert rows > 60


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    ErrorBook.create(tmp_path / "book").close()
    with start(WRITERS) as server:
        assert server.stdout
        writer = begin_writing(server, tmp_path / "book")
        server.stdout.readline()
        with pytest.raises(DataError, match=rf"pid {writer}\b"):
            ErrorBook.open(tmp_path / "book", write=True)
        ErrorBook.open(tmp_path / "book")
        os.kill(writer, signal.SIGKILL)
        server.communicate()
    with ErrorBook.open(tmp_path / "book", write=True), pytest.raises(DataError, match=rf"pid {os.getpid()}\b"):
        ErrorBook.open(tmp_path / "book", write=True)


def test_eight_readers_beside_a_writer_see_whole_commits_only(tmp_path: Path) -> None:
    book = ErrorBook.create(tmp_path / "book", files=Unsynced())
    add_problems(book)
    book.commit()
    rows = 60 * FAN_IN
    readers = [start(READER, book.folder, rows) for _ in range(8)]
    for number in range(0, rows, 3):
        book.append([make_row(number + index) for index in range(3)])
        book.commit()
        time.sleep(0.002)
    for reader in readers:
        output, errors = reader.communicate(timeout=60)
        assert output == "fine\n", errors
