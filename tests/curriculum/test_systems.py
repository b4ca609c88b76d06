"""What every system trains on, for random exams: all failures in time, exact budgets, orders that are orders."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from ap2o_fast.curriculum import FILLED, REPLAY, WINDOW, Pool, plan_epoch
from ap2o_fast.curriculum.static import difficulty
from ap2o_fast.curriculum.windows import windows
from ap2o_fast.judge.verdict import ErrorType as E
from tests.curriculum.exams import DIRECTED, EPOCHS, EXAMS, ORDERED, QUIZZES, TRAINED, pool, rejected, run, settings

few = effort(max_examples=20, deadline=None)
"""Each example is a run of many epochs."""


@given(pools=EXAMS, epochs=EPOCHS, seed=st.integers(0, 3), scope=st.sampled_from(["problem", "global"]))
@few
@pytest.mark.parametrize("window", ["paper", "by_type"])
@pytest.mark.parametrize("system", DIRECTED)
def test_windows_meet_every_failure_in_time(
    pools: list[Pool], epochs: int, seed: int, scope: str, window: str, system: str
) -> None:
    plans = run(pools, settings(system, window=window, scope=scope, replay="off"), epochs, seed=seed)
    assert set(rejected(plans)) == {row for one in pools for row in one.failed.tolist()}
    assert all(set(made.source.tolist()) == {WINDOW} for made in plans)


@given(pools=EXAMS, epochs=EPOCHS, quiz=QUIZZES)
@few
@pytest.mark.parametrize("system", TRAINED)
def test_pairs_are_of_one_problem_and_of_the_right_kind(
    pools: list[Pool], epochs: int, quiz: dict[int, int], system: str
) -> None:
    by_problem = {one.problem: one for one in pools}
    for made in run(pools, settings(system), epochs, quiz):
        for chosen, other, problem, error in zip(
            made.chosen.tolist(), made.rejected.tolist(), made.problem.tolist(), made.error.tolist(), strict=True
        ):
            found = by_problem[problem]
            assert chosen in found.passed
            if system == "sft":
                assert chosen == other and error == E.Passed
            else:
                assert found.errors[found.failed.tolist().index(other)] == error


@given(pools=EXAMS, epochs=EPOCHS, quiz=QUIZZES, limit=st.sampled_from([0, 1, 2]))
@few
def test_a_matched_budget_is_the_same_for_every_system_and_epoch(
    pools: list[Pool], epochs: int, quiz: dict[int, int], limit: int
) -> None:
    """Twice the paper's window, to the pair; the ablations too."""
    widths = [-(-len(one.failed) // epochs) for one in pools]
    wanted = 2 * sum(min(width, limit) if limit else width for width in widths)
    rows = [{"system": system} for system in TRAINED]
    rows += [{"system": "ap2o-l2h", "replay": "off"}, {"system": "ap2o-h2l", "window": "off"}]
    rows += [{"system": "ap2o-h2l", "window": kind} for kind in ("upstream", "by_type")]
    rows += [] if limit else [{"system": "ap2o-l2h", "scope": "global"}]
    for row in rows:
        plans = run(pools, settings(budget="matched", pairs_per_problem=limit, **row), epochs, quiz)
        assert [len(made) for made in plans] == [wanted] * epochs, row
        if row.get("scope") != "global" and row["system"] not in ("dpo", "curri-dpo"):
            for made in plans:
                count = Counter(made.problem.tolist())
                assert [count[one.problem] for one in pools] == [
                    2 * (min(width, limit) if limit else width) for width in widths
                ]


@given(pools=EXAMS, epochs=EPOCHS, extra=st.sampled_from(["own", "matched"]), seed=st.integers(0, 3))
@few
def test_every_static_pair_is_met_once_before_any_is_met_twice(
    pools: list[Pool], epochs: int, extra: str, seed: int
) -> None:
    every = {(chosen, other) for one in pools for chosen in one.passed.tolist() for other in one.failed.tolist()}
    plans = run(pools, settings("dpo", budget=extra), epochs, seed=seed)
    met = [pair for made in plans for pair in zip(made.chosen.tolist(), made.rejected.tolist(), strict=True)]
    times = Counter(met)
    assert set(times) <= every
    if extra == "own":
        assert len(met) == len(every) == len(times)
        assert max(map(len, plans)) - min(map(len, plans)) <= 1, "dealt out evenly"
    assert max(times.values()) - min(times.get(pair, 0) for pair in every) <= 1
    rounds = [met[start : start + len(every)] for start in range(0, len(met) - len(every) + 1, len(every))]
    if len(every) > 6:
        assert len(set(map(tuple, rounds))) == len(rounds), "shuffled anew"


@given(pools=EXAMS, epochs=EPOCHS, budget=st.sampled_from(["own", "matched"]), seed=st.integers(0, 3))
@few
def test_curri_dpo_goes_from_easy_to_hard(pools: list[Pool], epochs: int, budget: str, seed: int) -> None:
    plans = run(pools, settings("curri-dpo", budget=budget), epochs, seed=seed)
    level = {row: share for one in pools for row, share in zip(one.failed.tolist(), difficulty(one), strict=True)}
    levels = [level[row] for row in rejected(plans)]
    assert levels == sorted(levels)
    met = Counter(pair for made in plans for pair in zip(made.chosen.tolist(), made.rejected.tolist(), strict=True))
    total = sum(len(one.passed) * len(one.failed) for one in pools)
    if len(levels) >= total:
        assert len(met) == total and max(met.values()) - min(met.values()) <= 1, "all of them, none much more often"
    else:
        assert max(met.values()) == 1 and levels[0] <= min(level.values()), "from all of the order"


@given(pools=EXAMS, epochs=EPOCHS, seed=st.integers(0, 3))
@few
def test_a_global_window_is_one_stretch_of_a_type(pools: list[Pool], epochs: int, seed: int) -> None:
    counts = Counter(code for one in pools for code in one.errors.tolist())
    sequences = {}
    for system in DIRECTED:
        plans = run(pools, settings(system, scope="global", replay="off"), epochs, seed=seed)
        for made in plans:
            changes = np.count_nonzero(np.diff(made.error))
            assert changes == len(set(made.error.tolist())) - 1, "equal types side by side"
            levels = [counts[code] for code in made.error.tolist()]
            assert levels == sorted(levels, reverse=system == "ap2o-h2l")
        levels = [sorted({counts[code] for code in made.error.tolist()}) for made in plans]
        sequences[system] = levels if system == "ap2o-l2h" else levels[::-1]
        ends = [(level[0], level[-1]) for level in sequences[system]]
        assert all(one[0] <= other[0] and one[1] <= other[1] for one, other in pairwise(ends)), "it never goes back"
    every = set(counts.values())
    assert all({level for levels in found for level in levels} == every for found in sequences.values())


@given(pools=EXAMS, epochs=EPOCHS, seed=st.integers(0, 3))
@few
def test_high_to_low_is_low_to_high_backwards(pools: list[Pool], epochs: int, seed: int) -> None:
    """Epoch by epoch as often as the types are; which of two equally frequent types comes first is the same in both."""
    for one in pools:
        frequency = Counter(one.errors.tolist())

        def levels(system: str, one: Pool = one, frequency: Counter[int] = frequency) -> list[int]:
            span = {"epochs": len(one.failed), "seed": seed}
            held = [
                positions
                for epoch in range(len(one.failed))
                for positions in windows([one], settings(system), epoch=epoch, progress=np.zeros(1), **span)
            ]
            return [frequency[code] for positions in held for code in one.errors[positions].tolist()]

        assert levels("ap2o-h2l") == levels("ap2o-l2h")[::-1] == sorted(levels("ap2o-l2h"), reverse=True)


def test_equally_frequent_types_do_not_mix_over_all_problems() -> None:
    pools = [pool([E.NameError, E.TypeError] * 6, problem=number) for number in range(3)]
    for system in DIRECTED:
        one_each = run(pools, settings(system, scope="global", replay="off"), 36)
        assert [made.error.tolist() for made in one_each] == [[E.NameError]] * 18 + [[E.TypeError]] * 18


def test_no_order_is_an_order_of_its_own_that_stays() -> None:
    pools = [pool([E.NameError] * 6 + [E.TypeError] * 4 + [E.KeyError] * 2)]
    rows = {system: rejected(run(pools, settings(system, replay="off"), 12)) for system in ORDERED}
    assert rows["ap2o"] not in (rows["ap2o-l2h"], rows["ap2o-h2l"]) and len(set(map(tuple, rows.values()))) == 3
    assert sorted(rows["ap2o"]) == sorted(rows["ap2o-l2h"]) == pools[0].failed.tolist()
    slow = rejected(run(pools, settings("ap2o", replay="off"), 24))
    assert list(dict.fromkeys(slow)) == rows["ap2o"], "the same order, whatever the epochs"
    assert rejected(run(pools, settings("ap2o", replay="off"), 12, seed=1)) != rows["ap2o"]


def test_init_trains_nothing() -> None:
    for budget in ("own", "matched"):
        assert [len(made) for made in run([pool([E.NameError] * 5)], settings("init", budget=budget), 3)] == [0] * 3


@pytest.mark.parametrize("epochs", [1, 4, 9])
def test_one_type_alone_and_a_quiz_of_unseen_types(epochs: int) -> None:
    """Fewer epochs than failures, as many, more; nothing is replayed that the problem has not."""
    pools = [pool([E.NameError] * 4)]
    for system in ORDERED:
        plans = run(pools, settings(system), epochs, {int(E.OSError): 5})
        assert {code for made in plans for code in made.source.tolist()} == {WINDOW}
        assert set(rejected(plans)) == set(pools[0].failed.tolist())
        matched = run(pools, settings(system, budget="matched"), epochs, {int(E.OSError): 5})
        for made in matched:
            window, filled = (set(made.rejected[made.source == source].tolist()) for source in (WINDOW, FILLED))
            assert window == filled, "of the window, too"
        assert Counter(code for made in matched for code in made.source.tolist()) == {
            WINDOW: epochs * -(-4 // epochs),
            FILLED: epochs * -(-4 // epochs),
        }


@given(pools=EXAMS, epochs=EPOCHS, quiz=QUIZZES)
@few
def test_a_failure_that_is_there_twice_has_two_chosen_answers(
    pools: list[Pool], epochs: int, quiz: dict[int, int]
) -> None:
    passed = {one.problem: len(one.passed) for one in pools}
    for made in run(pools, settings("ap2o-l2h", budget="matched", replay="off"), epochs, quiz):
        pairs = Counter(zip(made.rejected.tolist(), made.chosen.tolist(), strict=True))
        for row, count in Counter(made.rejected.tolist()).items():
            partners = [chosen for (other, chosen) in pairs if other == row]
            assert count == 2 and len(partners) == min(2, passed[row // 1000])


def test_replay_alone_takes_the_windows_number_and_the_quizs_ratio() -> None:
    pools = [pool([E.NameError] * 8 + [E.TypeError] * 4), pool([E.KeyError] * 6, problem=1)]
    quiz = {int(E.NameError): 3, int(E.TypeError): 1}
    (made,) = run(pools, settings("ap2o-l2h", window="off"), 1, quiz)
    of_first = made.problem == 0
    assert Counter(made.error[of_first].tolist()) == {E.NameError: 9, E.TypeError: 3}
    assert set(made.source[of_first].tolist()) == {REPLAY}
    assert Counter(made.source[~of_first].tolist()) == {FILLED: 6}, "no failure of its types in the quiz"


def test_the_authors_draw_is_one_pair_a_problem_of_window_and_replay_pooled() -> None:
    pools = [pool([E.NameError] * 3 + [E.TypeError] * 9, problem=number) for number in range(40)]
    quiz = {int(E.TypeError): 3}
    plans = run(pools, settings("ap2o-l2h", draw="upstream", replay="upstream", window="upstream"), 12, quiz)
    assert all(sorted(made.problem.tolist()) == list(range(40)) for made in plans)
    first = np.concatenate([made.source for made in plans[:3]])
    # A window of one beside max(ceil(3 / 3), floor(1 * 1)) = 1 replayed place: one in two.
    assert 0.35 < np.mean(first == REPLAY) < 0.65
    assert set(np.concatenate([made.error[made.source == WINDOW] for made in plans[:2]]).tolist()) == {E.NameError}
    assert {kind for made in plans[4:] for kind in made.error.tolist()} == {E.TypeError}
    assert all(set(made.error[made.source == REPLAY].tolist()) <= {E.TypeError} for made in plans)


def test_the_authors_replay_may_be_more_than_the_window() -> None:
    pools = [pool([E.NameError] * 3 + [E.TypeError] * 9)]
    quiz = {int(E.NameError): 1, int(E.TypeError): 7}
    made = run(pools, settings("ap2o-l2h", replay="upstream"), 12, quiz)[0]
    counts = Counter(zip(made.source.tolist(), made.error.tolist(), strict=True))
    assert counts == {(WINDOW, E.NameError): 1, (REPLAY, E.NameError): 1, (REPLAY, E.TypeError): 7}


def test_a_faster_window_gives_up_as_many_failures_as_the_run_it_stands_for() -> None:
    pools = [pool([E.NameError] * 30 + [E.TypeError] * 10)]
    for scope in ("problem", "global"):
        how = settings("ap2o-l2h", replay="off", scope=scope)
        plans = [plan_epoch(pools, how, epoch=epoch, epochs=2, quiz_errors={}, seed=0, pace=20) for epoch in range(2)]
        assert [len(made) for made in plans] == [2, 2]
        late = rejected([plan_epoch(pools, how, epoch=1, epochs=2, quiz_errors={}, seed=0, pace=20)])
        assert set(late) <= set(pools[0].failed[:30].tolist()), "the second half: the frequent type"
