"""`ErrorBook`: rows go in by `append` and `commit`, and come out as columns, views and answers to questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.check import MEND, verify
from ap2o_fast.book.fs import Files, disk_error, make_folders
from ap2o_fast.book.gather import gathered
from ap2o_fast.book.keys import KeyColumns, Keys
from ap2o_fast.book.manifest import read_manifest
from ap2o_fast.book.pending import Batch, Pending, check_vector, taken
from ap2o_fast.book.reader import Reader
from ap2o_fast.book.rows import Row
from ap2o_fast.book.writer import Writer, check_vacant, is_vacant
from ap2o_fast.errors import DataError, UsageError


class ErrorBook(Reader):
    """One error book: a folder that rows are only ever added to. Rows are numbered 0 … N - 1 in order of commit, for
    ever, and so are problems, 0 … M - 1. Only what is committed is seen, by the writer too.

    Make one with `create` or `open`; it is a context manager. Arrays that are returned are read-only.

    Attributes:
        folder: where it is.
        quarantined: how many leftovers of a crash were moved to ``quarantine/`` when this writer opened the book.
        lost_rows: how many rows were in them, of a commit that was cut off; rows that never reached the disk are not
            counted. They were never acknowledged, and `append` takes them again.
    """

    def __init__(self, folder: Path, writer: Writer | None) -> None:
        """For `create` and `open`."""
        super().__init__(folder, writer.manifest if writer else read_manifest(folder))
        self.quarantined = writer.quarantined if writer else 0
        self.lost_rows = writer.lost_rows if writer else 0
        self._writer = writer
        self._pending = Pending()
        self._keys = Keys(self._key_columns)

    @classmethod
    def create(
        cls, path: Path | str, *, labels: Mapping[str, str] | None = None, files: Files | None = None
    ) -> ErrorBook:
        """Make an empty book and return its writer.

        Args:
            path: its folder; made where it is missing.
            labels: facts that all of its rows share, such as the tokenizer's hash, for `open` to compare.
            files: how to reach the disk; tests give their own.

        Raises:
            DataError: there is a book or something else already, or another process is making one.
            MachineError: the disk refuses.
        """
        folder, files = Path(path), files or Files()
        try:
            make_folders(files, folder)
            check_vacant(folder)
        except OSError as error:
            raise disk_error(f"the error book {folder} cannot be made", error) from error
        return cls._written(folder, Writer(folder, files, labels=dict(labels or {})))

    @classmethod
    def _written(cls, folder: Path, writer: Writer) -> ErrorBook:
        try:
            return cls(folder, writer)
        except BaseException:
            writer.close()
            raise

    @classmethod
    def open(
        cls,
        path: Path | str,
        write: bool = False,
        *,
        labels: Mapping[str, str] | None = None,
        check: bool = False,
        files: Files | None = None,
    ) -> ErrorBook:
        """Open a book to read it or, with `write`, to continue it. A writer first moves what no commit covers to
        ``quarantine/`` (see `quarantined`).

        Args:
            labels: each must be what the book was created with.
            check: read everything and compare checksums (about a second a gigabyte); without it only lengths and the
                manifest are checked.

        Raises:
            DataError: there is no book, it is damaged (the file is named), of another version, of other labels, or
                has a writer already (its process is named).
            MachineError: the disk refuses.
        """
        folder = Path(path)
        if check and (faults := verify(folder)):
            raise DataError(f"the error book {folder} is damaged", why="; ".join(faults), do=MEND)
        made_with = read_manifest(folder).labels
        for name, value in (labels or {}).items():
            if made_with.get(name) != value:
                raise DataError(
                    f"the error book {folder} was made with another {name}: {made_with.get(name)!r}, not {value!r}",
                    why="its tokens and log-probabilities mean nothing to another one",
                    do=f"run with the {name} it was made with, or start a new book",
                )
        return cls._written(folder, Writer(folder, files or Files())) if write else cls(folder, None)

    @classmethod
    def open_or_create(
        cls, path: Path | str, *, labels: Mapping[str, str] | None = None, files: Files | None = None
    ) -> ErrorBook:
        """Continue the book at `path` or, where there is none yet, make it: where its creation was cut off, too.

        Raises:
            DataError: as `open`; so what has lost its manifest is refused, not begun anew.
            MachineError: the disk refuses.
        """
        folder = Path(path)
        if not folder.exists() or is_vacant(folder):
            return cls.create(folder, labels=labels, files=files)
        return cls.open(folder, write=True, labels=labels, files=files)

    def __enter__(self) -> ErrorBook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        uncommitted = self._pending.rows
        self.close()
        if uncommitted and kind is None:
            raise UsageError(f"{uncommitted} rows were appended to {self.folder} and not committed", do="call commit()")

    def close(self) -> None:
        """Release the writer's lock; what was not committed is dropped. Reading goes on working."""
        self._pending = Pending()
        if self._writer:
            self._writer.close()

    def add_problem(self, task_id: str, prompt_ids: npt.NDArray[np.int32], prompt: str) -> int:
        """Add a problem, seen from the next commit on, and return its index. Adding it again changes nothing.

        Args:
            prompt_ids: (S,) int32, the prompt as the model is given it.

        Raises:
            DataError: the problem is in the book with another prompt.
        """
        self._writing()
        check_vector(prompt_ids, np.int32, f"prompt_ids of {task_id!r}")
        index_of = self._problems()
        index = index_of.get(task_id)
        if index is None:
            index = index_of[task_id] = len(index_of)
            self._pending.add_problem(task_id, prompt_ids, prompt)
            return index
        if index < self._problem_starts[-1]:
            known = (self.prompt_ids(index).tobytes(), self.prompt(index))
        else:
            known = self._pending.problems[task_id]
        if known != (np.ascontiguousarray(prompt_ids).tobytes(), prompt):
            raise DataError(
                f"problem {task_id!r} is in the error book with another prompt",
                why="the answers there were given to that prompt",
                do="use the problems, template and tokenizer that the book was made with, or start a new book",
            )
        return index

    def append(self, rows: Sequence[Row]) -> None:
        """Take rows into the next commit: all of them or, where an error is raised, none.

        Raises:
            DataError: a row's problem was not added, its (problem, round, sample, seed) is in the book or in `rows`
                already, or one of its values is not of its type.
        """
        self._writing()
        index_of = self._problems()
        try:
            problems = [index_of[row.task_id] for row in rows]
        except KeyError as error:
            raise _unknown(error.args[0]) from None
        if rows:
            self._take(Batch.of(rows, problems), lambda double: rows[double])

    def append_from(self, source: Reader, rows: npt.NDArray[np.int64]) -> None:
        """Take rows of another book into the next commit as `append` would, many at a time and as they are stored.

        Args:
            rows: (K,) row ids of `source`, whose files are as they were sealed (see `open`'s `check`).

        Raises:
            DataError: as `append`; parts of `rows` before the one that is refused may have been taken.
        """
        self._writing()
        index_of = self._problems()
        for segment, places in source.located(rows):
            batch = gathered(segment, places)
            numbers, which = np.unique(batch.columns["problem"], return_inverse=True)
            names = [source.task_ids[number] for number in numbers.tolist()]
            if missing := [name for name in names if name not in index_of]:
                raise _unknown(missing[0])
            problem = np.array([index_of[name] for name in names], np.int32)[which]
            ids, rows = rows[: len(places)], rows[len(places) :]
            self._take(
                Batch({**batch.columns, "problem": problem}, batch.blobs),
                lambda double, ids=ids: source.row(int(ids[double])),  # type: ignore[misc]
            )

    def _take(self, batch: Batch, row: Callable[[int], Row]) -> None:
        """Take a batch into the next commit, or nothing of it; `row` gives the row at a place, for the error."""
        if (double := self._keys.first_double(batch.keys)) is not None:
            raise taken(row(double))
        # The keys are taken last: what is refused must not count as given.
        self._keys.add(batch.keys)
        self._pending.add(batch)

    def commit(self) -> range:
        """Put in force what was added since the last commit and return the ids of its rows. When it returns, they
        outlive a crash.

        Raises:
            MachineError: the disk refuses; the error says whether nothing was committed (then `commit` may be called
                again, or `discard`) or only the last sync failed (then the rows are in the book).
            DataError: a sealed file is damaged; nothing was committed.
        """
        writer, before = self._writing(), len(self)
        if not self._pending.rows and not self._pending.problems:
            writer.sync()
            return range(before, before)
        try:
            writer.add_rows(*self._pending.arrays())
        finally:
            if writer.manifest is not self._manifest:
                self._pending = Pending()
                self._show(writer.manifest)
        return range(before, len(self))

    def discard(self) -> None:
        """Drop what was added since the last commit."""
        for task_id in self._pending.problems:
            del self._index_of[task_id]
        self._pending = Pending()

    def annotate(
        self, name: str, rows: npt.NDArray[np.integer[Any]], values: npt.NDArray[np.float32], key: str
    ) -> None:
        """Write a value beside some rows and commit it at once; of several values for a row the last one counts.

        Args:
            name, key: what the values are, and of what, such as ``ref_logp`` and the reference model's hash.
            rows: (K,) row ids.
            values: (K,) float32, none of them NaN, which stands for "no value".

        Raises:
            DataError: the arrays are not of these shapes and types, or a row does not exist.
            MachineError: as `commit`.
        """
        writer = self._writing()
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iu":
            raise DataError(f"annotation {name!r}: rows must be a NumPy array of integers", do="give the ids of rows")
        rows = rows.astype(np.int64)
        check_vector(rows, np.int64, f"rows of annotation {name!r}")
        check_vector(values, np.float32, f"values of annotation {name!r}")
        if len(rows) != len(values):
            raise DataError(
                f"annotation {name!r} has {len(rows)} rows and {len(values)} values", do="give one value for each row"
            )
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise DataError(f"annotation {name!r} has rows outside 0 to {len(self) - 1}", do="commit the rows first")
        if np.isnan(values).any():
            row = rows[np.isnan(values)][0]
            raise DataError(
                f"annotation {name!r} has NaN for row {row}", why="NaN stands for no value", do="leave the row out"
            )
        if not len(rows):
            return
        try:
            writer.add_values(name, key, {"values": len(rows)}, {"row": rows.tobytes(), "value": values.tobytes()})
        finally:
            if writer.manifest is not self._manifest:
                self._show(writer.manifest)

    def refresh(self) -> None:
        """Take note of what a writer in another process has committed since.

        Raises:
            DataError: the book has been damaged or removed.
        """
        if self._writer is None:
            manifest = read_manifest(self.folder)
            if manifest != self._manifest:
                self._show(manifest)

    def _key_columns(self) -> Iterator[KeyColumns]:
        """Yield the keys of all rows, those included that wait for the commit."""
        for _, part in self.parts(*KeyColumns._fields):
            yield KeyColumns(*part)
        for batch in self._pending.batches:
            yield batch.keys

    def _writing(self) -> Writer:
        if self._writer is None or self._writer.closed:
            raise UsageError(f"the error book {self.folder} is not open for writing", do="open it with write=True")
        return self._writer


def _unknown(task_id: str) -> DataError:
    return DataError(f"problem {task_id!r} is not in the error book", do="call add_problem first")
