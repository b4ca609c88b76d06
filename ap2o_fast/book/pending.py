"""Rows and problems on their way into the book: checked when given, turned into the arrays of a file at the commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.rows import (
    COLUMNS,
    FINISHES,
    PROBLEM_TEXTS,
    ROW_TEXTS,
    ROWS,
    Row,
    answer_digest,
    encode_text,
)
from ap2o_fast.errors import DataError

_FIXED = np.dtype([(array.name, array.dtype) for array in COLUMNS])
_FINISH_CODE = {name: code for code, name in enumerate(FINISHES)}
_BLOBS = ("tokens", "logprobs", *ROW_TEXTS, *PROBLEM_TEXTS, "prompt_ids")


class Pending:
    """What was added since the last commit."""

    def __init__(self) -> None:
        self._fixed: list[npt.NDArray[np.void]] = []
        self._blobs: dict[str, list[bytes]] = {name: [] for name in _BLOBS}
        self.rows = 0
        self.problems: dict[str, tuple[bytes, str]] = {}
        """{task_id: (prompt's token ids as bytes, prompt)}, in order of their index."""

    def add_problem(self, task_id: str, prompt_ids: npt.NDArray[np.int32], prompt: str) -> None:
        """Add a problem that is not in the book yet."""
        ids = np.ascontiguousarray(prompt_ids, "<i4").tobytes()
        self.problems[task_id] = (ids, prompt)
        self._blobs["prompt_ids"].append(ids)
        self._blobs["task_id"].append(encode_text(task_id))
        self._blobs["prompt"].append(encode_text(prompt))

    def add_rows(self, rows: Sequence[Row], problems: Sequence[int]) -> None:
        """Add rows, each with its problem's index; all of them or, where one is not as it must be, none.

        Raises:
            DataError: an array or a number of a row is not of its type or range.
        """
        values = []
        for row, problem in zip(rows, problems, strict=True):
            ids, logprobs, verdict = row.token_ids, row.logprobs, row.verdict
            check_vector(ids, np.int32, "token_ids of an answer")
            check_vector(logprobs, np.float32, "logprobs of an answer")
            if len(ids) != len(logprobs):
                raise DataError(
                    f"{_name(row)} has {len(ids)} token_ids and {len(logprobs)} logprobs",
                    why="every sampled token has one log-probability",
                    do="give both as the sampler returned them",
                )
            if row.finish not in _FINISH_CODE:
                raise DataError(f"{_name(row)} has finish {row.finish!r}", do=f"use one of {', '.join(FINISHES)}")
            values.append(
                (
                    problem,
                    row.round,
                    row.sample,
                    row.seed,
                    verdict.error,
                    verdict.line,
                    verdict.tests_passed,
                    verdict.tests_total,
                    verdict.cpu_seconds,
                    verdict.peak_mib,
                    verdict.sandbox_level,
                    _FINISH_CODE[row.finish],
                    len(ids),
                    answer_digest(ids),
                )
            )
        try:
            fixed = np.array(values, dtype=_FIXED)
        except OverflowError as error:
            raise DataError(
                f"a number of {_name(rows[0])} or of the {len(rows) - 1} rows given with it is out of range",
                why=str(error),
                do="the ranges are listed in docs/book-format.md",
            ) from error
        self._fixed.append(fixed)
        for row in rows:
            self._blobs["tokens"].append(np.ascontiguousarray(row.token_ids, "<i4").tobytes())
            self._blobs["logprobs"].append(np.ascontiguousarray(row.logprobs, "<f4").tobytes())
            self._blobs["text"].append(encode_text(row.text))
            self._blobs["code"].append(encode_text(row.code))
            self._blobs["message"].append(encode_text(row.verdict.message))
            self._blobs["policy"].append(encode_text(row.policy))
        self.rows += len(rows)

    def extend(self, later: Pending) -> None:
        """Add the rows of `later` (it must have no problems) behind one's own."""
        assert not later.problems
        self._fixed += later._fixed
        for name, parts in later._blobs.items():
            self._blobs[name] += parts
        self.rows += later.rows

    def arrays(self) -> tuple[dict[str, int], dict[str, bytes]]:
        """Return ({axis: length}, {array: its bytes}) of a file of table `ROWS`."""
        fixed = np.concatenate(self._fixed) if self._fixed else np.empty(0, _FIXED)
        counts = {"rows": self.rows, "problems": len(self.problems)}
        arrays: dict[str, bytes] = {}
        for array in ROWS:
            if array.name in self._blobs:
                arrays[array.name] = b"".join(self._blobs[array.name])
                counts[array.axis] = len(arrays[array.name]) // np.dtype(array.dtype).itemsize
            elif array.extra:
                blob = array.name.removesuffix(".offsets")
                size = 4 if blob in ("tokens", "prompt_ids") else 1
                lengths = [len(part) // size for part in self._blobs[blob]]
                arrays[array.name] = np.cumsum([0, *lengths], dtype="<i8").tobytes()
            else:
                arrays[array.name] = fixed[array.name].tobytes()
        return counts, arrays


class Keys:
    """Which (problem, round, sample) are taken, by the committed rows and those given since.

    Args:
        committed: returns the packed keys (see `pack`) of a round's rows in the book.
    """

    def __init__(self, committed: Callable[[int], npt.NDArray[np.int64]]) -> None:
        self._committed = committed
        self._sorted: dict[int, npt.NDArray[np.int64]] = {}
        self._given: dict[int, set[int]] = {}
        self.given = 0
        """How many keys were taken since the last `forget`; they are in memory as Python integers."""

    @staticmethod
    def pack(problem: int, sample: int) -> int:
        """Return the key of an answer within its round; both numbers must be 0 to 2³¹ - 1."""
        return problem << 32 | sample

    def take(self, rows: Sequence[Row], problems: Sequence[int]) -> None:
        """Take the keys of `rows`, all or none.

        Raises:
            DataError: a key is taken, or a number cannot be part of one.
        """
        batch: dict[int, dict[int, Row]] = {}
        for row, problem in zip(rows, problems, strict=True):
            if not (0 <= row.sample < 2**31 and 0 <= row.round < 2**31):
                raise DataError(f"{_name(row)} has a round or sample that is not 0 to 2³¹ - 1", do="count from 0")
            key, given = self.pack(problem, row.sample), batch.setdefault(row.round, {})
            if key in given or key in self._given.get(row.round, ()):
                raise _taken(row)
            given[key] = row
        for round_, given in batch.items():
            known = self._of_round(round_)
            keys = np.fromiter(given, np.int64, len(given))
            places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            if len(known) and (known[places] == keys).any():
                raise _taken(given[int(keys[known[places] == keys][0])])
        for round_, given in batch.items():
            self._given.setdefault(round_, set()).update(given)
        self.given += len(rows)

    def forget(self) -> None:
        """Start anew from the committed rows."""
        self._sorted, self._given, self.given = {}, {}, 0

    def _of_round(self, round_: int) -> npt.NDArray[np.int64]:
        if round_ not in self._sorted:
            self._sorted[round_] = np.sort(self._committed(round_))
        return self._sorted[round_]


def check_vector(values: object, dtype: type, what: str) -> None:
    """Raise `DataError` unless `values` is a one-dimensional array of `dtype`: nothing is converted unasked."""
    if not isinstance(values, np.ndarray) or values.dtype != dtype or values.ndim != 1:
        found = f"{values.ndim}-dimensional {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(
            f"{what}: a one-dimensional NumPy array of {np.dtype(dtype)} is needed, this is {found}",
            do=f"convert it where it is made: numpy.asarray(values, dtype=numpy.{np.dtype(dtype)})",
        )


def _name(row: Row) -> str:
    return f"answer {row.sample} of round {row.round} to {row.task_id!r}"


def _taken(row: Row) -> DataError:
    return DataError(
        f"{_name(row)} is in the error book already",
        why="a problem's answer of a round enters the book once",
        do="on resuming, skip what `ErrorBook.done(round)` returns",
    )
