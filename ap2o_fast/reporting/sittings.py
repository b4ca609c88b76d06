"""How far each sitting's verdicts can be trusted: flaky ones, and suspicious constructs in the answers that passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ap2o_fast.book import ErrorBook
from ap2o_fast.evaluation import Flakiness, flakiness, sign_test
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.reporting.constructs import constructs
from ap2o_fast.reporting.run import Run
from ap2o_fast.reporting.text import percent

CHANCE = 0.01
"""A rise is told where chance alone would show one, anywhere in the run, less often than this."""


@dataclass(frozen=True, kw_only=True)
class Sat:
    """One round of answers to one set of problems.

    Attributes:
        stage, round: where it stands in the books.
        answers, passed: how many.
        flakiness: of its verdicts.
        suspicious: passed answers with at least one of `constructs.CONSTRUCTS`.
        constructs: passed answers with each of them, most frequent first.
        per_problem: task_id to the share of all its answers that passed and are suspicious.
    """

    stage: str
    round: int
    answers: int
    passed: int
    flakiness: Flakiness
    suspicious: int
    constructs: Mapping[str, int]
    per_problem: Mapping[str, float]

    @property
    def name(self) -> str:
        """For people: ``quiz after epoch 3``."""
        if self.stage == "exam":
            return f"replay after epoch {self.round}" if self.round else "exam"
        return f"{self.stage} after epoch {self.round}" if self.round else f"{self.stage} of the initial model"

    @property
    def share(self) -> float | None:
        """Suspicious answers as a share of the passed ones; None where none passed."""
        return self.suspicious / self.passed if self.passed else None


def read_sittings(run: Run) -> list[Sat]:
    """Every round of the run's books, in order."""
    recheck = float(run.setting("judge.recheck", 0.0))
    seen: dict[int, frozenset[str]] = {}  # by digest: late in training most answers have been seen before
    return [
        _sitting(book, stage, int(round_), recheck, seen)
        for stage, book in run.books.items()
        for round_ in np.unique(book.column("round"))
    ]


def flaky_in_all(sittings: Sequence[Sat]) -> Flakiness:
    """All sittings together."""
    return sum((sat.flakiness for sat in sittings), Flakiness(twice=0, flaky=0))


def warnings_of(sittings: Sequence[Sat]) -> list[str]:
    """A sentence a stage whose passed answers have become suspicious beyond chance: the round where it is clearest."""
    said = []
    for stage in dict.fromkeys(sat.stage for sat in sittings):
        first, *later = [sat for sat in sittings if sat.stage == stage]
        risen = [(chance_of_rise(first, sat) * len(later), -sat.round, sat) for sat in later]
        if risen and min(risen)[0] < CHANCE:
            sat = min(risen, key=lambda one: one[:2])[2]
            rise = [name for name, count in sat.constructs.items() if count > first.constructs.get(name, 0)]
            before, after = (f"{one.name} {one.suspicious:,} of {one.passed:,}" for one in (first, sat))
            said.append(
                "Suspicious constructs have become more frequent in passed answers than chance explains: "
                f"{before} ({percent(first.share)}), {after} ({percent(sat.share)}); more often than before: "
                f"{', '.join(rise)}. Read such answers before quoting a score."
            )
    return said


def chance_of_rise(first: Sat, later: Sat) -> float:
    """One-sided sign test over problems: how often chance alone would let the share rise on so many more than it falls.

    Over problems and not over answers, because the answers to one problem resemble each other.
    """
    shared = [task_id for task_id in later.per_problem if task_id in first.per_problem]
    changes = [later.per_problem[task_id] - first.per_problem[task_id] for task_id in shared]
    rose, fell = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    return sign_test(rose, fell) / 2 if rose > fell else 1.0


def _sitting(book: ErrorBook, stage: str, round_: int, recheck: float, seen: dict[int, frozenset[str]]) -> Sat:
    rows = np.flatnonzero(book.column("round") == round_)
    problem, digest = book.column("problem")[rows], book.column("digest")
    passed = rows[book.column("error")[rows] == ErrorType.Passed]
    kinds: Counter[str] = Counter()
    suspicious = np.zeros(len(book.task_ids), np.int64)
    for row in passed.tolist():
        key = int(digest[row])
        if key not in seen:
            seen[key] = constructs(book.code(row))
        kinds.update(seen[key])
        suspicious[book.column("problem")[row]] += bool(seen[key])
    answers = np.bincount(problem, minlength=len(book.task_ids))
    return Sat(
        stage=stage,
        round=round_,
        answers=len(rows),
        passed=len(passed),
        flakiness=flakiness(book, round_, recheck),
        suspicious=int(suspicious.sum()),
        constructs=dict(kinds.most_common()),
        per_problem={book.task_ids[i]: suspicious[i] / answers[i] for i in np.flatnonzero(answers)},
    )
