"""What of a damaged book is as it was sealed: how much is lost without a copy, and the rest as a book of its own.

A sealed file is believed whole or not at all. The damaged book is not written to.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.book import ErrorBook
from ap2o_fast.book.check import sealed_faults
from ap2o_fast.book.copy_rows import copy_subset
from ap2o_fast.book.fs import disk_error
from ap2o_fast.book.manifest import Manifest
from ap2o_fast.book.reader import Reader
from ap2o_fast.book.rows import ROWS, VALUES
from ap2o_fast.book.segment import Segment


class Sound(Reader):
    """A book whose damaged files read as zeros, so that rows and problems keep their numbers. N rows, M problems.

    Attributes:
        faults: {damaged file: what is wrong with it}.
    """

    def __init__(self, folder: Path, manifest: Manifest, faults: Mapping[str, str]) -> None:
        """For `open`."""
        self.faults = faults
        super().__init__(folder, manifest)

    @classmethod
    def open(cls, folder: Path) -> Sound:
        """Read everything and compare checksums; about a second a gigabyte.

        Raises:
            DataError: there is no book, or its manifest is damaged, which alone says what was sealed.
            MachineError: the disk refuses.
        """
        try:
            return cls(folder, *sealed_faults(folder))
        except OSError as error:
            raise disk_error(f"the error book {folder} cannot be read", error) from error

    def _show(self, manifest: Manifest) -> None:
        for table, entries in ((ROWS, manifest.rows), (VALUES, manifest.annotations)):
            for entry in entries:
                if entry.file in self.faults:
                    # Private and never written to: its pages are the one page of zeros.
                    zeros = mmap.mmap(-1, entry.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                    self._segments[entry.file] = Segment(entry=entry, table=table, _map=zeros)
        super()._show(manifest)
        self._values = [segment for segment in self._values if segment.entry.file not in self.faults]

    @cached_property
    def problems(self) -> npt.NDArray[np.int64]:
        """Numbers of the problems that are sound, ascending."""
        return np.flatnonzero(self._of_sound("problems"))

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """Ids of the sound rows whose problem is sound, ascending."""
        known = self._of_sound("problems")
        return np.flatnonzero(self._of_sound("rows") & known[self.column("problem")])

    @property
    def lost_values(self) -> int:
        """How many annotated values are in damaged files."""
        return sum(each.counts["values"] for each in self._manifest.annotations if each.file in self.faults)

    def _of_sound(self, axis: str) -> npt.NDArray[np.bool_]:
        marks = [np.full(each.entry.counts[axis], each.entry.file not in self.faults) for each in self._rows]
        return np.concatenate([np.empty(0, bool), *marks])


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What is lost of a book where no copy of it is left.

    Attributes:
        faults: {damaged file: what is wrong with it}.
        rows, problems: how many are lost; a row is, too, where its problem is.
        kept: how many rows are not.
        values: how many annotated values were in damaged files.
    """

    faults: Mapping[str, str]
    rows: int
    problems: int
    kept: int
    values: int


def assess(book: Sound) -> Loss:
    """Return what is lost of a book."""
    return Loss(
        faults=book.faults,
        rows=len(book) - len(book.rows),
        problems=len(book.task_ids) - len(book.problems),
        kept=len(book.rows),
        values=book.lost_values,
    )


def salvage(book: Sound, target: ErrorBook) -> None:
    """Write the sound rows, with their problems and annotations, to an empty book.

    Raises:
        MachineError: the disk refuses.
    """
    copy_subset(book, book.rows, target, book.problems.tolist())
