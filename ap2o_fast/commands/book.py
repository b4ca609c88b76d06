"""The `ap2o book` commands: parse, call, print; no logic."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from ap2o_fast.book.salvage import Loss
from ap2o_fast.book.where import parse, rows_where
from ap2o_fast.commands.book_places import find
from ap2o_fast.errors import DataError, UsageError

SHOW = "show"
out = Console()


class BookGroup(TyperGroup):
    """`ap2o book RUN` is short for `ap2o book show RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args and args[0] else "--help"
        if first not in self.commands and first != "--help":
            near = difflib.get_close_matches(first, self.commands, n=1, cutoff=0.7)
            if near and first[0] != "-" and not Path(first).exists():
                raise UsageError(f"there is no folder and no command {first!r}", do=f"did you mean {near[0]!r}?")
            args = [SHOW, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=BookGroup,
    help="Look into error books, and take them apart, together, out and in. `ap2o book RUN` shows one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

BookPath = Annotated[Path, typer.Argument(metavar="BOOK", help="a run's folder (its exam), RUN/quiz, RUN/test, a book")]
Where = Annotated[
    list[str] | None,
    typer.Option(help="e.g. error=NameError,TypeError, problem=Mbpp/6*, round>=2, policy!=init; repeatable, all hold"),
]
Unified = Annotated[bool, typer.Option("--unified", help="differences below each other, not side by side")]
Json = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]


@app.command(SHOW)
def show(
    book: BookPath,
    where: Where = None,
    show: Annotated[int, typer.Option(min=0, help="how many answers to print")] = 0,
    by: Annotated[str | None, typer.Option(help="count by error, problem, round, policy, finish, line, …")] = None,
    as_json: Json = False,
) -> None:
    """What is in a book: a summary, answers in full (--show N), or counts (--by FIELD)."""
    from ap2o_fast.book.counts import counts_by
    from ap2o_fast.reporting.bookcounts import print_counts
    from ap2o_fast.reporting.bookview import listed, view

    with find(book).open() as opened:
        rows = rows_where(opened, parse(where or []))
        if by is not None:
            groups = counts_by(opened, rows, by)
            if as_json:
                _print_json({"by": by, "answers": len(rows), "groups": [vars(group) for group in groups]})
            elif groups:
                print_counts(groups, by, console=out)
        if as_json and by is None:
            _print_json(listed(opened, rows, show=show))
        elif not as_json and (by is None or show or not len(rows)):
            view(opened, rows, show=show, console=out)


@app.command()
def confusion(
    book: BookPath,
    before: Annotated[int, typer.Option("--from", help="the earlier round")],
    after: Annotated[int, typer.Option("--to", help="the later round")],
    as_json: Json = False,
) -> None:
    """What became of each error type, problem by problem, from one round to another (RUN/quiz has many)."""
    from ap2o_fast.book.confusion import confusion
    from ap2o_fast.reporting.bookdiff import print_confusion

    with find(book).open() as opened:
        found = confusion(opened, before, after)
    if as_json:
        _print_json(found.as_dict())
    else:
        print_confusion(found, console=out)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="BOOK1", help="a run's folder (its exam), or a book")],
    second: Annotated[Path, typer.Argument(metavar="BOOK2", help="the one to compare it with")],
    where: Where = None,
    show: Annotated[int, typer.Option(min=0, help="how many pairs to print of which one answer passed")] = 0,
    seed: Annotated[int, typer.Option(help="of the chance that draws them")] = 0,
    unified: Unified = False,
    as_json: Json = False,
) -> None:
    """What differs between two runs' answers: settings, problems gained and lost, the profile of errors."""
    from ap2o_fast.book.diff import compare, drawn_pairs
    from ap2o_fast.commands.book_places import setting_differences
    from ap2o_fast.reporting.bookdiff import print_difference
    from ap2o_fast.reporting.bookpair import print_pairs, side
    from ap2o_fast.reporting.bookview import plain

    places = find(first), find(second)
    conditions = parse(where or [])
    with places[0].open() as one, places[1].open() as two:
        sides = (one, rows_where(one, conditions), two, rows_where(two, conditions))
        found, differing = compare(*sides), setting_differences(*places)
        drawn = drawn_pairs(*sides, limit=show, seed=seed)
        if as_json:
            listed = [{"first": plain(one, row), "second": plain(two, other)} for row, other in drawn]
            _print_json({**vars(found), "settings": differing, "pairs": listed})
            return
        print_difference(found, (str(first), str(second)), differing, console=out)
        pairs = [(side(one, row, "first"), side(two, other, "second")) for row, other in drawn]
        names = [one.task_ids[one.column("problem")[row]] for row, _ in drawn]
        print_pairs(names, pairs, unified=unified, console=out)


@app.command()
def pair(
    book: BookPath,
    problem: Annotated[str, typer.Option(help="the problem's name, e.g. Mbpp/602")],
    where: Where = None,
    show: Annotated[int, typer.Option(min=1, help="how many failed answers to print")] = 1,
    unified: Unified = False,
    as_json: Json = False,
) -> None:
    """A failed answer beside the passed one that it is most like: what differs, and the line that failed."""
    from ap2o_fast.book.closest import closest_pairs
    from ap2o_fast.reporting.bookpair import print_pairs, side, unified_lines
    from ap2o_fast.reporting.bookview import plain

    with find(book).open() as opened:
        rows = rows_where(opened, parse(where or []))
        found = closest_pairs(opened, opened.problem_index(problem), rows, show)
        pairs = [(side(opened, bad, "rejected"), side(opened, good, "chosen")) for good, bad in found]
        if as_json:
            _print_json(
                [
                    {"rejected": plain(opened, bad), "chosen": plain(opened, good), "difference": unified_lines(*sides)}
                    for (good, bad), sides in zip(found, pairs, strict=True)
                ]
            )
        else:
            print_pairs([problem] * len(pairs), pairs, unified=unified, console=out)


@app.command()
def merge(
    out_path: Annotated[Path, typer.Argument(metavar="OUT", help="the new run or book")],
    books: Annotated[list[Path], typer.Argument(metavar="BOOK...", help="runs' folders (their exams), or books")],
    as_json: Json = False,
) -> None:
    """Make one book of several workers' or machines': an answer that two have is in it once."""
    from ap2o_fast.commands.book_making import merge_books

    made = merge_books(out_path, [find(book) for book in books])
    if as_json:
        _print_json(made.as_dict())
        return
    for book, taken in zip(books, made.taken, strict=True):
        out.print(f"{taken:,} answers of {book}", markup=False, soft_wrap=True)
    out.print(
        f"{sum(made.taken):,} answers in {out_path}; {made.double:,} were there twice", markup=False, soft_wrap=True
    )
    for note in made.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)


@app.command()
def sample(
    book: BookPath,
    out_path: Annotated[Path, typer.Argument(metavar="OUT", help="the new run, or book where BOOK is no run")],
    where: Where = None,
    limit: Annotated[int, typer.Option(min=0, help="how many answers, drawn by chance; 0: all that fit")] = 0,
    seed: Annotated[int, typer.Option(help="of the chance")] = 0,
) -> None:
    """Write some answers to a book of their own. Of a run's exam it is a run that `ap2o correct OUT` trains."""
    from ap2o_fast.commands.book_making import sample_book

    taken = sample_book(find(book), out_path, parse(where or []), limit=limit, seed=seed)
    out.print(f"{taken:,} answers in {out_path}", markup=False, soft_wrap=True)


@app.command()
def export(
    book: BookPath,
    path: Annotated[Path, typer.Option("--out", help="the new file, or folder for hf")],
    format: Annotated[str, typer.Option(help="parquet, arrow, jsonl or hf (a folder of Hugging Face's datasets)")],
    where: Where = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="preference pairs in TRL's format instead of answers")] = False,
    seed: Annotated[int, typer.Option(help="with --pairs: of the chance that draws the chosen answers")] = 0,
    style: Annotated[str | None, typer.Option(help="with --pairs: prompt.style, where BOOK does not say it")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="with --pairs: folder or Hub name, where BOOK has no run")
    ] = None,
) -> None:
    """Write answers with all their columns, or preference pairs, to a file that others read."""
    from ap2o_fast.commands.book_exchange import export_book, export_pairs

    conditions = parse(where or [])
    if pairs:
        count = export_pairs(find(book), path, format, conditions, seed=seed, style=style, tokenizer=tokenizer)
    elif style is not None or tokenizer is not None:
        raise UsageError("--style and --tokenizer are for --pairs", do="leave them out")
    else:
        count = export_book(find(book), path, format, conditions)
    out.print(f"{count:,} {'pairs' if pairs else 'answers'}: {path}", markup=False, soft_wrap=True)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="what `ap2o book export` wrote, in any format")],
    out_path: Annotated[Path, typer.Argument(metavar="OUT", help="the new book")],
) -> None:
    """Make a book of an export: it equals the one that was exported."""
    from ap2o_fast.commands.book_exchange import import_book

    out.print(f"{import_book(path, out_path):,} answers in {out_path}", markup=False, soft_wrap=True)


@app.command()
def verify(book: BookPath) -> None:
    """Read all of a book and compare checksums; exits with 3 where anything is damaged."""
    from ap2o_fast.book.check import MEND, verify

    place = find(book)
    if faults := verify(place.folder):
        raise DataError(
            f"the error book {place.folder} is damaged",
            why="; ".join(faults),
            do=MEND,
        )
    out.print(f"{place.folder}: every file is as it was sealed", markup=False, soft_wrap=True)


@app.command()
def repair(
    book: BookPath,
    copy: Annotated[
        Path | None, typer.Argument(metavar="[COPY]", help="a copy of it, or a run that began with it")
    ] = None,
    out_path: Annotated[Path | None, typer.Option("--out", help="a new run or book with what is sound of BOOK")] = None,
) -> None:
    """Take damaged files from a copy; without one, say what is lost, or write the rest to --out.

    Exits with 3 where something stays damaged or is lost.
    """
    from ap2o_fast.book import repair
    from ap2o_fast.book.salvage import Sound, assess
    from ap2o_fast.commands.book_making import salvage_book

    place = find(book)
    if copy is not None and out_path is not None:
        raise UsageError(
            "a COPY and --out together", do="repair from the copy first, then write what is sound to --out"
        )
    if out_path is not None:
        lost = salvage_book(place, out_path)
        out.print(f"{_lost(lost)}\n{lost.kept:,} answers in {out_path}", markup=False, soft_wrap=True)
        return
    if copy is None:
        lost = assess(Sound.open(place.folder))
        if lost.faults:
            raise DataError(
                f"the error book {place.folder} is damaged; {_lost(lost)}",
                why="; ".join(f"{place.folder / file}: {fault}" for file, fault in lost.faults.items()),
                do="`ap2o book repair BOOK COPY` takes the files from a copy, `--out NEW` writes what is sound to a "
                "new one; BOOK stays as it is",
            )
        out.print(f"{place.folder}: every file is as it was sealed", markup=False, soft_wrap=True)
        return
    repaired, damaged = repair(place.folder, find(copy).folder)
    for name in repaired:
        out.print(f"{place.folder / name}: as it was sealed again", markup=False, soft_wrap=True)
    if damaged:
        raise DataError(
            f"{place.folder} is still damaged: {', '.join(damaged)}",
            why=f"{copy} does not have them as they were sealed",
            do="name another copy, or write what is sound to a new book: `ap2o book repair BOOK --out NEW`",
        )
    if not repaired:
        out.print(f"{place.folder}: every file is as it was sealed", markup=False, soft_wrap=True)


def _lost(lost: Loss) -> str:
    return (
        f"lost are {lost.rows:,} of {lost.rows + lost.kept:,} answers, {lost.problems:,} problems "
        f"and {lost.values:,} annotated values"
    )


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2))
