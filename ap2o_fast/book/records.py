"""A row of a book as a record with named, typed fields: what an export holds and an import reads.

One record is one answer with its problem. A problem that nobody has answered is a record whose answer is null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.book import ErrorBook
from ap2o_fast.book.copy_rows import annotated
from ap2o_fast.book.rows import Row, answer_digest
from ap2o_fast.errors import DataError
from ap2o_fast.judge.verdict import ErrorType, Verdict

Record = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """A field of a record: its name, its type in Arrow's words, and what it means, with the unit."""

    name: str
    type: str
    meaning: str


FIELDS = (
    Field("problem", "int32", "number of the problem in the book, from 0"),
    Field("task_id", "string", "the problem's name, such as `Mbpp/602`"),
    Field("prompt", "string", "the problem's text as its data set has it"),
    Field("prompt_ids", "list<int32>", "token ids of the prompt as the model was given it, template included"),
    Field("round", "int32", "which sitting; 0 is the exam, otherwise epochs trained before"),
    Field("sample", "int32", "which of the problem's answers in its round, from 0"),
    Field("seed", "int64", "the seed that the answer was drawn with"),
    Field("policy", "string", "whose answer it is: `init` or `epoch-N`"),
    Field("finish", "string", "how it ended: `stop`, `eos` or `length`"),
    Field("error", "string", "the verdict: `Passed`, `WrongResult`, `NameError`, …"),
    Field("line", "int32", "line of the program that raised, from 1; 0 where none did"),
    Field("message", "string", "what the judge said"),
    Field("tests_passed", "int32", "tests passed"),
    Field("tests_total", "int32", "tests of the problem that were counted"),
    Field("cpu_seconds", "float32", "CPU time of the program, seconds"),
    Field("peak_mib", "float32", "its peak memory, MiB"),
    Field("sandbox_level", "uint8", "isolation under which it ran, 0 to 4"),
    Field("length", "int32", "tokens of the answer"),
    Field("digest", "uint64", "hash of its token ids; checked on import"),
    Field("tokens", "list<int32>", "its token ids, as sampled"),
    Field("logprobs", "list<float32>", "log-probability of each token under the model that answered, nats"),
    Field("text", "string", "the answer"),
    Field("code", "string", "the program in it, as it was judged"),
    Field("surrogates", "string", "JSON object of the texts of this record that are no valid Unicode; mostly null"),
    Field("labels", "string", "JSON object: what the book was made with (model, tokenizer, prompt style)"),
)
NAMES = tuple(field.name for field in FIELDS)
OF_PROBLEM = ("problem", "task_id", "prompt", "prompt_ids", "surrogates", "labels")
"""The fields that are of the problem, the same for all of its answers."""
_PROBLEMS = 4096
"""Problems that are kept decoded: their rows are not far from each other."""
_NULLABLE = ("digest", "length", "surrogates", "labels", "problem")
"""Fields that an import can do without."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_TEXTS = ("task_id", "prompt", "policy", "message", "text", "code")


def annotation_field(name: str, key: str) -> Field:
    """The field of an annotation: ``ref_logp@HASH``, null where a row has no value."""
    return Field(f"{name}@{key}", "float32", "an annotation")


def annotation_values(book: ErrorBook) -> dict[str, npt.NDArray[np.float32]]:
    """{field of an annotation: (N,) values} of all that a book has."""
    return {annotation_field(name, key).name: book.annotation(name, key) for name, key in annotated(book)}


def as_label(labels: Mapping[str, str]) -> str:
    """What a book was made with as the field `labels` has it."""
    return json.dumps(labels, sort_keys=True)


def to_records(
    book: ErrorBook, rows: npt.NDArray[np.int64], labels: Mapping[str, str], *, all_problems: bool
) -> tuple[tuple[Field, ...], Iterator[Record]]:
    """Return the fields of an export and its records.

    Args:
        rows: (K,) row ids.
        labels: what the book was made with.
        all_problems: add the problems without any answer.
    """
    fields = (*FIELDS, *(annotation_field(name, key) for name, key in annotated(book)))
    return fields, _records(book, rows, as_label(labels), annotation_values(book), all_problems)


def _records(
    book: ErrorBook,
    rows: npt.NDArray[np.int64],
    labels: str,
    values: Mapping[str, npt.NDArray[np.float32]],
    all_problems: bool,
) -> Iterator[Record]:
    problem, digest = book.column("problem"), book.column("digest")
    problem_of = lru_cache(_PROBLEMS)(partial(_problem, book, labels))
    for at in rows.tolist():
        index = int(problem[at])
        row = book.row(at)
        verdict = row.verdict
        record = {
            **problem_of(index),
            "round": row.round,
            "sample": row.sample,
            "seed": row.seed,
            "policy": row.policy,
            "finish": row.finish,
            "error": verdict.error.name,
            "line": verdict.line,
            "message": verdict.message,
            "tests_passed": verdict.tests_passed,
            "tests_total": verdict.tests_total,
            "cpu_seconds": verdict.cpu_seconds,
            "peak_mib": verdict.peak_mib,
            "sandbox_level": verdict.sandbox_level,
            "length": len(row.token_ids),
            "digest": int(digest[at]),
            "tokens": row.token_ids,
            "logprobs": row.logprobs,
            "text": row.text,
            "code": row.code,
        }
        record |= {name: None if np.isnan(found[at]) else float(found[at]) for name, found in values.items()}
        yield _encodable(record)
    if all_problems:
        answered = np.zeros(len(book.task_ids), bool)
        answered[problem] = True
        for index in np.flatnonzero(~answered).tolist():
            yield _encodable({**dict.fromkeys((*NAMES, *values)), **problem_of(index)})


def _problem(book: ErrorBook, labels: str, index: int) -> Record:
    return {
        "problem": index,
        "task_id": book.task_ids[index],
        "prompt": book.prompt(index),
        "prompt_ids": book.prompt_ids(index),
        "surrogates": None,
        "labels": labels,
    }


def _encodable(record: Record) -> Record:
    """A record whose texts all have a UTF-8 form; those that have none are kept, escaped, in `surrogates`."""
    broken = {}
    for name in _TEXTS:
        text = record[name]
        if text is not None and not _is_unicode(text):
            broken[name] = text
            record[name] = as_unicode(text)
    return record | {"surrogates": json.dumps(broken)} if broken else record


def as_unicode(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, which has no UTF-8 form."""
    return _SURROGATE.sub("\ufffd", text)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def restored(record: Record, place: str, names: Sequence[str] = NAMES) -> Record:
    """A record as it was before `to_records` made its texts encodable.

    Args:
        names: the fields that were read.

    Raises:
        DataError: a field is missing, or one that must not be null is.
    """
    missing = [name for name in names if name not in record and name not in _NULLABLE]
    if missing:
        raise DataError(
            f"{place}: it has no {', '.join(missing)}",
            why=f"it has {', '.join(sorted(record)) or 'nothing'}",
            do="give a file that `ap2o book export` wrote",
        )
    if record.get("round") is None:
        names = OF_PROBLEM
    empty = [name for name in names if record.get(name) is None and name not in _NULLABLE]
    if empty:
        raise DataError(f"{place}: {', '.join(empty)} is null", do="export the book again")
    if not record.get("surrogates"):
        return record
    return record | {name: text for name, text in json.loads(record["surrogates"]).items() if name in names}


