from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook, check, verify, writer
from ap2o_fast.book.fs import Files
from ap2o_fast.book.manifest import Manifest, read_manifest
from ap2o_fast.errors import Ap2oError, DataError, MachineError
from tests.book.support import add_problems, expected, make_row, rows_of
from tests.book.test_book_round_trip import Unsynced
from tests.faults.book_disk import FailingFiles, RecordingFiles, crash_states, moved, read_folder

ROOT = Path(__file__).resolve().parents[2]
State = tuple[list[Any], list[str]]
EMPTY: State = ([], [])
FAN_IN = 4


@pytest.fixture(autouse=True)
def _merge_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FAN_IN", FAN_IN)


def state_of(book: ErrorBook) -> State:
    return rows_of(book), [repr(value) for value in book.annotation("v", "k").tolist()]  # NaN equals itself as text


# What is done to a book, in steps; after each step it must hold, and hold for ever, what it holds then.


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


PROGRAMS = pytest.mark.parametrize(
    ("prepare", "program"), [(nothing, begin), (almost_full, merge), (left_by_a_crash, clear_up)]
)


def violations(root: Path, prepare: Callable, program: Callable, forget: int | None = None) -> Iterator[str]:
    """Run a program, crash it after each of its operations in every way, and yield what is then not as promised.

    Args:
        forget: the number of a sync that the disk does not do, to see that it is missed.
    """
    source, target = root / "source", root / "target"
    source.mkdir()
    prepare(source / "book")
    start = read_folder(source)
    files = RecordingFiles()
    before = state_of(ErrorBook.open(source / "book")) if start else None
    marks = [(0, before)]
    for book in program(source / "book", files):
        marks.append((len(files.log), state_of(book)))
    book.close()
    start, log = moved(start, files.log, source, target)
    syncs = [index for index, (name, *_) in enumerate(log) if name.startswith("sync")]
    if forget is not None:
        log[syncs[forget]] = ("sync_folder", Path("nowhere"))
    for end in range(len(log) + 1):
        done = max(index for index, (mark, _) in enumerate(marks) if mark <= end)
        allowed = [marks[done][1]]
        if marks[done][0] != end and done + 1 < len(marks):
            allowed.append(marks[done + 1][1])
        for description in crash_states(start, log[:end], target):
            where = f"crash after {end} of {len(log)} operations ({log[end - 1][0] if end else 'none'}): {description}"
            found = reopened(target / "book", allowed)
            if found:
                yield f"{where}: {found}"


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


@PROGRAMS
def test_every_state_a_power_failure_may_leave_is_a_committed_one(
    tmp_path: Path, prepare: Callable, program: Callable
) -> None:
    assert list(violations(tmp_path, prepare, program)) == []


def test_every_sync_of_a_commit_is_missed_when_it_is_left_out(tmp_path: Path) -> None:
    order = record_commit(tmp_path / "one")
    syncs = sum(name.startswith("sync") for name in order)
    assert syncs == 4
    for forget in range(syncs):
        root = tmp_path / str(forget)
        root.mkdir()
        assert next(violations(root, one_row, commit_one, forget=forget + 1), None), f"sync {forget} is not needed"


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


def record_commit(folder: Path) -> list[str]:
    one_row(folder)
    files = RecordingFiles()
    program = commit_one(folder, files)
    next(program).append([make_row(9)])
    files.log.clear()
    next(program).close()
    return [name for name, *_ in files.log]


def test_a_commit_syncs_before_it_renames_and_after(tmp_path: Path) -> None:
    order = record_commit(tmp_path / "book")
    payload, manifest = ["create", "write", "sync"], ["create", "write", "sync"]
    assert order == [*payload, *manifest, "sync_folder", "replace", "sync_folder"]


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


def test_what_a_crash_left_is_set_aside_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "book"
    left_by_a_crash(folder)
    with ErrorBook.open(folder) as reader:
        assert rows_of(reader) == expected(1)
        assert reader.quarantined == 0
    with ErrorBook.open(folder, write=True) as book:
        assert book.quarantined == 2
        assert rows_of(book) == expected(1)
    contents = sorted(path.read_bytes() for path in (folder / "quarantine").iterdir())
    assert contents == [b"torn", b"torn earlier", b"{"]
    with ErrorBook.open(folder, write=True) as book:
        assert book.quarantined == 0


def test_files_that_were_merged_are_removed_and_not_counted_as_lost(tmp_path: Path) -> None:
    class Cut(Unsynced):
        def remove(self, path: Path) -> None:
            raise OSError(errno.EIO, "as if the machine stopped here")

    almost_full(tmp_path / "book")
    with ErrorBook.open(tmp_path / "book", write=True, files=Cut()) as book:
        book.append([make_row(FAN_IN - 1)])
        book.commit()
    assert len(list(book.folder.glob("*.rows"))) == FAN_IN + 1
    with ErrorBook.open(book.folder, write=True) as book:
        assert book.quarantined == 0
        assert rows_of(book) == expected(FAN_IN)
    assert len(list(book.folder.glob("*.rows"))) == 1


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


def test_verify_beside_a_writer_that_merges_finds_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    almost_full(tmp_path / "book")
    manifest = read_manifest(tmp_path / "book")
    with ErrorBook.open(tmp_path / "book", write=True) as book:
        book.append([make_row(FAN_IN)])
        book.commit()
    reads = iter([manifest])  # as if read just before that commit
    monkeypatch.setattr(check, "read_manifest", lambda folder: next(reads, None) or read_manifest(folder))
    assert verify(book.folder) == []


