"""Fresh answers (`replay.source`): which problems the current model is asked again, and what is replayed of them.

Rounds of fresh answers stand in the exam's book under the number of epochs trained before; the exam is round 0. An
answer whose tokens are known of its problem counts as the row that has them already: it enters no list twice, and needs
no second reference log-probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook, first_alike
from ap2o_fast.curriculum.pools import Pool, ReplayPool
from ap2o_fast.curriculum.replay import shares
from ap2o_fast.judge.verdict import ErrorType

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a book says of its problems up to a round. M problems, E error types; judged is what passed or failed.

    Attributes:
        latest: (M,) int64, the latest round with judged answers to the problem, -1 without any.
        weakness: (M, E) float64, share of the answers that failed with each type, in the latest round with a failure.
        solved: (M,) bool, the latest round's judged answers all passed.
        hopeless: (M,) bool, no answer has ever passed.
    """

    latest: Rows
    weakness: npt.NDArray[np.float64]
    solved: npt.NDArray[np.bool_]
    hopeless: npt.NDArray[np.bool_]


def look_back(book: ErrorBook, round: int) -> Known:
    """What is known of every problem after a round."""
    problems = len(book.task_ids)
    error, problem, rounds = (book.column(name) for name in ("error", "problem", "round"))
    judged = np.flatnonzero((error < ErrorType.Unjudgeable) & (rounds <= round))
    failed = judged[error[judged] > ErrorType.Passed]
    latest, failed_in = np.full(problems, -1, np.int64), np.full(problems, -1, np.int64)
    np.maximum.at(latest, problem[judged], rounds[judged])
    np.maximum.at(failed_in, problem[failed], rounds[failed])
    then = failed[rounds[failed] == failed_in[problem[failed]]]
    counts = np.zeros((problems, len(ErrorType)))
    np.add.at(counts, (problem[then], error[then]), 1.0)
    asked = np.bincount(problem[judged[rounds[judged] == failed_in[problem[judged]]]], minlength=problems)
    ever = np.bincount(problem[judged[error[judged] == ErrorType.Passed]], minlength=problems)
    return Known(
        latest=latest,
        weakness=counts / np.maximum(asked, 1)[:, None],
        solved=(latest >= 0) & (failed_in < latest),
        hopeless=(latest >= 0) & (ever == 0),
    )


def weakest(known: Known, quiz_errors: Mapping[int, int], limit: int, rng: np.random.Generator) -> dict[int, int]:
    """Choose min(`limit`, M') of the M' problems that fail with an error type of the quiz.

    The number is shared out over the types in the quiz's ratio, by largest remainder, and what a type cannot use over
    the others. Of a type those come first that fail with it most often, then those that were asked longest ago.
    Problems that are solved or hopeless are asked only when there are too few others, longest ago first.

    Args:
        quiz_errors: count of every error type (by code) in the quiz.
    Returns: the type for which each problem is asked.
    """
    chosen: dict[int, int] = {}
    chance = rng.permutation(len(known.latest))
    resting = known.solved | known.hopeless
    for rests in (False, True):
        free = set(np.flatnonzero(resting == rests).tolist())
        while len(chosen) < limit:
            failing = {kind: _failing(known, free, kind) for kind, count in quiz_errors.items() if count}
            present = {kind: quiz_errors[kind] for kind, found in failing.items() if len(found)}
            if not present:
                break
            for kind, share in sorted(shares(present, limit - len(chosen)).items()):
                found = failing[kind][np.isin(failing[kind], list(free))]
                weak, asked = -known.weakness[found, kind], known.latest[found]
                order = np.lexsort((chance[found], weak, asked) if rests else (chance[found], asked, weak))
                taken = found[order[:share]].tolist()
                chosen |= dict.fromkeys(taken, kind)
                free -= set(taken)
    return chosen


def replay_pools(book: ErrorBook, pools: Sequence[Pool], source: str, *, round: int) -> dict[int, ReplayPool]:
    """What is replayed of each problem after a round, by problem.

    A problem that has been asked again offers the failures of its latest round, and with `both` those of the exam too;
    none where all answers of that round passed, or none ever has. Its chosen answers are the passed ones of the same
    rounds, of any round where those have none. Other problems offer what the exam gave, with `on_policy` only until
    there are fresh answers: the initial model, which is the current one then, sat the exam. Tokens that were judged
    both ways, in whatever rounds, are in no list.

    Args:
        pools: the exam's.
        source: the setting `replay.source`.
    """
    of_exam = {pool.problem: pool.replayed for pool in pools}
    known = look_back(book, round)
    again = np.flatnonzero(known.latest > 0)
    if source == "book" or not len(again):
        return of_exam
    made = of_exam if source == "both" else {}
    error, problem, rounds = (book.column(name) for name in ("error", "problem", "round"))
    first = first_alike(book)
    seen = rounds <= round
    judged = seen & (error < ErrorType.Unjudgeable)
    passed, failed = judged & (error == ErrorType.Passed), judged & (error > ErrorType.Passed)
    can_pass, can_fail = _marked(first, passed), _marked(first, failed)
    flaky = (can_pass & can_fail) | _marked(first, seen & (error == ErrorType.Flaky))
    fresh = _marked(first, judged & (rounds == known.latest[problem]))
    offered = fresh | _marked(first, judged & (rounds == 0)) if source == "both" else fresh
    kind = np.zeros(len(book), np.uint8)
    kind[first[failed][::-1]] = error[failed][::-1]  # as it was judged first
    failures = _by_problem(np.flatnonzero(can_fail & ~flaky & offered), problem, len(known.latest))
    passes = _by_problem(np.flatnonzero(can_pass & ~flaky & offered), problem, len(known.latest))
    ever = _by_problem(np.flatnonzero(can_pass & ~flaky), problem, len(known.latest))
    for index in again.tolist():
        made.pop(index, None)
        rejected, chosen = failures[index], passes[index] if len(passes[index]) else ever[index]
        if len(rejected) and len(chosen) and not known.solved[index]:
            made[index] = ReplayPool(
                problem=index, passed=chosen, failed=rejected, errors=kind[rejected], fresh=fresh[rejected]
            )
    return made


def _failing(known: Known, free: set[int], kind: int) -> Rows:
    """The problems of `free` that fail with a type."""
    found = np.flatnonzero(known.weakness[:, kind])
    return found[np.isin(found, list(free))]


def _marked(first: Rows, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(N,) True at the first row alike of every row in `rows`."""
    marks = np.zeros(len(first), bool)
    marks[first[rows]] = True
    return marks


def _by_problem(rows: Rows, problem: npt.NDArray[np.int32], problems: int) -> list[Rows]:
    """The rows of each problem, ascending."""
    rows = rows[np.argsort(problem[rows], kind="stable")]
    return np.split(rows, np.searchsorted(problem[rows], np.arange(1, problems)))
