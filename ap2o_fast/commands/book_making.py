"""New books of old ones: `ap2o book merge`, `ap2o book sample`, and what is sound of a damaged one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ap2o_fast.book.copy_rows import copy_subset, draw
from ap2o_fast.book.merge import Merged, Source, merge, shared_facts
from ap2o_fast.book.salvage import Loss, Sound, assess, salvage
from ap2o_fast.book.where import Condition, rows_where
from ap2o_fast.commands.book_places import Place, differing_settings, facts, new_book
from ap2o_fast.errors import UsageError

_MUST = ("model", "tokenizer")
"""What one wants to know of a book before it is merged."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A merged book: rows by source, how many were there twice, and what the user had better know."""

    taken: tuple[int, ...]
    double: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {"answers": sum(self.taken), "taken": list(self.taken), "double": self.double, "notes": list(self.notes)}


def merge_books(out: Path, places: Sequence[Place]) -> Made:
    """Merge books into a new one: a run with the first one's settings where all are runs' exams, else a book alone.

    Errors: as `merge` and `new_book`; `DataError` where a book is damaged; `UsageError` for a run of plain
        DPO.
    """
    for place in places:
        _refuse_pairs(place)
    with ExitStack() as stack:
        sources = [
            Source(name=str(place.named), book=stack.enter_context(place.open(check=True)), facts=facts(place))
            for place in places
        ]
        labels = shared_facts(sources)
        runs = [place.run for place in places if place.run is not None and place.is_run]
        like = runs[0] if len(runs) == len(places) else None
        with new_book(out, labels, like) as target:
            merged: Merged = merge(sources, target)
    notes = [
        f"{source.name} does not say its {fact}; only prompts were compared"
        for source in sources
        for fact in _MUST
        if fact not in source.facts
    ]
    differing = differing_settings(runs) if like is not None else []
    if differing:
        notes.append(f"these settings differ, and {out} has those of {places[0].named}: {', '.join(differing)}")
    return Made(taken=merged.taken, double=merged.double, notes=tuple(notes))


def sample_book(place: Place, out: Path, conditions: Sequence[Condition], *, limit: int, seed: int) -> int:
    """Write the rows that fit, or `limit` of them by chance, to a new book; of a run's exam to a new run.

    Returns: how many.
    Errors: as `rows_where`, `draw` and `new_book`; `DataError` where the book is damaged; `UsageError` for a run
        of plain DPO.
    """
    _refuse_pairs(place)
    with place.open(check=True) as source:
        rows = draw(rows_where(source, conditions), limit, seed)
        with new_book(out, facts(place), place.run if place.is_run else None) as target:
            copy_subset(source, rows, target)
    return len(rows)


def salvage_book(place: Place, out: Path) -> Loss:
    """Write what is sound of a damaged book to a new one; of a run's exam to a new run, which can ask for the rest.

    Returns: what is lost.
    Errors: as `Sound.open` and `new_book`; `UsageError` for a run of plain DPO, and where nothing is damaged.
    """
    _refuse_pairs(place)
    book = Sound.open(place.folder)
    if not book.faults:
        raise UsageError(f"nothing of {place.named} is damaged", do="use it as it is; `cp -r` makes a copy")
    with new_book(out, facts(place), place.run if place.is_run else None) as target:
        salvage(book, target)
    return assess(book)


def _refuse_pairs(place: Place) -> None:
    if place.run is not None and place.run.config.preferences.source:
        raise UsageError(
            f"{place.named} is a run of plain DPO",
            why="its book holds pairs, two rows each, which belong together",
            do=f"take from, or add to, its pairs: {place.run.config.preferences.source}",
        )
