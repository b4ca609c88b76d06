"""Judging in the background: begun at once, in order, never far behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook
from ap2o_fast.config import PromptSettings
from ap2o_fast.judge import ErrorType, Job, Verdict
from ap2o_fast.judge.stream import Stream
from ap2o_fast.problems.problem import Problem
from ap2o_fast.sampling import Answer
from ap2o_fast.sitting import Sitting, sit

PROBLEM = Problem(task_id="p", prompt="", entry_point="f", test="assert f(1) == 1")
PASSED = Verdict(error=ErrorType.Passed)


class Desk:
    """Takes jobs as a judge does; the test says when one is judged."""

    def __init__(self) -> None:
        self.futures: dict[Any, Future[Verdict]] = {}

    def __call__(self, job: Job, workers: list[Any]) -> Future[Verdict]:
        self.futures[job.key] = Future()
        return self.futures[job.key]

    def judge(self, key: Any) -> None:
        self.futures[key].set_result(PASSED)


def job(key: int) -> Job:
    return Job(key=key, problem=PROBLEM, code="")


def test_what_is_judged_comes_out_in_order_while_more_is_put_in() -> None:
    desk = Desk()
    with Stream(desk, recheck=0, backlog=10) as stream:
        stream.put(job(0))
        stream.put(job(1))
        assert set(desk.futures) == {0, 1}
        desk.judge(1)
        assert list(stream.ready()) == []
        desk.judge(0)
        assert [done.key for done, _ in stream.ready()] == [0, 1]
        stream.put(job(2))
        desk.judge(2)
        assert [done.key for done, _ in stream.rest()] == [2]


def test_what_puts_jobs_in_waits_when_too_many_are_unfinished() -> None:
    desk = Desk()
    with Stream(desk, recheck=0, backlog=2) as stream:
        stream.put(job(0))
        stream.put(job(1))
        third = threading.Thread(target=stream.put, args=(job(2),))
        third.start()
        third.join(0.2)
        assert third.is_alive()
        assert set(desk.futures) == {0, 1}
        desk.judge(1)
        third.join(5)
        assert not third.is_alive()
        assert set(desk.futures) == {0, 1, 2}


def test_what_has_not_begun_when_the_block_ends_never_does() -> None:
    desk = Desk()
    with pytest.raises(KeyboardInterrupt), Stream(desk, recheck=0, backlog=2) as stream:
        stream.put(job(0))
        raise KeyboardInterrupt
    assert desk.futures[0].cancelled()


def test_a_sitting_commits_verdicts_while_its_sampler_is_still_busy(tmp_path: Path) -> None:
    desk, committed = Desk(), []

    def sample(requests: list[Any], **_: Any) -> Iterator[list[Answer]]:
        for number in range(3):
            committed.append(len(book))
            yield [
                Answer(
                    task_id="p",
                    sample=number,
                    seed=requests[0].seeds[number],
                    token_ids=np.array([number + 1], np.int32),
                    logprobs=np.array([-0.1], np.float32),
                    text=f"answer {number}",
                    finish="eos",
                )
            ]
            # The sampler goes on; meanwhile the judge has come to a verdict on all that it was given.
            for future in desk.futures.values():
                if not future.done():
                    future.set_result(PASSED)

    def stream(*, backlog: int) -> Stream:
        def submit(job: Job, workers: list[Any]) -> Future[Verdict]:
            desk.futures[job.key.sample] = future = Future()
            return future

        return Stream(submit, recheck=0, backlog=backlog)

    how = Sitting(stage="exam", round=0, policy="init", n=3, temperature=1, top_p=1, max_new_tokens=9, stop=())
    with ErrorBook.create(tmp_path / "book") as book:
        sit(
            how,
            [PROBLEM],
            book=book,
            sampler=SimpleNamespace(sample=sample),
            judge=SimpleNamespace(stream=stream),  # type: ignore[arg-type]
            tokenizer=lambda text, **_: {"input_ids": list(text.encode())},
            prompt=PromptSettings(style="paper"),
            seed=0,
            quiet=True,
        )
        assert committed == [0, 0, 1]
        assert book.column("sample").tolist() == [0, 1, 2]
