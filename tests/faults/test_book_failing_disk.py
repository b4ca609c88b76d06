"""A disk that is full or broken: the error is told, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ap2o_fast.book import ErrorBook
from ap2o_fast.book.fs import Files
from ap2o_fast.errors import MachineError
from tests.book.support import add_problems, expected, make_row, rows_of
from tests.faults.book_disk import FailingFiles, RecordingFiles
from tests.faults.book_programs import (
    PROGRAMS,
    one_row,
    reopened,
    state_of,
)


@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@PROGRAMS
def test_an_operation_that_fails_is_reported_and_loses_nothing(
    tmp_path: Path, prepare: Callable, program: Callable, error: int, stays: bool
) -> None:
    prepare(tmp_path / "prepared")
    for at in range(len(recorded(tmp_path, program)) + 1):
        folder = tmp_path / str(at)
        copy(tmp_path / "prepared", folder)
        files = FailingFiles(at=at, error=error, stays=stays, partial=error == errno.ENOSPC)
        good = state_of(ErrorBook.open(folder)) if folder.exists() else None
        book = None
        try:
            for book in program(folder, files):
                good = state_of(book)
        except MachineError as raised:
            assert os.strerror(error) in raised.why
            assert raised.do
            if book is not None and not book._writer.closed:
                found = state_of(book)
                if "are in the error book" in raised.what:
                    assert found != good
                    assert files.failed == "sync_folder"
                else:
                    assert found == good
                if not stays:  # the very same call may be made again
                    book.commit()
                    assert state_of(book) == state_of(ErrorBook.open(folder))
                    keys = zip(book.column("problem").tolist(), book.column("sample").tolist(), strict=True)
                    assert len(set(keys)) == len(book)
                good = state_of(book)
                book.close()
        else:
            book.close()  # only the removal of a file that is not needed any more may fail unsaid
            assert files.failed in ("remove", "")
        assert reopened(folder, [good]) == "", f"operation {at}, {files.failed}"
        shutil.rmtree(folder, ignore_errors=True)
    assert files.failed == "", "the last turn fails nothing"


def recorded(root: Path, program: Callable) -> list[tuple]:
    files = RecordingFiles()
    copy(root / "prepared", root / "recorded")
    for book in program(root / "recorded", files):
        book.commit()
    book.close()
    return files.log


def copy(source: Path, target: Path) -> None:
    if source.exists():
        shutil.copytree(source, target)


def test_a_commit_whose_last_sync_failed_is_synced_by_the_next_call(tmp_path: Path) -> None:
    one_row(tmp_path / "book")

    class LastSyncFails(RecordingFiles):
        def sync_folder(self, path: Path) -> None:
            if self.log and self.log[-1][0] == "replace":
                self.log.append(("failed sync", path))
                raise OSError(errno.EIO, "the device does not answer")
            super().sync_folder(path)

    files = LastSyncFails()
    book = ErrorBook.open(tmp_path / "book", write=True, files=files)
    book.append([make_row(1)])
    with pytest.raises(MachineError, match="are in the error book, but may not outlive"):
        book.commit()
    assert len(book) == len(ErrorBook.open(book.folder)) == 2
    for synced in (["sync_folder"], []):
        files.log.clear()
        assert book.commit() == range(2, 2)
        assert [name for name, *_ in files.log] == synced


def test_an_interrupted_commit_leaves_a_book_that_goes_on(tmp_path: Path) -> None:
    class Interrupted(Files):
        at = ""

        def replace(self, source: Path, target: Path) -> None:
            if self.at == "before":
                raise KeyboardInterrupt
            super().replace(source, target)
            if self.at == "after":
                raise KeyboardInterrupt

    files = Interrupted()
    book = ErrorBook.create(tmp_path / "book", files=files)
    add_problems(book)
    book.append([make_row(0)])
    for files.at, rows in (("before", 0), ("after", 1)):
        with pytest.raises(KeyboardInterrupt):
            book.commit()
        assert len(book) == len(ErrorBook.open(book.folder)) == rows
    files.at = ""
    book.append([make_row(1)])
    assert book.commit() == range(1, 2)
    assert rows_of(book) == rows_of(ErrorBook.open(book.folder)) == expected(2)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="file"):
        ErrorBook.create(tmp_path / "file" / "book")
