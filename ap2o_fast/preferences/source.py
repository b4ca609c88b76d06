"""Where preference pairs come from: a file, the Hub, or rows in memory."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ap2o_fast.errors import DataError, MachineError, UsageError
from ap2o_fast.problems.rows import FILES, from_file

Places = Iterable[tuple[str, Mapping[str, Any]]]
"""Rows, each with the words that say where it stands."""
MEMORY = "memory:"
"""A source that begins so stands for rows that were given to `Trainer`, with their hash."""


def read(source: str, split: str, limit: int, memory: Sequence[Mapping[str, Any]] | None = None) -> tuple[int, Places]:
    """How many rows a source has and the rows in its order, at most `limit` of them where that is not 0.

    Args:
        source: a .jsonl, .jsonl.gz, .json or .parquet file, or a Hub data set ``owner/name`` or ``owner/name:config``.
        split: of a Hub data set; empty takes ``train``, or the only one.
        memory: the rows themselves, where `source` begins with `MEMORY`.

    Errors: `UsageError` for a source or split that cannot be; `DataError` for a file that is empty or cannot be read,
    with the line; `MachineError` where the package `datasets` is needed and not installed.
    """
    count, rows = _rows(source, split, memory)
    if count == 0:
        raise DataError(f"{source} is empty", why="it holds no row", do="check how it was made")
    wanted = min(count, limit or count)
    return wanted, itertools.islice(rows, wanted)


def name_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """The source that stands for rows in memory: equal rows, equal name."""
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return MEMORY + digest.hexdigest()


def _rows(source: str, split: str, memory: Sequence[Mapping[str, Any]] | None) -> tuple[int, Places]:
    if source.startswith(MEMORY):
        if memory is None:
            raise UsageError(
                "the pairs of this run were given in memory and are not in its folder yet",
                do="call Trainer again with the same pairs and run_dir",
            )
        return len(memory), ((f"row {i} of the pairs", row) for i, row in enumerate(memory))
    local = source.endswith((*FILES, ".parquet"))
    if local and split:
        raise UsageError(f"{source} is a file and has no split {split!r}", do="leave the split empty")
    if source.endswith(".parquet"):
        if not Path(source).is_file():
            raise DataError(f"there is no file {source}", do=f"check the path; it is looked up from {Path.cwd()}")
        return _loaded(source, "train", "parquet", data_files=source)
    if local:
        found = from_file(source)
        return len(found), found
    if Path(source).exists() or re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", source) is None:
        raise UsageError(
            f"{source!r} is neither a file of preference pairs nor a Hub data set",
            why=f"files end in {', '.join((*FILES, '.parquet'))}",
            do="give a file, or a name such as trl-lib/ultrafeedback_binarized",
        )
    return _loaded(source, split, *source.split(":"))


def _loaded(source: str, split: str, *names: str, **how: Any) -> tuple[int, Places]:
    """Rows through the package `datasets`, memory-mapped."""
    try:
        import datasets
    except ImportError as error:
        raise MachineError(
            f"{source} needs the package `datasets`", why=str(error), do="pip install datasets, or give a .jsonl file"
        ) from error
    try:
        parts = datasets.load_dataset(*names, **how)
    # The Hub client, its HTTP layer and the readers of the files raise classes of their own; all mean the same here.
    except Exception as error:
        offline = " (HF_HUB_OFFLINE is set)" if datasets.config.HF_HUB_OFFLINE and not how else ""
        raise DataError(
            f"{source} cannot be read{offline}",
            why=f"{type(error).__name__}: {error}",
            do="check the file" if how else "check name and network, or give a file",
        ) from error
    chosen = split or ("train" if "train" in parts or len(parts) > 1 else next(iter(parts)))
    if chosen not in parts:
        raise UsageError(
            f"{source} has no split {chosen!r}",
            why=f"its splits are {', '.join(sorted(parts))}",
            do="choose one of these",
        )
    table = parts[chosen]
    return len(table), ((f"{source}, row {i}", row) for i, row in enumerate(table))
