"""What an interrupted run has committed, in words."""

from __future__ import annotations

import json
from pathlib import Path

from ap2o_fast.book import ErrorBook
from ap2o_fast.errors import Ap2oError
from ap2o_fast.reporting.text import many
from ap2o_fast.run_folder import RunFolder

BOOKS = ("exam", "quiz", "test")


def kept(folder: RunFolder) -> list[str]:
    """A line for each book with answers, one for the checkpoint of training, one for the best weights; what cannot be
    read is left out, since this is said on the way out. The run's books are closed by then."""
    lines = [line for name in BOOKS if (line := _answers(folder.book(name), name))]
    states = sorted(folder.training.glob("step-*/COMPLETE"))
    if states:
        step = int(states[-1].parent.name.split("-")[1])
        lines.append(f"training: a checkpoint after {many(step, 'step')}")
    best = folder.best / "COMPLETE"
    if best.exists():
        epoch = json.loads(best.read_text(encoding="utf-8")).get("epoch", 0)
        lines.append(f"weights: the best so far, of epoch {epoch}, in {folder.best}")
    return lines


def _answers(path: Path, name: str) -> str:
    if not path.exists():
        return ""
    try:
        with ErrorBook.open(path) as book:
            return f"{name}: {many(len(book), 'answer')} in {path}" if len(book) else ""
    except Ap2oError:
        return ""
