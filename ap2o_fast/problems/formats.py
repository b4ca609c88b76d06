"""From the rows of each known format to `Problem`. The format is told by the keys; nothing of the data is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ap2o_fast.errors import DataError
from ap2o_fast.problems.problem import Problem
from ap2o_fast.problems.rows import Rows

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of row: the keys that tell it, the keys it must have, and its reader."""

    name: str
    keys: tuple[str, ...]
    read: Callable[[Row], Problem]


def read(rows: Rows, source: str) -> list[Problem]:
    """Turn rows into problems. The first row decides the format; every row must have its keys and tests.

    Errors: `DataError` that names the row.
    """
    form = _detect(rows[0][1], source)
    problems: list[Problem] = []
    first_at: dict[str, str] = {}
    for where, row in rows:
        missing = [key for key in form.keys if row.get(key) is None]
        if missing:
            raise DataError(
                f"{where}: no {', '.join(map(repr, missing))}",
                why=f"rows of {form.name} have the keys {', '.join(form.keys)}",
                do="add what is missing or delete the row",
            )
        try:
            problem = form.read(row)
        except RowError as error:
            raise DataError(f"{where}: {error}", do="mend or delete the row") from error
        if problem.task_id in first_at:
            raise DataError(
                f"{where}: the task_id {problem.task_id!r} is there already",
                why=f"{first_at[problem.task_id]} has it",
                do="task_ids name the problems of a run; make each unique",
            )
        first_at[problem.task_id] = where
        problems.append(_with_source(problem, source))
    return problems