def test_a_file_that_is_in_the_way_is_not_written_over(tmp_path: Path) -> None:
    with ErrorBook.create(tmp_path / "book") as book:
        add_problems(book)
        book.append([make_row(0)])
        (book.folder / "00000001.rows").write_bytes(b"not ours")
        book.commit()
    with pytest.raises(FileExistsError):
        Files().create(book.folder / "00000001.rows")
    assert (book.folder / "00000001.rows").read_bytes() == b"not ours"
    with ErrorBook.open(book.folder, write=True, check=True) as book:
        assert book.quarantined == 1
        assert rows_of(book) == expected(1)


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


# Damage to what was sealed


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    with ErrorBook.create(tmp_path / "book") as book:
        book.add_problem("task/0", np.array([1, 2], np.int32), "p")
        book.append([make_row(0)])
        book.commit()
        book.annotate("v", np.array([0]), np.array([1], np.float32), "k")
    return book.folder


def test_every_flipped_bit_is_found(sealed: Path) -> None:
    assert verify(sealed) == []
    for path in sorted(sealed.iterdir()):
        if path.name == "lock":
            continue
        data = bytearray(path.read_bytes())
        for place in range(len(data)):
            bit = 1 << place % 8  # one bit of every byte
            data[place] ^= bit
            path.write_bytes(data)
            faults = verify(sealed)
            assert len(faults) == 1, f"{path.name}, byte {place}"
            assert path.name in faults[0]
            data[place] ^= bit
        path.write_bytes(data)
    assert verify(sealed) == []


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("kind", ["*.rows", "*.values", "manifest.json"])
@pytest.mark.parametrize("damage", [cut, empty, lengthen, zero, Path.unlink])
def test_a_damaged_file_is_refused_by_name(sealed: Path, kind: str, damage: Callable[[Path], None]) -> None:
    (path,) = sealed.glob(kind)
    damage(path)
    (fault,) = verify(sealed)
    assert path.name in fault
    for write in (False, True):
        with pytest.raises(DataError, match=path.name):
            ErrorBook.open(sealed, write=write, check=True)
        if damage is not zero or kind == "manifest.json":  # without reading everything, lengths and the manifest
            with pytest.raises(DataError, match=path.name):
                ErrorBook.open(sealed, write=write)


def test_a_refused_book_is_not_left_locked(sealed: Path) -> None:
    (path,) = sealed.glob("*.rows")
    kept = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(DataError, match=path.name):
        ErrorBook.open(sealed, write=True)
    path.write_bytes(kept)
    ErrorBook.open(sealed, write=True).close()


def test_damage_is_not_merged_into_a_sound_file(tmp_path: Path) -> None:
    almost_full(tmp_path / "book")
    path = sorted((tmp_path / "book").glob("*.rows"))[1]
    zero(path)
    book = ErrorBook.open(tmp_path / "book", write=True)
    add_problems(book)
    book.append([make_row(100)])
    files = sorted(book.folder.iterdir())
    with pytest.raises(DataError, match=path.name):
        book.commit()
    assert sorted(book.folder.iterdir()) == files
    assert len(book) == len(ErrorBook.open(book.folder)) == FAN_IN - 1


@pytest.mark.parametrize(("old", "new"), [('"version":1', '"version":2'), ('"ap2o error book"', '"something else"')])
def test_another_version_is_refused(sealed: Path, old: str, new: str) -> None:
    path = sealed / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match="this ap2o_fast reads"):
        ErrorBook.open(sealed)


# Several processes

WRITER = """
import sys
from tests.book.support import add_problems, make_row
from ap2o_fast.book import ErrorBook
book = ErrorBook.open(sys.argv[1], write=True)
add_problems(book)
number = len(book)
print(number, flush=True)
while True:
    count = 1 + number % 4
    book.append([make_row(number + index) for index in range(count)])
    book.commit()
    number += count
    print(number, flush=True)
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
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_writer_leaves_every_acknowledged_row_and_no_half_commit(tmp_path: Path) -> None:
    ErrorBook.create(tmp_path / "book").close()
    acknowledged = 0
    for turn in range(20):
        process = start(WRITER, tmp_path / "book")
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.013 * (turn % 5) + 0.001 * turn)
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0].split()
        acknowledged = max([acknowledged, *map(int, printed)])
        with ErrorBook.open(tmp_path / "book", check=True) as book:
            assert len(book) >= acknowledged
            ends = [0]
            while ends[-1] < len(book):
                ends.append(ends[-1] + 1 + ends[-1] % 4)
            assert ends[-1] == len(book), "half a commit"
            acknowledged = len(book)
    assert acknowledged > 60
    assert rows_of(book) == expected(acknowledged)


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    ErrorBook.create(tmp_path / "book").close()
    process = start(WRITER, tmp_path / "book")
    assert process.stdout
    process.stdout.readline()
    with pytest.raises(DataError, match=rf"pid {process.pid}\b"):
        ErrorBook.open(tmp_path / "book", write=True)
    ErrorBook.open(tmp_path / "book")
    process.kill()
    process.communicate()
    with ErrorBook.open(tmp_path / "book", write=True), pytest.raises(DataError, match=rf"pid {os.getpid()}\b"):
        ErrorBook.open(tmp_path / "book", write=True)


def test_readers_beside_a_writer_see_whole_commits_only(tmp_path: Path) -> None:
    book = ErrorBook.create(tmp_path / "book", files=Unsynced())
    add_problems(book)
    book.commit()
    rows = 60 * FAN_IN
    readers = [start(READER, book.folder, rows) for _ in range(2)]
    for number in range(0, rows, 3):
        book.append([make_row(number + index) for index in range(3)])
        book.commit()
        time.sleep(0.002)
    for reader in readers:
        output, errors = reader.communicate(timeout=60)
        assert output == "fine\n", errors


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="file"):
        ErrorBook.create(tmp_path / "file" / "book")
