"""How good a model is: pass@k with confidence intervals and the profile of its errors, from a book's rows of a round.

Answers that could not be judged (`Unjudgeable`, `SandboxFailure`) are neither passed nor failed: they are left out of
every n and counted in `Evaluation.left_out`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ap2o_fast.book import ErrorBook
from ap2o_fast.errors import DataError
from ap2o_fast.evaluation.passk import mean_interval, pass_at_k, sign_test
from ap2o_fast.judge.verdict import ErrorType


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of one test.

    Attributes:
        problems: problems with at least one judged answer.
        answers: judged answers, n summed over problems.
        passed: those that passed every test.
        pass_at_k: for each k ``value, low, high`` (95 % BCa bootstrap over problems; null where nothing can be said)
            and ``problems``, how many had at least k judged answers: only they count.
        errors: failed answers by type name, most frequent first.
        left_out: answers without a verdict by type name; not part of `answers`.
        per_problem: task_id to [passed, judged answers]; [0, 0] where none could be judged.
    """

    problems: int
    answers: int
    passed: int
    pass_at_k: dict[int, dict[str, float | int | None]]
    errors: dict[str, int]
    left_out: dict[str, int]
    per_problem: dict[str, list[int]]


def evaluate(
    book: ErrorBook, round: int, k: Sequence[int], seed: int, only: Collection[str] | None = None
) -> Evaluation:
    """Evaluate the answers of one round.

    Args:
        book: of the test.
        round: which answers.
        k: the k of pass@k.
        seed: of the bootstrap.
        only: task ids to keep, e.g. those that no training problem overlaps; all where None.

    Errors: DataError if the round holds no answer (of the problems asked for).
    """
    task_ids = book.task_ids
    rows = np.flatnonzero(book.column("round") == round)
    if only is not None:
        kept = np.array([i for i, task_id in enumerate(task_ids) if task_id in only], dtype=np.int64)
        rows = rows[np.isin(book.column("problem")[rows], kept)]
    if not len(rows):
        raise DataError(f"the book has no answers of round {round} to evaluate", do="run the test stage first")
    problem = book.column("problem")[rows].astype(np.int64)
    error = book.column("error")[rows]
    judged = error < ErrorType.Unjudgeable
    n = np.bincount(problem[judged], minlength=len(task_ids))
    c = np.bincount(problem[error == ErrorType.Passed], minlength=len(task_ids))
    counts = np.bincount(error, minlength=len(ErrorType))
    return Evaluation(
        problems=int(np.count_nonzero(n)),
        answers=int(n.sum()),
        passed=int(c.sum()),
        pass_at_k={value: _estimate(n, c, value, seed) for value in k},
        errors=_by_count(counts, ErrorType.WrongResult, ErrorType.Unjudgeable),
        left_out=_by_count(counts, ErrorType.Unjudgeable, len(ErrorType)),
        per_problem={task_ids[i]: [int(c[i]), int(n[i])] for i in np.unique(problem)},
    )


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as plain JSON values; keys of `pass_at_k` become strings."""
    plain = asdict(evaluation)
    plain["pass_at_k"] = {str(k): value for k, value in evaluation.pass_at_k.items()}
    return plain


def from_dict(plain: Mapping[str, Any]) -> Evaluation:
    """The inverse of `to_dict`. Errors: DataError where a field is missing or unknown."""
    try:
        pass_at = {int(k): dict(value) for k, value in plain["pass_at_k"].items()}
        return Evaluation(**{**plain, "pass_at_k": pass_at})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a saved evaluation: {error}", do="repeat `ap2o evaluate` for this run") from error


def compare(before: Evaluation, after: Evaluation, k: int = 1, seed: int = 0) -> dict[str, float | int | None]:
    """The change of pass@k on the problems that both tests judged with at least k answers.

    Returns:
        problems: how many were compared; value, low, high: mean difference after - before with the 95 % interval of
        the paired bootstrap over problems (null where nothing was compared); better, worse, same: problems whose
        pass@k rose, fell, stayed; sign_p: p-value of the exact sign test on better against worse.
    """
    shared = [task_id for task_id in before.per_problem if task_id in after.per_problem]
    old, new = (
        pass_at_k(
            [evaluation.per_problem[task_id][1] for task_id in shared],
            [evaluation.per_problem[task_id][0] for task_id in shared],
            k,
        )
        for evaluation in (before, after)
    )
    difference = new - old
    difference = difference[~np.isnan(difference)]
    value, low, high = mean_interval(difference, seed=seed, lowest=-1.0)
    better, worse = int(np.sum(difference > 0)), int(np.sum(difference < 0))
    return {
        "problems": len(difference),
        "value": _number(value),
        "low": _number(low),
        "high": _number(high),
        "better": better,
        "worse": worse,
        "same": len(difference) - better - worse,
        "sign_p": sign_test(better, worse),
    }


def _estimate(n: np.ndarray, c: np.ndarray, k: int, seed: int) -> dict[str, float | int | None]:
    values = pass_at_k(n, c, k)
    value, low, high = mean_interval(values, seed=seed)
    return {
        "value": _number(value),
        "low": _number(low),
        "high": _number(high),
        "problems": int(np.sum(~np.isnan(values))),
    }


def _number(value: float) -> float | None:
    """A float for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)


def _by_count(counts: np.ndarray, first: int, end: int) -> dict[str, int]:
    found = [(int(counts[code]), ErrorType(code).name) for code in range(first, end) if counts[code]]
    return {name: count for count, name in sorted(found, key=lambda item: -item[0])}
