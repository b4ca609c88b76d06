"""Rows and problems on their way into the book: checked when given, turned into the arrays of a file at the commit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.keys import KeyColumns
from ap2o_fast.book.rows import COLUMNS, FINISHES, PROBLEM_TEXTS, ROW_TEXTS, ROWS, Row, encode_text
from ap2o_fast.errors import DataError

_COLUMN_TYPES = {array.name: np.dtype(array.dtype) for array in COLUMNS}
_FINISH_CODE = {name: code for code, name in enumerate(FINISHES)}
_TOKENS, _LOGPROBS = np.dtype("<i4"), np.dtype("<f4")


@dataclass(frozen=True)
class Batch:
    """Rows that were given together, by column; all of them are as they must be, or the batch is not made.

    Attributes:
        columns: the arrays of `rows.COLUMNS`.
        blobs: {ragged array: (its bytes, how many of its elements each row has)}.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    blobs: Mapping[str, tuple[bytes, list[int]]]

    @classmethod
    def of(cls, rows: Sequence[Row], problems: Sequence[int]) -> Batch:
        """Copy what is needed of `rows` (at least one), each with its problem's index.

        Raises:
            DataError: an array or a number of a row is not of its type or range.
        """
        for row in rows:
            _check(row)
        verdicts = [row.verdict for row in rows]
        lengths = [len(row.token_ids) for row in rows]
        tokens = np.concatenate([row.token_ids for row in rows]).astype(_TOKENS, copy=False).tobytes()
        texts = [encode_text(row.text) for row in rows]
        codes = [encode_text(row.code) for row in rows]
        # A program is nearly always a part of the answer: then where it stands is enough.
        starts = [text.find(code) for text, code in zip(texts, codes, strict=True)]
        values = {
            "problem": problems,
            "round": [row.round for row in rows],
            "sample": [row.sample for row in rows],
            "seed": [row.seed for row in rows],
            "error": [verdict.error for verdict in verdicts],
            "line": [verdict.line for verdict in verdicts],
            "tests_passed": [verdict.tests_passed for verdict in verdicts],
            "tests_total": [verdict.tests_total for verdict in verdicts],
            "cpu_seconds": [verdict.cpu_seconds for verdict in verdicts],
            "peak_mib": [verdict.peak_mib for verdict in verdicts],
            "sandbox_level": [verdict.sandbox_level for verdict in verdicts],
            "finish": [_FINISH_CODE[row.finish] for row in rows],
            "length": lengths,
            "digest": _digests(tokens, lengths),
            "code_start": starts,
            "code_length": [len(code) for code in codes],
        }
        try:
            columns = {name: np.array(values[name], dtype) for name, dtype in _COLUMN_TYPES.items()}
        except OverflowError as error:
            raise DataError(
                f"a number of {_name(rows[0])} or of the {len(rows) - 1} rows given with it is out of range",
                why=str(error),
                do="the ranges are listed in docs/book-format.md",
            ) from error
        logprobs = np.concatenate([row.logprobs for row in rows]).astype(_LOGPROBS, copy=False).tobytes()
        codes = [b"" if start >= 0 else code for start, code in zip(starts, codes, strict=True)]
        blobs = {"tokens": (tokens, lengths), "logprobs": (logprobs, lengths)} | {
            name: (b"".join(parts), [len(part) for part in parts])
            for name, parts in (
                ("text", texts),
                ("code", codes),
                ("message", [encode_text(verdict.message) for verdict in verdicts]),
                ("policy", [encode_text(row.policy) for row in rows]),
            )
        }
        return cls(columns, blobs)

    @property
    def keys(self) -> KeyColumns:
        """The rows' keys."""
        return KeyColumns(*(self.columns[name] for name in KeyColumns._fields))


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one; at least one."""
    columns = {name: np.concatenate([batch.columns[name] for batch in batches]) for name in _COLUMN_TYPES}
    return Batch(columns, {name: _joined([batch.blobs[name] for batch in batches]) for name in batches[0].blobs})


class Pending:
    """What was added since the last commit."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.rows = 0
        self.problems: dict[str, tuple[bytes, str]] = {}
        """{task_id: (prompt's token ids as bytes, prompt)}, in order of their index."""

    def add_problem(self, task_id: str, prompt_ids: npt.NDArray[np.int32], prompt: str) -> None:
        """Add a problem that is not in the book yet."""
        self.problems[task_id] = (np.ascontiguousarray(prompt_ids, "<i4").tobytes(), prompt)

    def add(self, batch: Batch) -> None:
        """Add rows."""
        self.batches.append(batch)
        self.rows += len(batch.columns["seed"])

    def arrays(self) -> tuple[dict[str, int], dict[str, bytes]]:
        """Return ({axis: length}, {array: its bytes}) of a file of table `ROWS`."""
        columns = {
            name: np.concatenate([np.empty(0, dtype), *(batch.columns[name] for batch in self.batches)])
            for name, dtype in _COLUMN_TYPES.items()
        }
        blobs = {name: _joined([batch.blobs[name] for batch in self.batches]) for name in ("tokens", "logprobs")}
        blobs |= {name: _joined([batch.blobs[name] for batch in self.batches]) for name in ROW_TEXTS}
        prompts = [ids for ids, _ in self.problems.values()]
        blobs["prompt_ids"] = (b"".join(prompts), [len(ids) // _TOKENS.itemsize for ids in prompts])
        texts = zip(PROBLEM_TEXTS, (list(self.problems), [prompt for _, prompt in self.problems.values()]), strict=True)
        for name, strings in texts:
            parts = [encode_text(string) for string in strings]
            blobs[name] = (b"".join(parts), [len(part) for part in parts])
        counts = {"rows": self.rows, "problems": len(self.problems)}
        arrays: dict[str, bytes] = {}
        for array in ROWS:
            if array.name in blobs:
                arrays[array.name] = blobs[array.name][0]
                counts[array.axis] = len(arrays[array.name]) // np.dtype(array.dtype).itemsize
            elif array.extra:
                lengths = blobs[array.name.removesuffix(".offsets")][1]
                arrays[array.name] = np.cumsum([0, *lengths], dtype="<i8").tobytes()
            else:
                arrays[array.name] = columns[array.name].tobytes()
        return counts, arrays


def check_vector(values: object, dtype: type, what: str) -> None:
    """Raise `DataError` unless `values` is a one-dimensional array of `dtype`: nothing is converted unasked."""
    if not isinstance(values, np.ndarray) or values.dtype != dtype or values.ndim != 1:
        found = f"{values.ndim}-dimensional {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(
            f"{what}: a one-dimensional NumPy array of {np.dtype(dtype)} is needed, this is {found}",
            do=f"convert it where it is made: numpy.asarray(values, dtype=numpy.{np.dtype(dtype)})",
        )


def taken(row: Row) -> DataError:
    """Return the error for a row whose key another one has."""
    return DataError(
        f"{_name(row)} is in the error book already",
        why=f"a problem's answer of a round and a seed (this one's is {row.seed}) enters the book once",
        do="on resuming, skip what `ErrorBook.done(round)` returns",
    )


def _check(row: Row) -> None:
    """Raise `DataError` where a row is not as it must be; numbers that are out of range come out later."""
    ids, logprobs = row.token_ids, row.logprobs
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
    if not (0 <= row.sample < 2**31 and 0 <= row.round < 2**31):
        raise DataError(f"{_name(row)} has a round or sample that is not 0 to 2³¹ - 1", do="count from 0")


def _digests(tokens: bytes, lengths: Sequence[int]) -> npt.NDArray[np.uint64]:
    """Return each answer's `rows.answer_digest` from the token ids of all of them, one after the other."""
    view, start, digests = memoryview(tokens), 0, []
    for length in lengths:
        end = start + length * _TOKENS.itemsize
        digests.append(hashlib.blake2b(view[start:end], digest_size=8).digest())
        start = end
    return np.frombuffer(b"".join(digests), "<u8")


def _joined(parts: Sequence[tuple[bytes, list[int]]]) -> tuple[bytes, list[int]]:
    return b"".join(blob for blob, _ in parts), [length for _, lengths in parts for length in lengths]


def _name(row: Row) -> str:
    return f"answer {row.sample} of round {row.round} to {row.task_id!r}"
