"""Two texts beside each other, line by line, with what differs in a line marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ap2o_fast.reporting.text import shorten

LONGEST_LINE = 300
MOST_LINES = 150


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


def around(lines: tuple[DiffLine, ...], most: int) -> tuple[DiffLine, ...]:
    """At most `most` lines, the failing one among them."""
    failing = next((i for i, line in enumerate(lines) if line.failing), 0)
    first = 0 if failing < most else min(failing - most // 2, len(lines) - most)
    return lines[first : first + most]
