"""Pools and rows alike, over all problems at once, against the same said a problem at a time."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook, Row, first_alike, reader
from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum import make_pools, plan_epoch
from ap2o_fast.curriculum import pools as pools_module
from ap2o_fast.errors import UsageError
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


@pytest.mark.parametrize("rows", [1, 40, 1 << 20])
@pytest.mark.parametrize("seed", range(6))
def test_pools_are_those_of_one_problem_at_a_time(
    tmp_path: Path, seed: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "LOOKED_AT", rows)
    monkeypatch.setattr(pools_module, "KEPT", rows)
    book = random_book(tmp_path / "book", seed)
    for round in (0, 1, 2):
        for needed in (1, 3):
            settings = CurriculumSettings(min_passed=needed, min_failed=2)
            pools, dropped = make_pools(book, settings, round=round)
            found = [(pool.problem, pool.passed.tolist(), pool.failed.tolist(), pool.errors.tolist()) for pool in pools]
            assert (found, dropped) == plain_pools(book, settings, round)
            assert all(pool.errors.dtype == np.uint8 and pool.failed.dtype == np.int64 for pool in pools)


def test_pools_are_kept_up_to_a_number_of_rows_and_are_the_same_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = random_book(tmp_path / "book", 1)
    lenient = CurriculumSettings(min_passed=1, min_failed=1)
    whole = make_pools(book, lenient)[0]
    assert len(whole) > 3 and all(whole[index] is whole[index] for index in range(len(whole)))
    rows = len(whole[0].passed) + len(whole[0].failed)
    monkeypatch.setattr(pools_module, "KEPT", rows)
    few = make_pools(book, lenient)[0]
    assert [few[index] is few[index] for index in range(len(few))] == [True] + [False] * (len(few) - 1)
    epoch: dict[str, Any] = {"epoch": 1, "epochs": 3, "quiz_errors": {int(E.NameError): 1}, "seed": 0}
    plans = [plan_epoch(pools, lenient, **epoch) for pools in (whole, few, few)]
    assert len(plans[0]) and all((plan.rejected == plans[0].rejected).all() for plan in plans)
    assert [pool.problem for pool in few[1:-1]] == [pool.problem for pool in whole][1:-1]
    assert few[-1].problem == whole[len(whole) - 1].problem
    with pytest.raises(IndexError):
        few[len(few)]


def test_rows_by_problem_and_values_at_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = random_book(tmp_path / "book", 2)
    book.append([dataclasses.replace(book.row(row), seed=1) for row in range(250)])
    book.commit()  # a second file
    monkeypatch.setattr(reader, "_PART", 70)
    for round in (0, 1, 2):
        bounds, rows = book.by_problem(round)
        column = book.column("problem"), book.column("round")
        wanted = [np.flatnonzero((column[0] == problem) & (column[1] == round)) for problem in range(11)]
        assert [rows[start:end].tolist() for start, end in pairwise(bounds)] == [found.tolist() for found in wanted]
    some = np.random.default_rng(0).permutation(len(book))[:200]
    for name in ("digest", "error", "problem"):
        assert (book.values(name, some) == book.column(name)[some]).all()
        assert book.values(name, some[:0]).dtype == book.column(name).dtype
    with pytest.raises(UsageError, match="no column 'wrong'"):
        book.values("wrong", some)


def test_pools_of_an_empty_book(tmp_path: Path) -> None:
    book = ErrorBook.create(tmp_path / "book", files=Unsynced())
    pools, dropped = make_pools(book, CurriculumSettings())
    assert (list(pools), dropped) == ([], {})


def test_rows_alike_are_named_by_the_first(tmp_path: Path) -> None:
    book = random_book(tmp_path / "book", 3)
    first: dict[tuple[int, int], int] = {}
    keys = zip(book.column("problem").tolist(), book.column("digest").tolist(), strict=True)
    wanted = [first.setdefault(key, row) for row, key in enumerate(keys)]
    assert len(first) < len(book) and first_alike(book).tolist() == wanted
