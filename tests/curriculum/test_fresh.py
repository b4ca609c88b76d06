"""Fresh answers: who is asked again, what is replayed of them, and that budgets hold to the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ap2o_fast.book import ErrorBook, Row, first_alike
from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum import (
    FRESH,
    REPLAY,
    WINDOW,
    Known,
    ReplayPool,
    look_back,
    make_pools,
    plan_epoch,
    replay_pools,
    weakest,
)
from ap2o_fast.curriculum.replay import draw_replay
from ap2o_fast.judge.verdict import ErrorType as E
from ap2o_fast.judge.verdict import Verdict

Answers = list[tuple[int, E]]
"""Of one problem in one round: the token that tells an answer from others, and its verdict."""
Ask = Callable[[int, dict[str, Answers]], None]
EXAM: dict[str, Answers] = {
    "even": [(1, E.Passed), (2, E.Passed), (3, E.NameError), (4, E.TypeError), (4, E.TypeError), (5, E.NameError)],
    "weak": [(1, E.Passed), (2, E.Passed), (3, E.NameError), (4, E.NameError), (5, E.NameError), (6, E.NameError)],
    "hard": [(1, E.NameError), (2, E.NameError), (3, E.TypeError)],
    "easy": [(1, E.Passed), (2, E.Passed), (3, E.Passed), (4, E.KeyError), (5, E.KeyError)],
}
EVEN, WEAK, HARD, EASY = range(4)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[ErrorBook]:
    with ErrorBook.create(tmp_path / "book") as opened:
        ask(opened, 0, EXAM)
        yield opened


def ask(book: ErrorBook, round: int, answers: dict[str, Answers]) -> None:
    for task_id, given_ in answers.items():
        book.add_problem(task_id, np.array([7], dtype=np.int32), "def f():")
        book.append([row(task_id, round, sample, *answer) for sample, answer in enumerate(given_)])
    book.commit()


def row(task_id: str, round: int, sample: int, token: int, error: E) -> Row:
    return Row(
        task_id=task_id,
        round=round,
        sample=sample,
        seed=sample,
        policy=f"epoch-{round}",
        token_ids=np.array([token, 2], dtype=np.int32),
        logprobs=np.zeros(2, dtype=np.float32),
        text="",
        code="",
        finish="stop",
        verdict=Verdict(error=error),
    )


def offered(book: ErrorBook, source: str, round: int) -> dict[int, ReplayPool]:
    return replay_pools(book, make_pools(book, CurriculumSettings())[0], source, round=round)


def tokens(book: ErrorBook, rows: np.ndarray) -> list[int]:
    return [int(book.tokens(one)[0]) for one in rows.tolist()]


def test_weakness_is_that_of_the_latest_round_with_a_failure(book: ErrorBook) -> None:
    ask(book, 2, {"weak": [(1, E.Passed), (9, E.Passed)], "even": [(8, E.ValueError), (2, E.Passed), (7, E.Flaky)]})
    known = look_back(book, 2)
    assert known.latest.tolist() == [2, 2, 0, 0]
    assert known.solved.tolist() == [False, True, False, False]
    assert known.hopeless.tolist() == [False, False, True, False]
    assert known.weakness[EVEN, E.ValueError] == 0.5 and known.weakness[EVEN].sum() == 0.5, "of two judged answers"
    assert known.weakness[WEAK, E.NameError] == 4 / 6, "solved, so its last failures are the exam's"
    before = look_back(book, 1)
    assert before.latest.tolist() == [0, 0, 0, 0] and not before.solved.any()


def chosen(book: ErrorBook, quiz: dict[E, int], limit: int, round: int = 9) -> dict[int, E]:
    found = weakest(look_back(book, round), {int(k): n for k, n in quiz.items()}, limit, np.random.default_rng(0))
    return {problem: E(kind) for problem, kind in found.items()}


def test_the_weakest_of_the_quizs_types_are_asked_and_the_rest_only_where_there_is_room(book: ErrorBook) -> None:
    assert chosen(book, {E.NameError: 5}, 1) == {WEAK: E.NameError}, "4 of 6 answers fail with it, of `even` 2 of 6"
    assert chosen(book, {E.NameError: 1, E.KeyError: 1}, 2) == {WEAK: E.NameError, EASY: E.KeyError}
    assert chosen(book, {E.NameError: 5}, 9) == {WEAK: E.NameError, EVEN: E.NameError, HARD: E.NameError}
    assert list(chosen(book, {E.NameError: 5}, 9))[-1] == HARD, "hopeless: last"
    assert chosen(book, {E.OSError: 5}, 9) == {} == chosen(book, {}, 9)
    ask(book, 1, {"weak": [(1, E.Passed), (2, E.Passed)]})
    assert chosen(book, {E.NameError: 5}, 1) == {EVEN: E.NameError}, "`weak` is solved"
    assert chosen(book, {E.NameError: 5}, 2) == {EVEN: E.NameError, HARD: E.NameError}, "`hard` was asked longer ago"
    assert WEAK in chosen(book, {E.NameError: 5}, 3), "a solved problem comes back where there is room"


@given(st.data())
def test_budgets_are_kept_to_the_problem_and_shared_out_in_the_quizs_ratio(data: st.DataObject) -> None:
    problems, kinds = data.draw(st.integers(1, 30)), [E.NameError, E.TypeError, E.KeyError]
    weakness = np.zeros((problems, len(E)))
    weakness[:, kinds] = np.array(
        data.draw(st.lists(st.tuples(*[st.sampled_from([0, 0.1, 0.5])] * 3), min_size=problems, max_size=problems))
    )
    flags = st.lists(st.booleans(), min_size=problems, max_size=problems)
    solved, hopeless = (np.array(data.draw(flags)) for _ in range(2))
    latest = np.array(data.draw(st.lists(st.integers(0, 3), min_size=problems, max_size=problems)))
    known = Known(latest=latest, weakness=weakness, solved=solved, hopeless=hopeless)
    quiz = {int(kind): data.draw(st.integers(0, 9)) for kind in kinds}
    limit = data.draw(st.integers(0, 40))
    found = weakest(known, quiz, limit, np.random.default_rng(1))
    shown = [kind for kind in kinds if quiz[kind]]
    able = np.flatnonzero(weakness[:, shown].any(axis=1)) if shown else np.empty(0, int)
    assert len(found) == min(limit, len(able)) and set(found) <= set(able.tolist())
    assert all(quiz[kind] and weakness[problem, kind] for problem, kind in found.items())
    resting = solved | hopeless
    awake = [problem for problem in able.tolist() if not resting[problem]]
    assert sum(not resting[problem] for problem in found) == min(limit, len(awake)), "none rests before they are asked"
    if shown and len(found) == limit and all(weakness[awake][:, shown].all(axis=0)) and len(awake) == problems:
        total = sum(quiz.values())
        for kind in shown:
            assert abs(Counter(found.values())[kind] - limit * quiz[kind] / total) < 1 or not weakness[:, shown].all()


def test_the_exam_alone_is_replayed_from_the_book_and_before_the_first_fresh_answers(book: ErrorBook) -> None:
    exam = {pool.problem: pool.failed.tolist() for pool in make_pools(book, CurriculumSettings())[0]}
    assert set(exam) == {EVEN, WEAK, EASY}
    for source in ("book", "on_policy", "both"):
        found = offered(book, source, 0)
        assert {problem: pool.failed.tolist() for problem, pool in found.items()} == exam
        assert not any(pool.fresh.any() for pool in found.values())
    ask(book, 1, {"weak": [(7, E.TypeError), (1, E.Passed)]})
    assert {problem: pool.failed.tolist() for problem, pool in offered(book, "book", 1).items()} == exam


def test_what_the_current_model_still_gets_wrong_is_offered_once_however_often_it_was_seen(book: ErrorBook) -> None:
    ask(book, 1, {"weak": [(7, E.TypeError), (7, E.TypeError), (3, E.NameError), (1, E.Passed), (8, E.Passed)]})
    fresh = offered(book, "on_policy", 1)
    assert set(fresh) == {WEAK}, "who was not asked has no answer of the current model"
    assert sorted(tokens(book, fresh[WEAK].failed)) == [3, 7] and fresh[WEAK].fresh.all()
    assert sorted(tokens(book, fresh[WEAK].passed)) == [1, 8]
    both = offered(book, "both", 1)
    assert set(both) == {EVEN, WEAK, EASY} and not both[EVEN].fresh.any()
    assert sorted(tokens(book, both[WEAK].failed)) == [3, 4, 5, 6, 7]
    assert {
        token for token, is_fresh in zip(tokens(book, both[WEAK].failed), both[WEAK].fresh, strict=True) if is_fresh
    } == {3, 7}
    assert sorted(tokens(book, both[WEAK].passed)) == [1, 2, 8]
    first = first_alike(book)
    assert (first[first] == first).all() and (book.column("round")[first[-3:-1]] == 0).all()
    for pool in both.values():
        rows = np.concatenate([pool.failed, pool.passed])
        assert (first[rows] == rows).all(), "known tokens keep their row, which has a reference log-probability"
        assert (book.column("error")[pool.failed] == pool.errors).all()


@given(st.lists(st.tuples(st.sampled_from([E.NameError, E.KeyError]), st.booleans()), min_size=1), st.integers(1, 9))
def test_as_many_are_drawn_as_asked_for_and_fresh_ones_first(failures: list[tuple[E, bool]], amount: int) -> None:
    kinds, fresh = (np.array(column) for column in zip(*failures, strict=True))
    pool = ReplayPool(
        problem=0, passed=np.arange(1), failed=np.arange(len(kinds)), errors=kinds.astype(np.uint8), fresh=fresh
    )
    drawn = np.array(draw_replay(pool, {int(E.NameError): 2, int(E.KeyError): 1}, amount, np.random.default_rng(0)))
    assert len(drawn) == amount
    for kind in set(kinds.tolist()):
        mine, offered_fresh = drawn[kinds[drawn] == kind].tolist(), np.flatnonzero((kinds == kind) & fresh).tolist()
        assert len(set(mine) & set(offered_fresh)) == min(len(mine), len(offered_fresh))
        assert len(set(mine)) == len(mine) or np.count_nonzero(kinds == kind) < len(mine), (
            "none twice if there are enough"
        )


def test_solved_and_hopeless_problems_leave_and_come_back(book: ErrorBook) -> None:
    ask(book, 1, {"weak": [(1, E.Passed), (9, E.Passed)], "hard": [(4, E.NameError)], "even": [(9, E.TypeError)]})
    for source in ("on_policy", "both"):
        assert not {WEAK, HARD} & set(offered(book, source, 1))
    even = offered(book, "on_policy", 1)[EVEN]
    assert tokens(book, even.failed) == [9] and sorted(tokens(book, even.passed)) == [1, 2], "no fresh answer passed"
    ask(book, 2, {"weak": [(8, E.KeyError), (1, E.Passed)], "hard": [(5, E.Passed), (6, E.NameError)]})
    later = offered(book, "on_policy", 2)
    assert set(later) == {WEAK, HARD, EVEN}, "also one that the exam had no passed answer to"
    assert tokens(book, later[HARD].failed) == [6] and tokens(book, later[HARD].passed) == [5]
    assert 4 not in tokens(book, offered(book, "both", 2)[HARD].failed), "of an older round"
    assert set(offered(book, "on_policy", 1)) == {EVEN}, "later rounds change nothing"


def test_tokens_judged_both_ways_in_whatever_rounds_are_in_no_list(book: ErrorBook) -> None:
    ask(book, 1, {"weak": [(2, E.TimeoutError), (4, E.Passed), (5, E.Flaky), (7, E.NameError), (1, E.Passed)]})
    pool = offered(book, "both", 1)[WEAK]
    assert sorted(tokens(book, pool.failed)) == [3, 6, 7] and tokens(book, pool.passed) == [1]


@pytest.mark.parametrize("limit", [0, 1])
def test_the_source_changes_what_is_replayed_and_neither_the_window_nor_how_many(book: ErrorBook, limit: int) -> None:
    ask(book, 1, {"weak": [(7, E.NameError), (8, E.NameError), (9, E.Passed)]})
    settings, quiz = CurriculumSettings(pairs_per_problem=limit), {int(E.NameError): 3}
    pools = make_pools(book, settings)[0]
    plans = {
        source: plan_epoch(
            pools, settings, epoch=1, epochs=2, quiz_errors=quiz, seed=0, replay=offered(book, source, 1)
        )
        for source in ("book", "on_policy", "both")
    }
    plain = plan_epoch(pools, settings, epoch=1, epochs=2, quiz_errors=quiz, seed=0)
    assert plans["book"].rejected.tolist() == plain.rejected.tolist()
    assert plans["book"].chosen.tolist() == plain.chosen.tolist()
    rounds = book.column("round")
    for source, plan in plans.items():
        windows, of_weak = plan.source == WINDOW, plan.problem == WEAK
        assert plan.rejected[windows].tolist() == plain.rejected[plain.source == WINDOW].tolist(), "the exam's failures"
        assert (rounds[plan.rejected[windows]] == 0).all() and (rounds[plan.chosen[windows]] == 0).all()
        assert np.count_nonzero(of_weak & ~windows) == np.count_nonzero(of_weak & windows), "as many as the window has"
        assert (book.column("problem")[plan.chosen] == plan.problem).all()
        assert (book.column("error")[plan.chosen] == E.Passed).all() and (rounds[plan.rejected] <= 1).all()
        assert ((plan.source == FRESH) == (rounds[plan.rejected] == 1)).all(), source
    assert Counter(plans["book"].source.tolist())[FRESH] == 0
    assert Counter(plans["on_policy"].source.tolist())[REPLAY] == 0 < Counter(plans["on_policy"].source.tolist())[FRESH]


def test_a_problem_without_a_window_is_replayed_and_lies_in_a_step(book: ErrorBook) -> None:
    ask(book, 1, {"hard": [(5, E.Passed), (6, E.NameError), (7, E.NameError), (8, E.NameError)]})
    settings = CurriculumSettings()
    pools = make_pools(book, settings)[0]
    first = set()
    for seed in range(12):
        found = offered(book, "on_policy", 1)
        plan = plan_epoch(
            pools, settings, epoch=0, epochs=2, quiz_errors={int(E.NameError): 1}, seed=seed, replay=found
        )
        assert np.count_nonzero(plan.problem == HARD) == 2, "as many as a window over its three failures holds"
        steps = list(plan.steps(2))
        assert np.concatenate([step.rejected for step in steps]).tolist() == plan.rejected.tolist()
        assert len(steps) == -(-np.count_nonzero(plan.source == WINDOW) // 2), "the schedule is known beforehand"
        first.add(int(plan.problem[0]))
    assert HARD in first, "it came first once, before any window pair"
