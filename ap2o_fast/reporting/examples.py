"""Pairs to look at: failed answers of every type beside a passed answer to the same problem, line by line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.reporting.text import clean, shorten

LONGEST_LINE = 300
MOST_LINES = 150
_CANDIDATES = 12  # passed answers that are compared to find the nearest one


Parts = tuple[tuple[str, bool], ...]
"""A line in pieces: text, and True where the other side differs."""


@dataclass(frozen=True, kw_only=True)
class DiffLine:
    """A line of the side-by-side view; numbers are from 1, 0 where that side has no line here.

    Attributes:
        kind: ``same``, ``changed``, ``chosen`` (only in the chosen answer), ``rejected`` (only in the rejected).
        left, right: line numbers of the chosen and of the rejected answer.
        left_parts, right_parts: their text.
        failing: True for the line of the rejected answer that raised.
    """

    kind: str
    left: int
    left_parts: Parts
    right: int
    right_parts: Parts
    failing: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """A rejected answer and a chosen one. All text is cleaned and of bounded length."""

    problem: str
    error: str
    sample: int
    line: int
    message: str
    tests_passed: int
    tests_total: int
    chosen_sample: int
    lines: tuple[DiffLine, ...]
    cut: int


def find_examples(book: ErrorBook, *, per_type: int, seed: int) -> list[Example]:
    """Up to `per_type` pairs for every type of failure in the book's first round, most frequent type first.

    Failures are drawn at random among problems with a passed answer, a new problem each time while there is one and
    no answer twice. The chosen side is the nearest in text among a few passed answers, so that the difference shows
    what matters; training draws it at random.
    """
    rng = np.random.default_rng(seed)
    error, problem, digest = book.column("error"), book.column("problem"), book.column("digest")
    of_exam = book.column("round") == 0
    passed = np.flatnonzero(of_exam & (error == ErrorType.Passed))
    counts = np.bincount(error[of_exam], minlength=len(ErrorType))
    types = sorted(
        (kind for kind in ErrorType if kind.is_failure and counts[kind]), key=lambda kind: -int(counts[kind])
    )
    examples = []
    for kind in types:
        rows = np.flatnonzero(of_exam & (error == kind) & np.isin(problem, problem[passed]))
        _, first = np.unique(digest[rows], return_index=True)
        rows = _spread(rng.permutation(rows[np.sort(first)]), problem)
        for row in rows[:per_type].tolist():
            others = passed[problem[passed] == problem[row]]
            _, first = np.unique(digest[others], return_index=True)
            examples.append(_example(book, row, rng.permutation(others[np.sort(first)])[:_CANDIDATES].tolist()))
    return examples


def side_by_side(chosen: str, rejected: str, failing: int, *, longest: int = LONGEST_LINE) -> Iterator[DiffLine]:
    """Align two programs line by line (Ratcliff and Obershelp's matching, by difflib).

    Args:
        chosen, rejected: source.
        failing: the line of `rejected` that raised, 0 where none did.
        longest: characters of a line; what is longer is cut.
    """
    left, right = chosen.split("\n"), rejected.split("\n")
    for tag, a, a_end, b, b_end in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for i in range(max(a_end - a, b_end - b)):
            has_left, has_right = a + i < a_end, b + i < b_end
            old = shorten(left[a + i], longest) if has_left else ""
            new = shorten(right[b + i], longest) if has_right else ""
            kind = "same" if tag == "equal" else "changed"
            if not (has_left and has_right):
                kind = "chosen" if has_left else "rejected"
            old_parts, new_parts = _marked(old, new) if kind == "changed" else (((old, False),), ((new, False),))
            yield DiffLine(
                kind=kind,
                left=a + i + 1 if has_left else 0,
                left_parts=old_parts,
                right=b + i + 1 if has_right else 0,
                right_parts=new_parts,
                failing=has_right and b + i + 1 == failing,
            )


def _marked(old: str, new: str) -> tuple[Parts, Parts]:
    """Two lines in pieces, by words; unmarked where they have little in common and marks would only flicker."""
    left, right = re.findall(r"\w+|\s+|.", old), re.findall(r"\w+|\s+|.", new)
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    if matcher.ratio() < 0.4:
        return ((old, False),), ((new, False),)
    codes = matcher.get_opcodes()
    return (
        tuple(("".join(left[a:a_end]), tag != "equal") for tag, a, a_end, _, _ in codes if a_end > a),
        tuple(("".join(right[b:b_end]), tag != "equal") for tag, _, _, b, b_end in codes if b_end > b),
    )


def _example(book: ErrorBook, row: int, others: list[int]) -> Example:
    rejected = clean(book.code(row)).rstrip("\n")
    codes = [clean(book.code(other)).rstrip("\n") for other in others]
    nearness = [_nearness(code, rejected) for code in codes]
    best = max(range(len(codes)), key=nearness.__getitem__)
    line = int(book.column("line")[row])
    lines = tuple(side_by_side(codes[best], rejected, line))
    return Example(
        problem=clean(book.task_ids[book.column("problem")[row]]),
        error=ErrorType(book.column("error")[row]).name,
        sample=int(book.column("sample")[row]),
        line=line,
        message=shorten(clean(book.message(row)).strip(), 500),
        tests_passed=int(book.column("tests_passed")[row]),
        tests_total=int(book.column("tests_total")[row]),
        chosen_sample=int(book.column("sample")[others[best]]),
        lines=_around(lines, MOST_LINES),
        cut=max(0, len(lines) - MOST_LINES),
    )


def _nearness(code: str, rejected: str) -> float:
    """Share of equal lines, 0 to 1; of lines and not characters because that is fast and what the reader compares."""
    return difflib.SequenceMatcher(None, code.split("\n"), rejected.split("\n"), autojunk=False).ratio()


def _around(lines: tuple[DiffLine, ...], most: int) -> tuple[DiffLine, ...]:
    """At most `most` lines, the failing one among them."""
    failing = next((i for i, line in enumerate(lines) if line.failing), 0)
    first = 0 if failing < most else min(failing - most // 2, len(lines) - most)
    return lines[first : first + most]


def _spread(rows: npt.NDArray[np.int64], problem: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The same rows, first one of every problem, then a second of each, and so on; otherwise the order stays."""
    order = np.argsort(problem[rows], kind="stable")
    _, starts, counts = np.unique(problem[rows][order], return_index=True, return_counts=True)
    turn = np.empty(len(rows), dtype=np.int64)
    turn[order] = np.arange(len(rows)) - np.repeat(starts, counts)
    return rows[np.argsort(turn, kind="stable")]
