"""A book made again of what was exported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ap2o_fast.book.book import ErrorBook
from ap2o_fast.book.copy_rows import BATCH
from ap2o_fast.book.records import FIELDS, OF_PROBLEM, Record, restored, to_row
from ap2o_fast.book.tables import read_table
from ap2o_fast.errors import DataError


def read_labels(path: Path) -> dict[str, str]:
    """What the exported book was made with.

    Errors: as `read_table`; `DataError` where there is no record, or they are of books that do not go together.
    """
    labels: str | None = None
    found = ""
    next(_records(path), None)  # it has all fields, or is refused
    for place, record in read_table(path, FIELDS, only=("labels", "task_id")):
        if labels is not None and record.get("labels") != labels:
            raise DataError(
                f"{place}: it is of a book that was made with other things than those before it",
                why=f"{record.get('labels')} there, {labels} before",
                do="import each export to a book, then `ap2o book merge`",
            )
        labels = record.get("labels")
        found = place
    if not found:
        raise DataError(f"{path} is empty", why="it holds no answer", do="check how it was made")
    return dict(json.loads(labels)) if labels else {}


def import_rows(path: Path, target: ErrorBook) -> int:
    """Write what is at a path into an empty book: problems, rows and annotations as they were.

    Returns: how many rows.
    Errors: as `read_table`, `restored` and `to_row`; `DataError` where a key occurs twice.
    """
    _add_problems(path, target)
    annotated: dict[str, list[tuple[int, float]]] = {}
    rows = []
    count = 0
    for place, record in _records(path):
        if record["round"] is None:
            continue
        rows.append(to_row(record, place))
        for name, value in record.items():
            if "@" in name and value is not None:
                annotated.setdefault(name, []).append((count, value))
        count += 1
        if len(rows) == BATCH:
            target.append(rows)
            target.commit()
            rows = []
    target.append(rows)
    target.commit()
    for field, pairs in annotated.items():
        name, _, key = field.partition("@")
        ids, values = zip(*pairs, strict=True)
        target.annotate(name, np.array(ids, np.int64), np.array(values, np.float32), key)
    return count


def _add_problems(path: Path, target: ErrorBook) -> None:
    """Add the problems in the order that they had, those first that have no number."""
    order: dict[str, tuple[int, Record]] = {}
    for place, found in read_table(path, FIELDS, only=OF_PROBLEM):
        record = restored(found, place, OF_PROBLEM)
        number = -1 if record.get("problem") is None else int(record["problem"])
        earlier = order.setdefault(record["task_id"], (number, record))[1]
        same = record["prompt"] == earlier["prompt"] and np.array_equal(record["prompt_ids"], earlier["prompt_ids"])
        if not same:
            raise DataError(
                f"{place}: problem {record['task_id']!r} has another prompt than before",
                do="import the books one by one",
            )
    for task_id, (_, record) in sorted(order.items(), key=lambda item: item[1][0]):
        target.add_problem(task_id, np.asarray(record["prompt_ids"], np.int32), record["prompt"])
    target.commit()


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    return ((place, restored(record, place)) for place, record in read_table(path, FIELDS))
