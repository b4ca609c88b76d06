"""Pools and rows alike, over all problems at once, against the same said a problem at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook, Row, first_alike
from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum import make_pools
from ap2o_fast.judge.verdict import ErrorType as E
from ap2o_fast.judge.verdict import Verdict
from tests.book.test_book_round_trip import Unsynced

KINDS = [E.Passed, E.Passed, E.NameError, E.KeyError, E.TypeError, E.Unjudgeable, E.SandboxFailure, E.Flaky]
Found = tuple[list[tuple[int, list[int], list[int], list[int]]], dict[str, str]]


def random_book(folder: Path, seed: int) -> ErrorBook:
    """Two rounds in turn over eleven problems, one of them unanswered, with few different answers to each."""
    rng = np.random.default_rng(seed)
    book = ErrorBook.create(folder, files=Unsynced())
    for problem in range(11):
        book.add_problem(f"task/{problem}", np.array([problem], np.int32), "")
    kinds = [KINDS[: rng.integers(1, len(KINDS) + 1)] if problem % 3 else KINDS[5:] for problem in range(11)]
    rows = []
    for number in range(300):
        problem = int(rng.integers(10))
        rows.append(
            Row(
                task_id=f"task/{problem}",
                round=int(rng.integers(2)),
                sample=number,
                seed=0,
                policy="",
                token_ids=rng.integers(6, size=2).astype(np.int32),
                logprobs=np.zeros(2, np.float32),
                text="",
                code="",
                finish="stop",
                verdict=Verdict(error=kinds[problem][rng.integers(len(kinds[problem]))], message=f"of {number}"),
            )
        )
    book.append(rows)
    book.commit()
    return book


def plain_pools(book: ErrorBook, settings: CurriculumSettings, round: int) -> Found:
    pools, dropped = [], {}
    digest, error = book.column("digest"), book.column("error")
    for problem, task_id in enumerate(book.task_ids):
        mine = np.flatnonzero((book.column("problem") == problem) & (book.column("round") == round)).tolist()
        kinds: dict[int, set[int]] = {}
        passed: dict[int, int] = {}
        failed: dict[int, int] = {}
        for row in mine:
            kinds.setdefault(digest[row], set()).add(error[row])
            if error[row] == E.Passed:
                passed.setdefault(digest[row], row)
            elif error[row] < E.Unjudgeable:
                failed.setdefault(digest[row], row)
        chance = {one for one in kinds if E.Flaky in kinds[one] or (one in passed and one in failed)}
        good = sorted(row for one, row in passed.items() if one not in chance)
        bad = sorted(row for one, row in failed.items() if one not in chance)
        if not mine:
            continue
        if all(error[row] >= E.Unjudgeable for row in mine):
            dropped[task_id] = f"none of {len(mine)} answers could be judged: {book.message(mine[0])}"
        elif len(good) < settings.min_passed:
            dropped[task_id] = f"{len(good)} distinct passed of {len(mine)} answers, {settings.min_passed} needed"
        elif len(bad) < settings.min_failed:
            dropped[task_id] = f"{len(bad)} distinct failed of {len(mine)} answers, {settings.min_failed} needed"
        else:
            pools.append((problem, good, bad, [int(error[row]) for row in bad]))
    return pools, dropped


@pytest.mark.parametrize("seed", range(6))
def test_pools_are_those_of_one_problem_at_a_time(tmp_path: Path, seed: int) -> None:
    book = random_book(tmp_path / "book", seed)
    for round in (0, 1, 2):
        for needed in (1, 3):
            settings = CurriculumSettings(min_passed=needed, min_failed=2)
            pools, dropped = make_pools(book, settings, round=round)
            found = [(pool.problem, pool.passed.tolist(), pool.failed.tolist(), pool.errors.tolist()) for pool in pools]
            assert (found, dropped) == plain_pools(book, settings, round)
            assert all(pool.errors.dtype == np.uint8 and pool.failed.dtype == np.int64 for pool in pools)


def test_pools_of_an_empty_book(tmp_path: Path) -> None:
    book = ErrorBook.create(tmp_path / "book", files=Unsynced())
    assert make_pools(book, CurriculumSettings()) == ([], {})


def test_rows_alike_are_named_by_the_first(tmp_path: Path) -> None:
    book = random_book(tmp_path / "book", 3)
    first: dict[tuple[int, int], int] = {}
    keys = zip(book.column("problem").tolist(), book.column("digest").tolist(), strict=True)
    wanted = [first.setdefault(key, row) for row, key in enumerate(keys)]
    assert len(first) < len(book) and first_alike(book).tolist() == wanted
