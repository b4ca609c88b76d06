"""Records in files: Parquet, Arrow, JSON lines and folders of Hugging Face's `datasets`."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ap2o_fast.book.records import Field, Record
from ap2o_fast.errors import DataError, MachineError, UsageError

FORMATS = ("parquet", "arrow", "jsonl", "hf")
_BATCH = 4096
"""Records that are in memory at a time."""
Batches = Callable[[Any, Any, int], Iterator[Any]]
"""Gives the records as Arrow's record batches: of the package `pyarrow`, a schema, and the number in each."""


def write_table(
    path: Path,
    format: str,
    records: Iterable[Record],
    fields: Sequence[Field] | None = None,
    batches: Batches | None = None,
) -> int:
    """Write records to a new file, or folder where `format` is ``hf``; it is there once it is whole.

    Args:
        fields: of the records; without them the types are those of the first records.
        batches: where they are to be had by column, which is faster; the formats that need no records take them then.

    Returns: how many records there were.
    Errors: `UsageError` for an unknown format, or where there is something at `path`; `MachineError` where a package is
        missing or the disk refuses.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no format {format!r}", do=f"use one of {', '.join(FORMATS)}")
    if path.exists():
        raise UsageError(f"{path} exists already", do="name a path that does not")
    beside = path.with_name(path.name + ".partial")
    stream = path.with_name(path.name + ".partial.stream")
    try:
        if format == "jsonl":
            count = _write_lines(beside, records, fields)
        elif format == "hf":
            datasets = _datasets()
            count = _write_arrow(stream, "stream", records, fields, batches)
            disabled = datasets.are_progress_bars_disabled()
            datasets.disable_progress_bars()
            datasets.Dataset.from_file(str(stream)).save_to_disk(str(beside))
            if not disabled:
                datasets.enable_progress_bars()
        else:
            count = _write_arrow(beside, format, records, fields, batches)
        os.rename(beside, path)
    except OSError as error:
        raise MachineError(f"cannot write {path}", why=str(error), do="name a folder with room") from error
    finally:
        stream.unlink(missing_ok=True)
        shutil.rmtree(beside, ignore_errors=True) if beside.is_dir() else beside.unlink(missing_ok=True)
    return count


def read_table(
    path: Path, fields: Sequence[Field] | None = None, only: Sequence[str] | None = None
) -> Iterator[tuple[str, Record]]:
    """Yield the records of a file or folder that `write_table` wrote, each with its place for errors.

    What it is, its content says. Lists of numbers come as arrays where the format has types.

    Args:
        fields: to convert to; others come as they are, those that are not there do not come.
        only: names of the fields that are wanted; formats that can leave the others unread.

    Errors: `DataError` where it is none of these, or damaged; `MachineError` where a package is missing.
    """
    kind = kind_of(path)
    if kind == "jsonl":
        yield from _read_lines(path)
        return
    number = 0
    for table in _tables(path, kind, only):
        for record in _of_table(table, fields or (), path):
            number += 1
            yield f"{path}, row {number}", record


def kind_of(path: Path) -> str:
    """Which of `FORMATS` is at a path.

    Errors: `DataError` where it is none.
    """
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "hf"
    if not path.is_file():
        found = "it is a folder without dataset_info.json" if path.is_dir() else "there is no such file"
        raise DataError(f"{path} is no export of a book", why=found, do="name what `ap2o book export --out` wrote")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"ARROW1"):
        return "arrow"
    if start.lstrip().startswith(b"{"):
        return "jsonl"
    raise DataError(
        f"{path} is no export of a book",
        why="it is neither Parquet nor Arrow nor lines of JSON",
        do="name what `ap2o book export --out` wrote",
    )


def _write_lines(path: Path, records: Iterable[Record], fields: Sequence[Field] | None) -> int:
    count = 0
    names = None if fields is None else [field.name for field in fields]
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            plain = {name: _plain(record[name]) for name in names or record}
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def _plain(value: Any) -> Any:
    """A value as JSON has it, where NaN is null."""
    if isinstance(value, np.ndarray):
        listed = value.tolist()
        return [None if item != item else item for item in listed] if value.dtype.kind == "f" else listed
    return None if isinstance(value, float) and math.isnan(value) else value


def _read_lines(path: Path) -> Iterator[tuple[str, Record]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{place}: no JSON", why=str(error), do="export the book again") from error
            if not isinstance(record, dict):
                raise DataError(f"{place}: no JSON object", do="export the book again")
            yield place, record


def record_batch(pa: Any, schema: Any, records: Sequence[Record]) -> Any:
    """Some records as one of Arrow's record batches."""
    columns = [pa.array([record[name] for record in records], schema.field(name).type) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _write_arrow(
    path: Path, format: str, records: Iterable[Record], fields: Sequence[Field] | None, batches: Batches | None
) -> int:
    pa, pq = _pyarrow()
    count, iterator = 0, iter(records)
    parts: Iterator[list[Record]] = iter(lambda: list(itertools.islice(iterator, _BATCH)), [])
    if fields is not None:
        schema = pa.schema([(field.name, _type(pa, field.type)) for field in fields])
    else:
        first = next(parts, [])
        schema = pa.Table.from_pylist(first).schema
        parts = itertools.chain([first] if first else [], parts)
    made = batches(pa, schema, _BATCH) if batches else (record_batch(pa, schema, part) for part in parts)
    with path.open("wb") as file:
        if format == "parquet":
            # Log-probabilities hardly repeat: a dictionary of them costs more time than all else.
            listed = [f"{field.name}.list.element" for field in fields or () if field.type == "list<int32>"]
            named = [*listed, *(field.name for field in fields or () if not field.type.startswith("list"))]
            writer = pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=named or True)
        else:
            writer = (pa.ipc.new_file if format == "arrow" else pa.ipc.new_stream)(file, schema)
        with writer:
            for batch in made:
                writer.write_batch(batch)
                count += len(batch)
        file.flush()
        os.fsync(file.fileno())
    return count


