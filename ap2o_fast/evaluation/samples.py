"""Answers in EvalPlus's `samples.jsonl`, so that its own judge can check ours (github.com/evalplus/evalplus)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ap2o_fast.book import ErrorBook


def write_samples(book: ErrorBook, path: Path, *, round: int, preambles: Mapping[str, str]) -> int:
    """Write every answer of a round as a line ``{"task_id", "solution"}``, in the order of problem, then sample.

    The solution is what was judged: the problem's preamble and then the answer's code. Answers that could not be
    judged here are written too. The file appears whole or not at all.

    Args:
        book: of the test.
        path: the file, usually ``samples.jsonl``.
        round: which answers.
        preambles: task_id to the source that the judge runs before an answer (`Problem.preamble`), where there is any.

    Returns: how many lines.
    """
    problem, sample = book.column("problem"), book.column("sample")
    rows = np.flatnonzero(book.column("round") == round)
    rows = rows[np.lexsort((sample[rows], problem[rows]))]
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows.tolist():
            task_id = book.task_ids[problem[row]]
            preamble = preambles.get(task_id, "")
            if preamble and not preamble.endswith("\n"):
                preamble += "\n"
            file.write(json.dumps({"task_id": task_id, "solution": preamble + book.code(row)}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return len(rows)
