"""Books in and out: `ap2o book export` and `ap2o book import`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ap2o_fast.book.arrow_rows import batches
from ap2o_fast.book.copy_rows import draw
from ap2o_fast.book.importing import import_rows, read_labels
from ap2o_fast.book.records import to_records
from ap2o_fast.book.tables import write_table
from ap2o_fast.book.where import Condition, rows_where
from ap2o_fast.commands.book_places import STYLE, Place, facts, new_book
from ap2o_fast.config import ModelSettings
from ap2o_fast.curriculum.pair_rows import pair_records, pair_rows
from ap2o_fast.errors import UsageError


def export_book(place: Place, path: Path, format: str, conditions: Sequence[Condition]) -> int:
    """Write the rows that fit to a file or folder, with all their columns.

    Returns: how many rows.
    Errors: as `rows_where` and `write_table`; `DataError` where the book is damaged; `UsageError` where no row fits.
    """
    with place.open(check=True) as book:
        rows = draw(rows_where(book, conditions), 0, 0)
        fields, records = to_records(book, rows, facts(place), all_problems=not conditions)
        write_table(path, format, records, fields, batches(book, rows, facts(place), all_problems=not conditions))
    return len(rows)


def export_pairs(
    place: Place,
    path: Path,
    format: str,
    conditions: Sequence[Condition],
    *,
    seed: int,
    style: str | None,
    tokenizer: str | None,
) -> int:
    """Write preference pairs in TRL's format: every distinct failed answer that fits with a passed one.

    Args:
        seed: of the chance that draws the passed answers.
        style: how the model was asked, where the book does not say; see `prompt.style`.
        tokenizer: folder or Hub name of the one that the model was asked with; by default the run's.

    Returns: how many pairs.
    Errors: as `rows_where`, `pair_rows`, `pair_records` and `write_table`; `DataError` where the book is damaged;
        `UsageError` for a run of plain DPO, or where style or tokenizer are not known; `MachineError` where the
        tokenizer is not to be had.
    """
    config = None if place.run is None else place.run.config
    if config is not None and config.preferences.source:
        raise UsageError(
            f"{place.named} is a run of plain DPO",
            why=f"its pairs are those of {config.preferences.source}",
            do="take them from there",
        )
    style = style or facts(place).get(STYLE)
    if style is None or (tokenizer is None and config is None):
        what = "how the model was asked" if style is None else "which tokenizer the model was asked with"
        raise UsageError(
            f"{place.named} does not say {what}",
            why="it is in no run's folder",
            do="give --style paper or --style chat, as prompt.style was, and --tokenizer MODEL",
        )
    from ap2o_fast.training import load_tokenizer

    model = config.model if tokenizer is None and config is not None else ModelSettings(name=str(tokenizer))
    with place.open(check=True) as book:
        chosen, rejected = pair_rows(book, rows_where(book, conditions), seed=seed)
        loaded = load_tokenizer(model)
        return write_table(path, format, pair_records(book, chosen, rejected, style=style, tokenizer=loaded))


def import_book(path: Path, out: Path) -> int:
    """Make a book of what `export_book` wrote; it equals the exported one.

    Returns: how many rows.
    Errors: as `read_labels`, `import_rows` and `new_book`.
    """
    with new_book(out, read_labels(path)) as target:
        return import_rows(path, target)
