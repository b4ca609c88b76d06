"""Many answers through a judge: as many at a time as it has workers, results in order, some answers judged twice."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ap2o_fast.judge.twice import is_drawn, settle
from ap2o_fast.judge.verdict import Verdict

if TYPE_CHECKING:
    from ap2o_fast.problems.problem import Problem

# A second judging begins once so many more answers have begun, or there are no more: whatever disturbed the first one
# has passed by then, and no more results than these wait for it.
LATER = 32


@dataclass(frozen=True, kw_only=True)
class Job:
    """One answer to judge.

    Attributes:
        key: the caller's name for it, handed back untouched.
        problem: what it answers.
        code: the answer: complete source.
        seed: what it was drawn with, or its number. With the problem's name it decides whether the answer is among
            those judged twice (`judge.recheck`); without one it is not.
    """

    key: Any
    problem: Problem
    code: str
    seed: int | None = None


Submit = Callable[[Job, list[Any]], Future[Verdict]]
"""Begins to judge a job. The list holds the workers that have judged it; the one that does is added."""


@dataclass(kw_only=True, eq=False)
class _Pending:
    """A job whose result is not yet out; `place` is how many jobs began before it."""

    job: Job
    place: int
    twice: bool
    workers: list[Any] = dataclasses.field(default_factory=list)
    verdicts: list[Future[Verdict]] = dataclasses.field(default_factory=list)

    def begin(self, submit: Submit) -> Future[Verdict]:
        self.verdicts.append(submit(self.job, self.workers))
        return self.verdicts[-1]

    def done(self) -> bool:
        return len(self.verdicts) == 1 + self.twice and self.verdicts[-1].done()

    def verdict(self) -> Verdict:
        first, *second = [future.result() for future in self.verdicts]
        return settle(first, second[0]) if second else first


def judge_in_order(
    jobs: Iterable[Job], submit: Submit, *, workers: int, recheck: float
) -> Iterator[tuple[Job, Verdict]]:
    """Yield each job with its verdict, in the order of `jobs`, which are taken only as workers fall free.

    Args:
        submit: begins to judge one.
        workers: how many at a time.
        recheck: the share that is judged twice; see `twice.settle` for what becomes of the two verdicts.
    """
    source = iter(jobs)
    pending: collections.deque[_Pending] = collections.deque()
    again: collections.deque[_Pending] = collections.deque()
    running: set[Future[Verdict]] = set()
    begun, more = 0, True
    try:
        while more or pending:
            running = {future for future in running if not future.done()}
            while len(running) < workers:
                if again and again[0].verdicts[0].done() and (not more or begun - again[0].place > LATER):
                    running.add(again.popleft().begin(submit))
                    continue
                job = next(source, None) if more else None
                if job is None:
                    if not more:
                        break
                    more = False
                    continue
                drawn = job.seed is not None and is_drawn(recheck, job.problem.task_id, job.seed)
                item = _Pending(job=job, place=begun, twice=drawn)
                running.add(item.begin(submit))
                pending.append(item)
                begun += 1
                if drawn:
                    again.append(item)
            if pending and pending[0].done():
                item = pending.popleft()
                yield item.job, item.verdict()
            elif running:
                wait(running, return_when=FIRST_COMPLETED)
    finally:
        for item in pending:
            for future in item.verdicts:
                future.cancel()
