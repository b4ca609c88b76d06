"""Rows that can be made again from their number alone, and what a book holds, as plain values that compare."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from ap2o_fast.book import ErrorBook, Row
from ap2o_fast.judge.verdict import ErrorType, Verdict

PROBLEMS = 5
TEXTS = ("", "def f():\n\treturn 1", "naïve – 你好 🐍", "half \ud83d of a pair", "nul \0 and \x1b[31m")


def make_row(number: int, round: int = 0) -> Row:
    """Row `number` of a round: the same one for the same number; every third has no tokens or other oddities."""
    rng = random.Random(f"{round}/{number}")
    length = rng.choice((0, 1, 7, 40))
    return Row(
        task_id=f"task/{number % PROBLEMS}",
        round=round,
        sample=number // PROBLEMS,
        seed=rng.randrange(-(2**63), 2**63),
        policy=rng.choice(("", "model-a", "model-β")),
        token_ids=np.array([rng.randrange(-(2**31), 2**31) for _ in range(length)], np.int32),
        logprobs=np.array([-rng.random() * 20 for _ in range(length)], np.float32),
        text=rng.choice(TEXTS),
        code=rng.choice(TEXTS),
        finish=rng.choice(("stop", "eos", "length")),
        verdict=Verdict(
            error=ErrorType(rng.randrange(len(ErrorType))),
            line=rng.randrange(1000),
            message=rng.choice(TEXTS),
            tests_passed=rng.randrange(10),
            tests_total=10,
            cpu_seconds=rng.randrange(1000) / 8,
            peak_mib=rng.randrange(1000) / 4,
            sandbox_level=rng.randrange(5),
        ),
    )


def prompt_of(problem: int) -> tuple[np.ndarray, str]:
    return np.arange(problem, dtype=np.int32) * 3, TEXTS[problem % len(TEXTS)] * problem


def add_problems(book: ErrorBook) -> None:
    for problem in range(PROBLEMS):
        book.add_problem(f"task/{problem}", *prompt_of(problem))


def plain(row: Row) -> tuple[Any, ...]:
    """A row as values that compare by content."""
    content = vars(row) | {"token_ids": row.token_ids.tolist(), "logprobs": row.logprobs.tolist()}
    return tuple(sorted(content.items(), key=lambda item: item[0]))


def rows_of(book: ErrorBook) -> list[tuple[Any, ...]]:
    return [plain(book.row(row)) for row in range(len(book))]


def expected(count: int, start: int = 0) -> list[tuple[Any, ...]]:
    return [plain(make_row(number)) for number in range(start, start + count)]
