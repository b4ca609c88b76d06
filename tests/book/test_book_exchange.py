from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ap2o_fast.book import COLUMNS, ErrorBook, arrow_rows, importing, tables
from ap2o_fast.book.arrow_rows import batches
from ap2o_fast.book.importing import import_rows, read_labels
from ap2o_fast.book.records import FIELDS, Record, to_records
from ap2o_fast.book.tables import FORMATS, read_table, write_table
from ap2o_fast.errors import DataError, MachineError, UsageError
from tests.book.support import make_row, rows_of
from tests.book.test_book_round_trip import Unsynced

LABELS = {"model": "m", "prompt.style": "paper"}


def need_arrow() -> None:
    pytest.importorskip("datasets", reason="the extra `hub` is not installed")


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> ErrorBook:
    """Rows of every kind, annotations, and a problem without answers between two that have some."""
    book = ErrorBook.create(tmp_path_factory.mktemp("exchange") / "book", files=Unsynced())
    book.add_problem("task/4", np.array([4, 12], np.int32), "first of all")
    book.add_problem("nobody \udcff answered this", np.array([], np.int32), "nul \0")
    exam = [row for row in (make_row(number) for number in range(40)) if row.task_id == "task/4"]
    book.add_problem("task/0", np.array([7], np.int32), "")
    others = [row for row in (make_row(number, round=1) for number in range(40)) if row.task_id == "task/0"]
    book.append([dataclasses.replace(others[0], logprobs=np.full_like(others[0].logprobs, np.nan)), *others[1:]])
    book.append(exam)
    book.commit()
    book.annotate("ref_logp", np.array([2, 5]), np.array([-1.1, -np.inf], np.float32), "model@a")
    book.annotate("logp", np.array([0]), np.array([0.1], np.float32), "epoch 3")
    return book


def export(book: ErrorBook, path: Path, format: str, *, by_column: bool = True) -> Path:
    rows = book.select({})
    fields, records = to_records(book, rows, LABELS, all_problems=True)
    columns = batches(book, rows, LABELS, all_problems=True) if by_column else None
    assert write_table(path, format, records, fields, columns) == len(book) + 1
    return path


def imported(path: Path, out: Path) -> ErrorBook:
    back = ErrorBook.create(out, labels=read_labels(path), files=Unsynced())
    import_rows(path, back)
    return back


def same(one: ErrorBook, other: ErrorBook) -> None:
    # NaN is not equal to itself, its repr is.
    assert repr(rows_of(one)) == repr(rows_of(other))
    assert one.task_ids == other.task_ids
    for index in range(len(one.task_ids)):
        assert one.prompt(index) == other.prompt(index)
        np.testing.assert_array_equal(one.prompt_ids(index), other.prompt_ids(index))
    for column in COLUMNS:
        np.testing.assert_array_equal(one.column(column.name), other.column(column.name))
    for name, key in (("ref_logp", "model@a"), ("logp", "epoch 3")):
        np.testing.assert_array_equal(one.annotation(name, key), other.annotation(name, key))