def _tables(path: Path, kind: str, only: Sequence[str] | None) -> Iterator[Any]:
    """Tables of at most `_BATCH` rows, or a little more, with all columns or those of `only` that are there."""
    pa, pq = _pyarrow()

    def wanted(names: Sequence[str]) -> list[str]:
        return [name for name in names if only is None or name in only]

    try:
        if kind == "hf":
            datasets = _datasets()
            found = datasets.load_from_disk(str(path))
            if isinstance(found, datasets.DatasetDict):
                raise DataError(f"{path} has several splits: {', '.join(found)}", do="name the folder of one of them")
            yield from found.select_columns(wanted(found.column_names)).with_format("arrow").iter(_BATCH)
        elif kind == "parquet":
            file = pq.ParquetFile(path)
            for batch in file.iter_batches(_BATCH, columns=wanted(file.schema_arrow.names)):
                yield pa.Table.from_batches([batch])
        else:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                for index in range(reader.num_record_batches):
                    yield pa.Table.from_batches([reader.get_batch(index)]).select(wanted(reader.schema.names))
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read", why=str(error).splitlines()[0], do="export the book again") from error


def _of_table(table: Any, fields: Sequence[Field], path: Path) -> Iterator[Record]:
    pa, _ = _pyarrow()
    wanted = {field.name: _type(pa, field.type) for field in fields}
    columns: dict[str, list[Any]] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        try:
            column = column.cast(wanted.get(name, column.type))
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: column {name} is {column.type}, which cannot be {wanted[name]}",
                why=str(error),
                do="write it with the type that `ap2o book export` gives it",
            ) from error
        columns[name] = _values(pa, column)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _values(pa: Any, column: Any) -> list[Any]:
    """A column as Python values, lists of numbers as views of one array."""
    if isinstance(column, pa.ChunkedArray):  # of no chunk
        return list(column.to_pylist())
    if not (pa.types.is_list(column.type) and pa.types.is_primitive(column.type.value_type)):
        return list(column.to_pylist())
    values = column.values.to_numpy(zero_copy_only=False)
    bounds = column.offsets.to_numpy().tolist()
    valid = column.is_valid().to_pylist()
    return [values[start:end] if there else None for start, end, there in zip(bounds, bounds[1:], valid, strict=False)]


def _type(pa: Any, name: str) -> Any:
    if name.startswith("list<"):
        return pa.list_(_type(pa, name[5:-1]))
    return getattr(pa, name)()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _lacking("pyarrow", error) from error
    return pyarrow, pyarrow.parquet


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise _lacking("datasets", error) from error
    return datasets


def _lacking(package: str, error: ImportError) -> MachineError:
    return MachineError(
        f"Parquet, Arrow and Hugging Face data sets need the package `{package}`",
        why=str(error),
        do="in the clone: pip install -e '.[hub]', or use --format jsonl, which needs nothing more",
    )
