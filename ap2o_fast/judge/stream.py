"""Many answers through a judge, while others are still being made: results in order, some answers judged twice."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
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


class Stream:
    """Judges what is put into it, in the background, and gives results in the order of the jobs.

    Args:
        submit: begins to judge one.
        recheck: the share that is judged twice; see `twice.settle` for what becomes of the two verdicts.
        backlog: jobs that may be unfinished; with more, `put` waits. So neither side runs far ahead of the other.

    A context manager: what has not begun when the block ends never does.
    """

    def __init__(self, submit: Submit, *, recheck: float, backlog: int) -> None:
        self._submit, self._recheck, self._backlog = submit, recheck, backlog
        self._pending: collections.deque[_Pending] = collections.deque()
        self._again: collections.deque[_Pending] = collections.deque()
        self._running: set[Future[Verdict]] = set()
        self._begun = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        for item in self._pending:
            for future in item.verdicts:
                future.cancel()

    def put(self, job: Job) -> None:
        """Begin with a job, once there is room for it."""
        while self._begin_again(waited=self._begun - LATER):
            pass
        while self._unfinished() >= self._backlog:
            wait(self._running, return_when=FIRST_COMPLETED)
        drawn = job.seed is not None and is_drawn(self._recheck, job.problem.task_id, job.seed)
        item = _Pending(job=job, place=self._begun, twice=drawn)
        self._running.add(item.begin(self._submit))
        self._pending.append(item)
        self._begun += 1
        if drawn:
            self._again.append(item)

    def ready(self) -> Iterator[tuple[Job, Verdict]]:
        """What has its verdict and was put before all that has none; waits for nothing."""
        while self._pending and self._pending[0].done():
            item = self._pending.popleft()
            yield item.job, item.verdict()

    def rest(self) -> Iterator[tuple[Job, Verdict]]:
        """All that is still to come."""
        while self._pending:
            while self._begin_again(waited=self._begun):
                pass
            yield from self.ready()
            if self._unfinished():
                wait(self._running, return_when=FIRST_COMPLETED)

    def _begin_again(self, *, waited: int) -> bool:
        """Begin a second judging, if there is one whose first is over and began before job number `waited`."""
        if not self._again or self._again[0].place >= waited or not self._again[0].verdicts[0].done():
            return False
        self._running.add(self._again.popleft().begin(self._submit))
        return True

    def _unfinished(self) -> int:
        self._running = {future for future in self._running if not future.done()}
        return len(self._running)
