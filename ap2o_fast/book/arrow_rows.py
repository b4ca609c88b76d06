"""Rows of a book as Arrow's record batches, column by column: what `records` makes one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.book import ErrorBook
from ap2o_fast.book.gather import gathered
from ap2o_fast.book.pending import Batch, joined
from ap2o_fast.book.records import annotation_values, as_label, to_records
from ap2o_fast.book.rows import FINISHES, ROW_TEXTS, encode_text
from ap2o_fast.book.tables import Batches, record_batch
from ap2o_fast.judge.verdict import ErrorType

_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")
"""How a lone surrogate is stored: these bytes stand in no valid UTF-8."""
_AS_STORED = (
    *("problem", "round", "sample", "seed", "line", "tests_passed", "tests_total", "cpu_seconds", "peak_mib"),
    *("sandbox_level", "length", "digest"),
)


def batches(book: ErrorBook, rows: npt.NDArray[np.int64], labels: Mapping[str, str], *, all_problems: bool) -> Batches:
    """What `tables.write_table` takes: the records of `records.to_records`, which has the arguments."""
    values = annotation_values(book)

    def made(pa: Any, schema: Any, size: int) -> Iterator[Any]:
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            batch = joined([gathered(segment, places) for segment, places in book.located(part)])
            columns = _columns(pa, book, batch, as_label(labels))
            if columns is None:
                yield record_batch(pa, schema, list(to_records(book, part, labels, all_problems=False)[1]))
                continue
            for name, found in values.items():
                columns[name] = pa.array(found[part], mask=np.isnan(found[part]))
            arrays = [columns[field.name].cast(field.type) for field in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        if all_problems:
            nobody = list(to_records(book, rows[:0], labels, all_problems=True)[1])
            if nobody:
                yield record_batch(pa, schema, nobody)

    return made


def _columns(pa: Any, book: ErrorBook, batch: Batch, labels: str) -> dict[str, Any] | None:
    """The fields of some rows, None where a text of theirs is no valid Unicode: `records` knows what is done then."""
    numbers, which = np.unique(batch.columns["problem"], return_inverse=True)
    asked = [(book.task_ids[number], book.prompt(number)) for number in numbers.tolist()]
    texts = [encode_text(text) for pair in asked for text in pair]
    if any(_SURROGATE.search(blob) for blob in (*texts, *(batch.blobs[name][0] for name in ROW_TEXTS))):
        return None
    errors = [ErrorType(code).name for code in range(len(ErrorType))]
    prompts = [book.prompt_ids(number) for number in numbers.tolist()]
    return {name: pa.array(batch.columns[name]) for name in _AS_STORED} | {
        "task_id": pa.array([task_id for task_id, _ in asked], pa.string()).take(pa.array(which)),
        "prompt": pa.array([prompt for _, prompt in asked], pa.string()).take(pa.array(which)),
        "prompt_ids": pa.array(prompts, pa.list_(pa.int32())).take(pa.array(which)),
        "policy": _strings(pa, *batch.blobs["policy"]),
        "finish": pa.array(FINISHES).take(pa.array(batch.columns["finish"])),
        "error": pa.array(errors).take(pa.array(batch.columns["error"])),
        "message": _strings(pa, *batch.blobs["message"]),
        "tokens": _lists(pa, batch, "tokens", np.int32),
        "logprobs": _lists(pa, batch, "logprobs", np.float32),
        "text": _strings(pa, *batch.blobs["text"]),
        "code": _strings(pa, *_codes(batch)),
        "surrogates": pa.nulls(len(which), pa.string()),
        "labels": pa.array([labels]).take(pa.array(np.zeros(len(which), np.int64))),
    }


def _codes(batch: Batch) -> tuple[bytes, list[int]]:
    """The programs, each out of its answer or of its own bytes, and their lengths."""
    text, code = (memoryview(batch.blobs[name][0]) for name in ("text", "code"))
    begins = _offsets(batch.blobs["text"][1])
    own = _offsets(batch.blobs["code"][1])
    starts, lengths = batch.columns["code_start"].tolist(), batch.columns["code_length"].tolist()
    pieces = [
        text[begin + start : begin + start + length] if start >= 0 else code[at : at + length]
        for begin, at, start, length in zip(begins.tolist(), own.tolist(), starts, lengths, strict=False)
    ]
    return b"".join(pieces), lengths


def _strings(pa: Any, data: bytes, lengths: Sequence[int]) -> Any:
    offsets = _offsets(lengths).astype(np.int32)
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets.tobytes()), pa.py_buffer(data))


def _lists(pa: Any, batch: Batch, name: str, dtype: type) -> Any:
    data, lengths = batch.blobs[name]
    return pa.ListArray.from_arrays(pa.array(_offsets(lengths).astype(np.int32)), pa.array(np.frombuffer(data, dtype)))


def _offsets(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)