@pytest.mark.parametrize("format", FORMATS)
def test_what_goes_out_comes_back_equal(
    book: ErrorBook, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if format != "jsonl":
        need_arrow()
    monkeypatch.setattr(tables, "_BATCH", 3)
    monkeypatch.setattr(importing, "BATCH", 5)
    path = export(book, tmp_path / "out", format)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    back = imported(path, tmp_path / "back")
    same(book, back)
    assert dict(back.labels) == LABELS


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("format", ["parquet", "arrow", "hf"])
def test_by_column_and_row_by_row_make_the_same_table(
    book: ErrorBook, format: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of one and of three have some with texts that are no Unicode, and some without."""
    need_arrow()
    monkeypatch.setattr(tables, "_BATCH", size)
    by_row: list[int] = []
    plain = arrow_rows.record_batch
    monkeypatch.setattr(arrow_rows, "record_batch", lambda *given: by_row.append(len(given[2])) or plain(*given))
    found = [
        [repr(record) for _, record in read_table(export(book, tmp_path / name, format, by_column=by_column))]
        for name, by_column in (("columns", True), ("rows", False))
    ]
    assert found[0] == found[1] and len(found[0]) == len(book) + 1
    assert size > 1 or 1 < sum(by_row) < len(book), "some of it by row, some by column"


def test_other_programs_see_the_fields_with_their_types(book: ErrorBook, tmp_path: Path) -> None:
    need_arrow()
    import datasets
    import pyarrow.parquet as pq

    path = export(book, tmp_path / "b.parquet", "parquet")
    schema = pq.read_schema(path)
    named = {"float": "float32", "list<element: int32>": "list<int32>", "list<element: float>": "list<float32>"}
    assert [(field.name, named.get(str(field.type), str(field.type))) for field in schema] == [
        *((field.name, field.type) for field in FIELDS),
        ("ref_logp@model@a", "float32"),
        ("logp@epoch 3", "float32"),
    ]
    loaded = datasets.load_from_disk(str(export(book, tmp_path / "b.hf", "hf")))
    assert loaded[0]["tokens"] == book.tokens(0).tolist() and loaded[0]["error"] == book.row(0).verdict.error.name
    assert loaded["task_id"][-1] == "nobody \ufffd answered this" and loaded["round"][-1] is None


def test_lines_are_json_that_anyone_reads(book: ErrorBook, tmp_path: Path) -> None:
    lines = export(book, tmp_path / "b.jsonl", "jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert list(records[0]) == [*(field.name for field in FIELDS), "ref_logp@model@a", "logp@epoch 3"]
    assert "NaN" not in "".join(lines)
    assert records[5]["ref_logp@model@a"] == -np.inf and records[3]["ref_logp@model@a"] is None


def write_records(path: Path, records: list[Record]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [1, 2, 3], "logprobs": [0, 0, 0]}, r"line 2: its tokens are not those that were exported"),
        ({"error": "NewError"}, r"line 2: there is no error type 'NewError'"),
        ({"seed": "many"}, r"line 2: a value is not of its type"),
        ({"text": None}, r"line 2: text is null"),
        ({"prompt": "another"}, r"line 2: problem 'task/0' has another prompt"),
        ({"labels": "{}"}, r"line 2: it is of a book that was made with other things"),
    ],
)
def test_what_was_spoilt_is_refused_with_its_place(
    book: ErrorBook, tmp_path: Path, change: Record, message: str
) -> None:
    path = export(book, tmp_path / "b.jsonl", "jsonl")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_records(path, [records[0], records[1] | change, *records[2:]])
    with pytest.raises(DataError, match=message):
        imported(path, tmp_path / "back")


def test_files_that_are_no_export(tmp_path: Path) -> None:
    upstream = write_records(tmp_path / "merged.json", [{"id": 1, "problem": "p", "answers": []}])
    (tmp_path / "text").write_text("[]")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    for path, message in (
        (upstream, r"line 1: it has no task_id, prompt[\s\S]*answers, id, problem"),
        (tmp_path / "text", "neither Parquet nor Arrow nor lines of JSON"),
        (tmp_path / "absent", "there is no such file"),
        (tmp_path, "it is a folder without dataset_info.json"),
    ):
        with pytest.raises(DataError, match=message):
            imported(path, tmp_path / "back")
    need_arrow()
    with pytest.raises(DataError, match=r"torn.parquet cannot be read"):
        list(read_table(tmp_path / "torn.parquet"))


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "jsonl"])
def test_without_the_extra_it_is_named_and_lines_still_go(
    book: ErrorBook, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("pyarrow", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MachineError, match=r"need the package[\s\S]*\[hub\]"):
        export(book, tmp_path / "b", format)
    assert list(tmp_path.iterdir()) == []
    same(book, imported(export(book, tmp_path / "b.jsonl", "jsonl"), tmp_path / "back"))


def test_what_is_there_is_kept(book: ErrorBook, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        export(book, tmp_path / "mine", "jsonl")
    assert (tmp_path / "mine").read_text() == "precious"
    with pytest.raises(UsageError, match=r"no format 'csv'[\s\S]*parquet, arrow, jsonl, hf"):
        export(book, tmp_path / "b", "csv")
    with pytest.raises(MachineError, match="cannot write"):
        export(book, tmp_path / "absent" / "b", "jsonl")
