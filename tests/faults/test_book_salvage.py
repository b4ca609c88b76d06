"""Without a copy: what is lost of a damaged book is said to the row, and the rest is a book of its own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook
from ap2o_fast.book.salvage import Loss, Sound, assess, salvage
from ap2o_fast.errors import DataError
from tests.book.support import PROBLEMS, add_problems, make_row, plain, prompt_of, rows_of
from tests.book.test_book_round_trip import Unsynced

Damage = Callable[[Path], object]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


DAMAGES = pytest.mark.parametrize("damage", [flip, Path.unlink, tear])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows 0-9, 10-19, 20-29 in a file each; a late problem comes with the second; two files of annotations."""
    with ErrorBook.create(tmp_path / "book", labels={"model": "m"}, files=Unsynced()) as book:
        add_problems(book)
        for start in (0, 10, 20):
            if start == 10:
                book.add_problem("late", np.array([9], np.int32), "late")
            rows = [make_row(number) for number in range(start, start + 10)]
            if start:
                rows[0] = dataclasses.replace(rows[0], task_id="late")
            book.append(rows)
            book.commit()
        book.annotate("ref_logp", np.arange(0, 30, 2), np.arange(0, 30, 2).astype(np.float32) - 0.5, "m")
        book.annotate("ref_logp", np.array([0, 29]), np.array([7, 8], np.float32), "m")
    return tmp_path / "book"


def salvaged(folder: Path) -> tuple[ErrorBook, Loss]:
    sound = Sound.open(folder)
    target = ErrorBook.create(folder.with_name("new"), files=Unsynced())
    salvage(sound, target)
    return ErrorBook.open(target.folder, check=True), assess(sound)


def sealed(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"*.{kind}"))


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@DAMAGES
def test_the_rows_of_a_damaged_file_are_lost_and_those_to_its_problems(folder: Path, damage: Damage) -> None:
    whole, late = rows_of(ErrorBook.open(folder)), 20
    file = sealed(folder, "rows")[1]
    damage(file)
    before = bytes_of(folder)
    new, lost = salvaged(folder)
    kept = [row for row in range(30) if not 10 <= row < 20 and row != late]
    assert rows_of(new) == [whole[row] for row in kept]
    assert new.task_ids == tuple(f"task/{problem}" for problem in range(PROBLEMS)) and new.prompt(4) == prompt_of(4)[1]
    assert (lost.rows, lost.problems, lost.kept, lost.values, list(lost.faults)) == (11, 1, 19, 0, [file.name])
    wanted = [7.0 if row == 0 else 8.0 if row == 29 else np.nan if row % 2 else row - 0.5 for row in kept]
    np.testing.assert_array_equal(new.annotation("ref_logp", "m"), np.array(wanted, np.float32))
    assert bytes_of(folder) == before, "the damaged book stays as it is"


@DAMAGES
def test_damaged_annotations_cost_no_row_and_leave_no_value(folder: Path, damage: Damage) -> None:
    damage(sealed(folder, "values")[1])
    new, lost = salvaged(folder)
    assert (lost.rows, lost.problems, lost.kept, lost.values) == (0, 0, 30, 2)
    assert new.annotation("ref_logp", "m")[:3].tolist()[::2] == [-0.5, 1.5], "the earlier value counts again"
    assert len(rows_of(new)) == 30


def test_where_all_problems_are_lost_all_rows_are(folder: Path) -> None:
    sealed(folder, "rows")[0].unlink()
    new, lost = salvaged(folder)
    assert (lost.rows, lost.problems, lost.kept) == (28, PROBLEMS, 2)
    late = [dataclasses.replace(make_row(number), task_id="late") for number in (10, 20)]
    assert new.task_ids == ("late",) and rows_of(new) == [plain(row) for row in late]


def test_a_sound_book_loses_nothing(folder: Path) -> None:
    new, lost = salvaged(folder)
    assert lost == Loss(faults={}, rows=0, problems=0, kept=30, values=0)
    assert rows_of(new) == rows_of(ErrorBook.open(folder)) and new.task_ids[-1] == "late"


def test_without_a_manifest_nothing_is_guessed(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"{}")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        Sound.open(folder)
