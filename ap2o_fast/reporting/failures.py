"""The error book as the report shows it: a bounded sample of its failures, each beside a passed answer if there is one.

A book has up to millions of failures and a page has to open on a phone, so a sample is shown, and how many there are
is said beside it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook, distinct
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.reporting.sidebyside import MOST_LINES, DiffLine, around, side_by_side
from ap2o_fast.reporting.text import clean, shorten

PER_TYPE = 12
UNSOLVED_PER_TYPE = 3
"""Of `PER_TYPE`, kept for problems that no answer solved; either kind fills up what the other leaves."""
MOST_SHOWN = 150
MOST_TEXT = 1_500_000
"""Characters of all lines together with their markup: the size of the page is bounded whatever a model writes."""
LONGEST_MESSAGE = 500
LONGEST_PROMPT = 1500
_CANDIDATES = 12  # passed answers that are compared to find the nearest one
_LINE, _PIECE = 180, 13  # characters of markup


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed answer. All text is cleaned and of bounded length.

    Attributes:
        sample: number of the answer among the problem's.
        line: that raised, from 1; 0 where none did.
        chosen_sample: number of the passed answer beside it; None where no answer to the problem passed.
        lines: both answers side by side; of the failed one alone the left side is empty.
        cut: lines that are not shown.
    """

    problem: str
    error: str
    prompt: str
    sample: int
    line: int
    message: str
    tests_passed: int
    tests_total: int
    chosen_sample: int | None
    lines: tuple[DiffLine, ...]
    cut: int


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How many failures of one type the book has: answers, distinct ones, problems, and those that are shown."""

    error: str
    answers: int
    distinct: int
    problems: int
    shown: int


@dataclass(frozen=True, kw_only=True)
class Failures:
    """What is shown of a book: a row of counts a type, most frequent first, and the sample in the same order."""

    kinds: tuple[Kind, ...]
    shown: tuple[Failure, ...]

    @property
    def answers(self) -> int:
        """Failed answers in all."""
        return sum(kind.answers for kind in self.kinds)

    @property
    def problems(self) -> list[str]:
        """Of the sample, in order of their names."""
        return sorted({failure.problem for failure in self.shown})

    @property
    def per_type(self) -> int:
        """The most that are shown of one type."""
        return PER_TYPE


def find_failures(book: ErrorBook, *, seed: int) -> Failures:
    """A sample of the failures of the book's first round, the exam.

    Up to `PER_TYPE` distinct answers of every type, drawn at random, a new problem each time while there is one;
    `UNSOLVED_PER_TYPE` of them to problems without a passed answer. Types take turns until `MOST_SHOWN` or `MOST_TEXT`
    is reached. Beside a failure stands the nearest in text of a few passed answers, so that the difference shows what
    matters; training draws the chosen side at random.
    """
    rng = np.random.default_rng(seed)
    error, problem = book.column("error"), book.column("problem")
    of_exam = book.column("round") == 0
    passed = np.flatnonzero(of_exam & (error == ErrorType.Passed))
    counts = np.bincount(error[of_exam], minlength=len(ErrorType))
    types = [kind for kind in ErrorType if kind.is_failure and counts[kind]]
    types.sort(key=lambda kind: -int(counts[kind]))
    rows = {kind: distinct(book, np.flatnonzero(of_exam & (error == kind))) for kind in types}
    drawn = {kind: _draw(book, rows[kind], passed, rng) for kind in types}
    found: dict[ErrorType, list[Failure]] = {kind: [] for kind in types}
    count = text = 0
    for kind, row in ((kind, drawn[kind][i]) for i in range(PER_TYPE) for kind in types if i < len(drawn[kind])):
        others = distinct(book, passed[problem[passed] == problem[row]])
        failure = _failure(book, row, rng.permutation(others)[:_CANDIDATES].tolist())
        count, text = count + 1, text + _size(failure)
        if count > MOST_SHOWN or text > MOST_TEXT:
            break
        found[kind].append(failure)
    kinds = [
        Kind(
            error=kind.name,
            answers=int(counts[kind]),
            distinct=len(rows[kind]),
            problems=len(np.unique(problem[rows[kind]])),
            shown=len(found[kind]),
        )
        for kind in types
    ]
    return Failures(kinds=tuple(kinds), shown=tuple(failure for kind in types for failure in found[kind]))


def _draw(
    book: ErrorBook, rows: npt.NDArray[np.int64], passed: npt.NDArray[np.int64], rng: np.random.Generator
) -> list[int]:
    """Up to `PER_TYPE` of these rows, those of solved problems first."""
    problem = book.column("problem")
    solved = np.isin(problem[rows], problem[passed])
    easy, hard = (_spread(rng.permutation(part), problem).tolist() for part in (rows[solved], rows[~solved]))
    kept = min(len(hard), max(UNSOLVED_PER_TYPE, PER_TYPE - len(easy)))
    return [*easy[: PER_TYPE - kept], *hard[:kept]]


def _spread(rows: npt.NDArray[np.int64], problem: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The same rows, first one of every problem, then a second of each, and so on; otherwise the order stays."""
    order = np.argsort(problem[rows], kind="stable")
    _, starts, counts = np.unique(problem[rows][order], return_index=True, return_counts=True)
    turn = np.empty(len(rows), dtype=np.int64)
    turn[order] = np.arange(len(rows)) - np.repeat(starts, counts)
    return rows[np.argsort(turn, kind="stable")]


def _failure(book: ErrorBook, row: int, others: list[int]) -> Failure:
    rejected = _program(book, row)
    programs = [_program(book, other) for other in others]
    best = max(range(len(others)), key=lambda at: _nearness(programs[at], rejected), default=None)
    line = int(book.column("line")[row])
    lines = tuple(side_by_side(programs[best] if best is not None else "", rejected, line))
    problem = int(book.column("problem")[row])
    return Failure(
        problem=clean(book.task_ids[problem]),
        error=ErrorType(book.column("error")[row]).name,
        prompt=shorten(clean(book.prompt(problem)).strip(), LONGEST_PROMPT),
        sample=int(book.column("sample")[row]),
        line=line,
        message=shorten(clean(book.message(row)).strip(), LONGEST_MESSAGE),
        tests_passed=int(book.column("tests_passed")[row]),
        tests_total=int(book.column("tests_total")[row]),
        chosen_sample=int(book.column("sample")[others[best]]) if best is not None else None,
        lines=around(lines, MOST_LINES),
        cut=max(0, len(lines) - MOST_LINES),
    )


def _program(book: ErrorBook, row: int) -> str:
    """An answer's program, its text where none could be found in it."""
    return clean(book.code(row) or book.text(row)).rstrip("\n")


def _nearness(program: str, rejected: str) -> float:
    """Share of equal lines, 0 to 1; of lines and not characters because that is fast and what the reader compares."""
    return difflib.SequenceMatcher(None, program.split("\n"), rejected.split("\n"), autojunk=False).ratio()


def _size(failure: Failure) -> int:
    """About how many characters of the page it takes."""
    pieces = [part for line in failure.lines for part in (*line.left_parts, *line.right_parts)]
    text = sum(len(piece) + _PIECE * marked for piece, marked in pieces)
    return text + _LINE * len(failure.lines) + len(failure.prompt) + len(failure.message)
