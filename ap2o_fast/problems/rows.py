"""Rows of JSON from a file, the package or the Hub, each with the words that say where it stands."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

from ap2o_fast.errors import DataError, MachineError, UsageError

Rows = list[tuple[str, dict[str, Any]]]
"""Each row with its place, e.g. ``mbpp.jsonl, line 12``."""

FILES = (".jsonl", ".jsonl.gz", ".json")


def is_file(source: str) -> bool:
    """True if `source` names a file rather than a Hub data set: by its ending, or because it is there."""
    return source.endswith(FILES) or Path(source).is_file()


def starter() -> Rows:
    """The rows of the built-in starter set."""
    text = resources.files("ap2o_fast.problems").joinpath("starter.jsonl").read_text(encoding="utf-8")
    return _lines(text, "starter")


def from_file(source: str) -> Rows:
    """The rows of a .jsonl, .jsonl.gz or .json file (a JSON list of objects).

    Errors: `UsageError` for no source or another ending, `DataError` for what cannot be read, with the line.
    """
    if not source.endswith(FILES):
        raise UsageError(
            f"problems cannot be read from {source!r}" if source else "no source of problems is set",
            why=f"a file of problems ends in {', '.join(FILES)}" if source else "",
            do="give `starter`, a .jsonl, .jsonl.gz or .json file, or a Hub data set such as openai/openai_humaneval",
        )
    text = _text(source)
    return _some(_list(text, source) if source.endswith(".json") else _lines(text, source), source)


def from_lines_or_list(source: str) -> Rows:
    """The rows of a file with a JSON object a line, or with one JSON list, whatever its name ends in: pandas writes
    lines into a .json.

    Errors: as `from_file`.
    """
    text = _text(source)
    return _some(_list(text, source) if text.lstrip()[:1] == "[" else _lines(text, source), source)


def from_hub(source: str, split: str) -> Rows:
    """The rows of a Hub data set ``owner/name`` or ``owner/name:config``; all splits where `split` is empty.

    Errors: `UsageError` if `source` is no such name, `MachineError` without the package `datasets`, `DataError` if
    the data set cannot be had or lacks the split.
    """
    name = re.fullmatch(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?", source)
    if name is None:
        raise UsageError(
            f"{source!r} is neither `starter`, a file nor a Hub data set",
            do="give `starter`, a .jsonl, .jsonl.gz or .json file, or a name such as openai/openai_humaneval",
        )
    try:
        import datasets
    except ImportError as error:
        raise MachineError(
            f"the Hub data set {source} needs the package `datasets`", why=str(error), do="pip install datasets"
        ) from error
    try:
        parts = datasets.load_dataset(name[1], name[2])
    # The Hub client, its HTTP layer and the readers of the files raise classes of their own; all mean the same here.
    except Exception as error:
        offline = datasets.config.HF_HUB_OFFLINE
        raise DataError(
            f"the data set {source} cannot be had from the Hub" + (" (HF_HUB_OFFLINE is set)" if offline else ""),
            why=f"{type(error).__name__}: {error}",
            do="unset HF_HUB_OFFLINE to fetch it once, or give a file" if offline else "check name and network",
        ) from error
    if split and split not in parts:
        raise DataError(
            f"{source} has no split {split!r}",
            why=f"its splits are {', '.join(sorted(parts))}",
            do="choose one of these, or leave `split` empty for all",
        )
    chosen = [split] if split else list(parts)
    return [(f"{source}, {part} row {i}", dict(row)) for part in chosen for i, row in enumerate(parts[part])]


def _text(source: str) -> str:
    try:
        raw = Path(source).read_bytes()
        text = (gzip.decompress(raw) if source.endswith(".gz") else raw).decode("utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no file {source}", do=f"check the path; it is looked up from {Path.cwd()}") from None
    except OSError as error:  # gzip's BadGzipFile is one
        raise DataError(
            f"{source} cannot be read",
            why=error.strerror or str(error),
            do="check that it is a file, readable and whole",
        ) from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{source} cannot be unpacked", why=str(error), do="fetch it again") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source} is not UTF-8 text", why=str(error), do="convert it to UTF-8, e.g. with iconv"
        ) from error
    return text


def _some(rows: Rows, source: str) -> Rows:
    if not rows:
        raise DataError(f"{source} is empty", why="it holds no row", do="check how it was made")
    return rows


def _lines(text: str, source: str) -> Rows:
    rows: Rows = []
    # Not splitlines(): JSON strings may hold U+2028 and the like, which it would take for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{source}, line {number}"
            rows.append((where, _object(_parse(line, source, number - 1), where)))
    return rows


def _list(text: str, source: str) -> Rows:
    if not text.strip():
        return []
    items = _parse(text, source, 0)
    if not isinstance(items, list):
        raise DataError(
            f"{source} holds one JSON {_kind(items)}, not a list of rows",
            do="write a list of objects, or a .jsonl file with one object a line",
        )
    return [
        (where, _object(item, where)) for where, item in ((f"{source}, row {i}", item) for i, item in enumerate(items))
    ]


def _parse(text: str, source: str, lines_before: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{source}, line {lines_before + error.lineno}, column {error.colno}: malformed JSON",
            why=error.msg,
            do="mend or delete that line; a cut-off download ends like this" if lines_before else "mend that place",
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of more digits than Python converts; depth
        raise DataError(
            f"{source}, line {lines_before + 1}: JSON that cannot be read",
            why=str(error),
            do="mend or delete that line",
        ) from error


def _object(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise DataError(
            f"{where}: a JSON {_kind(item)} instead of an object",
            do='every row is an object of keys, {"prompt": …, …}',
        )
    return item


def _kind(item: Any) -> str:
    names = {"dict": "object", "list": "list", "str": "string", "NoneType": "null", "bool": "boolean"}
    return names.get(type(item).__name__, "number")