def to_row(record: Record, place: str) -> Row:
    """The row of a restored record.

    Raises:
        DataError: a value is not of its type, or the tokens are not those that were exported.
    """
    if record["error"] not in ErrorType.__members__:
        raise DataError(
            f"{place}: there is no error type {record['error']!r}", do="use the version of ap2o_fast that wrote it"
        )
    try:
        row = Row(
            task_id=record["task_id"],
            round=int(record["round"]),
            sample=int(record["sample"]),
            seed=int(record["seed"]),
            policy=record["policy"],
            token_ids=np.asarray(record["tokens"], np.int32),
            logprobs=_floats(record["logprobs"]),
            text=record["text"],
            code=record["code"],
            finish=record["finish"],
            verdict=Verdict(
                error=ErrorType[record["error"]],
                line=int(record["line"]),
                message=record["message"],
                tests_passed=int(record["tests_passed"]),
                tests_total=int(record["tests_total"]),
                cpu_seconds=float(record["cpu_seconds"]),
                peak_mib=float(record["peak_mib"]),
                sandbox_level=int(record["sandbox_level"]),
            ),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{place}: a value is not of its type", why=str(error), do="export the book again") from error
    if record.get("digest") is not None and answer_digest(row.token_ids) != record["digest"]:
        raise DataError(
            f"{place}: its tokens are not those that were exported",
            why="their hash is not the one in `digest`",
            do="export the book again, or set digest to null where the tokens were changed on purpose",
        )
    return row


def _floats(values: Sequence[float | None] | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Values as float32; null is NaN, which JSON cannot write."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float32, copy=False)
    return np.array([np.nan if value is None else value for value in values], np.float32)
