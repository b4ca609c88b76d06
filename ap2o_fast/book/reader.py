"""The reading half of a book: columns over all files at once, views into the maps, answers to questions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import query
from ap2o_fast.book.check import verify
from ap2o_fast.book.fs import disk_error
from ap2o_fast.book.manifest import Manifest, read_manifest
from ap2o_fast.book.rows import COLUMNS, FINISHES, ROWS, VALUES, Array, Row, decode_text
from ap2o_fast.book.segment import MISSING, Entry, Segment, Table, damaged
from ap2o_fast.errors import UsageError
from ap2o_fast.judge.verdict import ErrorType, Verdict

_COLUMNS = {array.name: array for array in COLUMNS}
_PART = 1 << 20


class Reader:
    """What `ErrorBook` shows of its rows (N) and problems (M)."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Map the files of `manifest`.

        Raises:
            DataError: a file is missing or not as long as it was sealed.
        """
        self.folder = folder
        self._segments: dict[str, Segment] = {}
        self._task_ids: tuple[str, ...] = ()
        self._index_of: dict[str, int] = {}
        self._show(manifest)

    @property
    def labels(self) -> Mapping[str, str]:
        """What the book was created with."""
        return self._manifest.labels

    def __len__(self) -> int:
        """The number of rows, N."""
        return self._row_starts[-1]

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one value a row, (N,), of the type that `rows.COLUMNS` states.

        Raises:
            UsageError: there is no such column.
        """
        dtype = _array(name).dtype
        if name not in self._cache:
            parts = [segment.array(name) for segment in self._rows]
            self._cache[name] = parts[0] if len(parts) == 1 else _joined(parts, dtype)
        return self._cache[name]

    def values(self, name: str, rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        """Return (K,) what `column` has at these (K,) row ids, without memory for the whole of it."""
        order = np.argsort(rows, kind="stable")
        found = np.empty(len(rows), _array(name).dtype)
        done = 0
        for segment, places in self.located(rows[order]):
            found[order[done : done + len(places)]] = segment.array(name)[places]
            done += len(places)
        return found

    def parts(self, *names: str) -> Iterator[tuple[int, tuple[npt.NDArray[Any], ...]]]:
        """Yield (the first row's id, a piece of each of these columns) until all rows have come: views into the maps,
        of at most a million rows, so that memory does not grow with the book."""
        for segment, start in zip(self._rows, self._row_starts, strict=False):
            columns = [segment.array(name) for name in names]
            for first in range(0, segment.entry.counts["rows"], _PART):
                yield start + first, tuple(column[first : first + _PART] for column in columns)

    def located(self, rows: npt.NDArray[np.integer[Any]]) -> Iterator[tuple[Segment, npt.NDArray[np.int64]]]:
        """Yield (a sealed file, places in it) until all of `rows` have come, in their order.

        Args:
            rows: (K,) row ids, each 0 to N - 1.
        """
        starts = np.array(self._row_starts)
        files = np.searchsorted(starts, rows, side="right") - 1
        bounds = np.r_[0, np.flatnonzero(np.diff(files)) + 1, len(rows)] if len(rows) else np.zeros(1, np.int64)
        for first, last in pairwise(bounds.tolist()):
            file = int(files[first])
            yield self._rows[file], rows[first:last] - starts[file]

    def tokens(self, row: int) -> npt.NDArray[np.int32]:
        """Return the answer's token ids, (L,) int32, a view into the map."""
        segment, index = self._row(row)
        return segment.ragged("tokens", index)

    def logprobs(self, row: int) -> npt.NDArray[np.float32]:
        """Return its tokens' log-probabilities under the model that answered, (L,) float32, a view into the map."""
        segment, index = self._row(row)
        return segment.ragged("logprobs", index, "tokens")

    def text(self, row: int) -> str:
        """Return the answer as text."""
        return self._text(row, "text")

    def code(self, row: int) -> str:
        """Return the program that was judged."""
        segment, index = self._row(row)
        start = int(segment.array("code_start")[index])
        if start < 0:
            return decode_text(segment.ragged("code", index))
        end = start + int(segment.array("code_length")[index])
        return decode_text(segment.ragged("text", index)[start:end])

    def message(self, row: int) -> str:
        """Return the verdict's message."""
        return self._text(row, "message")

    def policy(self, row: int) -> str:
        """Return which weights answered, `init` or e.g. `epoch-3`."""
        return self._text(row, "policy")

    def row(self, row: int) -> Row:
        """Return all that was appended as row `row`."""
        segment, index = self._row(row)
        value = {name: segment.array(name)[index].item() for name in _COLUMNS}
        return Row(
            task_id=self.task_ids[value["problem"]],
            round=value["round"],
            sample=value["sample"],
            seed=value["seed"],
            policy=self.policy(row),
            token_ids=self.tokens(row),
            logprobs=self.logprobs(row),
            text=self.text(row),
            code=self.code(row),
            finish=FINISHES[value["finish"]],
            verdict=Verdict(
                error=ErrorType(value["error"]),
                line=value["line"],
                message=self.message(row),
                tests_passed=value["tests_passed"],
                tests_total=value["tests_total"],
                cpu_seconds=value["cpu_seconds"],
                peak_mib=value["peak_mib"],
                sandbox_level=value["sandbox_level"],
            ),
        )

    @property
    def task_ids(self) -> tuple[str, ...]:
        """The problems' ids, by index."""
        self._problems()
        return self._task_ids

    def problem_index(self, task_id: str) -> int:
        """Return the index of a committed problem.

        Raises:
            UsageError: there is none of that id; the error names the nearest.
        """
        index = self._problems().get(task_id)
        if index is None or index >= len(self._task_ids):
            raise query.unknown_problem(task_id, self.task_ids)
        return index

    def prompt_ids(self, problem: int) -> npt.NDArray[np.int32]:
        """Return the prompt's token ids, (S,) int32, a view into the map."""
        segment, index = self._problem(problem)
        return segment.ragged("prompt_ids", index)

    def prompt(self, problem: int) -> str:
        """Return the prompt as text."""
        segment, index = self._problem(problem)
        return decode_text(segment.ragged("prompt", index))

    def annotation(self, name: str, key: str) -> npt.NDArray[np.float32]:
        """Return the values written by `annotate` under this name and key, (N,) float32, NaN where there is none."""
        cached = f"{name}\0{key}"
        if cached not in self._cache:
            values = np.full(len(self), np.nan, np.float32)
            for segment in self._values:
                if (segment.entry.name, segment.entry.key) == (name, key):
                    values[segment.array("row")] = segment.array("value")
            values.setflags(write=False)
            self._cache[cached] = values
        return self._cache[cached]

    def frequencies(self, round: int | None = None) -> npt.NDArray[np.int64]:
        """Return (M, E) int64: how many rows of each problem have each of E `ErrorType`s, in one round or in all."""
        return query.frequencies(self, round)

    def done(self, round: int) -> set[tuple[str, int]]:
        """Return the (task_id, sample) that a round has rows of, whatever seeds they were drawn with."""
        return query.done(self, round)

    def by_problem(self, round: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.integer[Any]]]:
        """Return (M + 1,) bounds and (K,) the row ids of a round: those of problem p from bound p to the next."""
        return query.by_problem(self, round)

    def select(self, where: Mapping[str, str]) -> npt.NDArray[np.int64]:
        """Return the ids of the rows that meet every condition; see `query.select`."""
        return query.select(self, where)

    def verify(self) -> list[str]:
        """Read everything on the disk and return what is wrong with it, one line a file; see `check.verify`."""
        return verify(self.folder)

    def _show(self, manifest: Manifest) -> None:
        """Make `manifest` the state that is seen, reusing the maps of the files that stay."""
        while True:
            try:
                segments = {
                    entry.file: self._segments.get(entry.file) or Segment.open(self.folder, entry, table)
                    for table, entries in _tables(manifest)
                    for entry in entries
                }
                break
            except FileNotFoundError as error:
                # A writer may have merged the file away between our reading the manifest and opening it.
                newer = read_manifest(self.folder)
                if newer == manifest:
                    raise damaged(Path(error.filename), MISSING) from error
                manifest = newer
            except OSError as error:
                raise disk_error(f"the error book {self.folder} cannot be read", error) from error
        self._manifest, self._segments = manifest, segments
        self._rows = [segments[entry.file] for entry in manifest.rows]
        self._values = [segments[entry.file] for entry in manifest.annotations]
        self._row_starts = _starts(self._rows, "rows")
        self._problem_starts = _starts(self._rows, "problems")
        self._cache: dict[str, npt.NDArray[Any]] = {}

    def _problems(self) -> dict[str, int]:
        """Return {task_id: index} of the problems, read when first needed; a writer adds those it has been given."""
        known = len(self._task_ids)
        if known < self._problem_starts[-1]:
            ids: list[str] = []
            for segment in self._rows[bisect_right(self._problem_starts, known) - 1 :]:
                data, ends = segment.array("task_id").tobytes(), segment.array("task_id.offsets").tolist()
                ids += [data[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(ends)]
            self._task_ids += tuple(ids[known + len(ids) - self._problem_starts[-1] :])
            self._index_of.update({task_id: known + place for place, task_id in enumerate(self._task_ids[known:])})
        return self._index_of

    def _row(self, row: int) -> tuple[Segment, int]:
        return _place(self._rows, self._row_starts, row, "row")

    def _problem(self, problem: int) -> tuple[Segment, int]:
        return _place(self._rows, self._problem_starts, problem, "problem")

    def _text(self, row: int, name: str) -> str:
        segment, index = self._row(row)
        return decode_text(segment.ragged(name, index))


def _array(name: str) -> Array:
    if name not in _COLUMNS:
        raise UsageError(f"the error book has no column {name!r}", do=f"use one of {', '.join(_COLUMNS)}")
    return _COLUMNS[name]


def _tables(manifest: Manifest) -> tuple[tuple[Table, tuple[Entry, ...]], ...]:
    return (ROWS, manifest.rows), (VALUES, manifest.annotations)


def _starts(segments: list[Segment], axis: str) -> list[int]:
    """Return where each segment's elements begin, and behind the last one the number of all."""
    return [0, *accumulate(segment.entry.counts[axis] for segment in segments)]


def _place(segments: list[Segment], starts: list[int], index: int, what: str) -> tuple[Segment, int]:
    if not 0 <= index < starts[-1]:
        raise IndexError(f"there is no {what} {index}: the error book has {starts[-1]}")
    # The last of the segments that begin here: those before it are empty.
    place = bisect_right(starts, index) - 1
    return segments[place], index - starts[place]


def _joined(parts: list[npt.NDArray[Any]], dtype: str) -> npt.NDArray[Any]:
    joined = np.concatenate(parts) if parts else np.empty(0, dtype)
    joined.setflags(write=False)
    return joined
