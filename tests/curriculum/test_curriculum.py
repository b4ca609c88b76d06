"""Ordering, window, replay and whole plans, checked against the paper's definitions by hand-made exams."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook, Row
from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum import REPLAY, WINDOW, Pool, make_pools, plan_epoch, window_pairs
from ap2o_fast.curriculum.order import by_frequency, window
from ap2o_fast.curriculum.replay import draw_replay, shares
from ap2o_fast.judge.verdict import ErrorType as E
from ap2o_fast.judge.verdict import Verdict


def pool(errors: list[E], problem: int = 0, passed: int = 3) -> Pool:
    """Rows are numbered passed first, then failed, offset by 100 a problem."""
    start = 100 * problem
    return Pool(
        problem=problem,
        passed=np.arange(start, start + passed),
        failed=np.arange(start + passed, start + passed + len(errors)),
        errors=np.array(errors, dtype=np.uint8),
    )


MIXED = [E.NameError, E.TypeError, E.NameError, E.ValueError, E.NameError, E.TypeError, E.KeyError]


def ordered(high_first: bool) -> list[E]:
    mixed = pool(MIXED)
    return [E(code) for code in mixed.errors[by_frequency(mixed, high_first=high_first)]]


def test_high_to_low_goes_from_frequent_to_rare_and_keeps_types_together() -> None:
    assert ordered(True) == [E.NameError] * 3 + [E.TypeError] * 2 + [E.ValueError, E.KeyError]


def test_low_to_high_goes_from_rare_to_frequent_and_keeps_tied_types_together() -> None:
    assert ordered(False) == [E.ValueError, E.KeyError] + [E.TypeError] * 2 + [E.NameError] * 3
    tied = pool([E.TypeError, E.KeyError, E.TypeError, E.KeyError])
    kinds = [E(code) for code in tied.errors[by_frequency(tied, high_first=False)]]
    assert kinds == [E.TypeError] * 2 + [E.KeyError] * 2


@pytest.mark.parametrize("failures", [1, 2, 3, 7, 50, 97, 100, 401])
@pytest.mark.parametrize("epochs", [1, 3, 10, 200])
def test_window_has_the_papers_width_slides_forward_and_covers_everything(failures: int, epochs: int) -> None:
    windows = [window(failures, epoch, epochs) for epoch in range(epochs)]
    assert {position for span in windows for position in span} == set(range(failures))
    assert all(len(span) == -(-failures // epochs) for span in windows)
    assert all(a.start <= b.start for a, b in zip(windows, windows[1:], strict=False))


def test_shares_split_by_largest_remainder() -> None:
    assert shares({1: 5, 2: 3, 3: 2}, 4) == {1: 2, 2: 1, 3: 1}
    assert shares({1: 1, 2: 1}, 1) == {1: 1, 2: 0}
    assert shares({}, 4) == {}
    assert sum(shares({kind: kind for kind in range(1, 8)}, 11).values()) == 11


def test_replay_draws_only_types_that_the_quiz_shows_in_its_ratio() -> None:
    mixed = pool(MIXED).replayed
    quiz = {int(E.NameError): 3, int(E.TypeError): 1, int(E.OSError): 9}
    drawn = draw_replay(mixed, quiz, 4, np.random.default_rng(0))
    assert Counter(mixed.errors[drawn].tolist()) == {E.NameError: 3, E.TypeError: 1}
    assert len(set(drawn)) == 4, "enough failures of each type: none twice"
    assert len(draw_replay(mixed, {int(E.OSError): 9}, 4, np.random.default_rng(0))) == 0


def plan(system: str, quiz: dict[int, int] | None = None, epoch: int = 0, seed: int = 0, **settings: object):
    pools = [pool(MIXED, problem=0), pool([E.ValueError] * 4, problem=1)]
    chosen = CurriculumSettings.model_validate({"system": system, **settings})
    return plan_epoch(pools, chosen, epoch=epoch, epochs=3, quiz_errors=quiz or {}, seed=seed)


@pytest.mark.parametrize("system", ["dyn-dpo", "ap2o-l2h", "ap2o-h2l"])
def test_pairs_join_a_passed_and_a_failed_answer_of_one_problem(system: str) -> None:
    made = plan(system, {int(E.NameError): 1})
    assert (made.chosen // 100 == made.problem).all() and (made.rejected // 100 == made.problem).all()
    assert (made.chosen % 100 < 3).all() and (made.rejected % 100 >= 3).all()
    changes = np.count_nonzero(np.diff(made.problem))
    assert changes == 1, "the pairs of a problem are adjacent"


def test_an_epochs_windows_reject_every_failure_over_the_run() -> None:
    rejected = {row for epoch in range(3) for row in plan("ap2o-l2h", epoch=epoch).rejected.tolist()}
    assert rejected == set(range(3, 10)) | set(range(103, 107))


def test_replay_doubles_the_pairs_and_dyn_dpo_has_none() -> None:
    quiz = {int(E.NameError): 2, int(E.ValueError): 2}
    sources = Counter(plan("ap2o-l2h", quiz).source.tolist())
    assert sources[WINDOW] == sources[REPLAY] == 5
    assert Counter(plan("ap2o-l2h", quiz, replay="off").source.tolist()) == {WINDOW: 5}
    assert Counter(plan("dyn-dpo", quiz).source.tolist()) == {WINDOW: 5}


def test_chance_depends_on_seed_and_epoch_alone() -> None:
    one, again, other = plan("dyn-dpo"), plan("dyn-dpo"), plan("dyn-dpo", seed=1)
    assert one.rejected.tolist() == again.rejected.tolist() and one.chosen.tolist() == again.chosen.tolist()
    assert one.rejected.tolist() != other.rejected.tolist() or one.chosen.tolist() != other.chosen.tolist()


def test_steps_are_cut_by_window_pairs_so_that_their_number_does_not_depend_on_the_quiz() -> None:
    calm, busy = plan("ap2o-l2h"), plan("ap2o-l2h", {int(E.ValueError): 1})
    for made in (calm, busy):
        steps = list(made.steps(2))
        assert [np.count_nonzero(step.source == WINDOW) for step in steps] == [2, 2, 1]
        assert np.concatenate([step.rejected for step in steps]).tolist() == made.rejected.tolist()
    pools = [pool(MIXED, problem=0), pool([E.ValueError] * 4, problem=1)]
    assert window_pairs(pools, CurriculumSettings(), epoch=0, epochs=3, seed=0) == 5


def test_pairs_per_problem_limits_the_window_and_its_replay() -> None:
    made = plan("ap2o-h2l", {int(E.NameError): 1}, pairs_per_problem=1)
    assert Counter(zip(made.problem.tolist(), made.source.tolist(), strict=True)) == {
        (0, WINDOW): 1,
        (0, REPLAY): 1,
        (1, WINDOW): 1,
    }


def test_pools_drop_repeated_flaky_and_unjudged_answers_and_say_why(tmp_path: Path) -> None:
    answers = {
        "good": [(1, E.Passed), (1, E.Passed), (2, E.Passed), (3, E.NameError), (4, E.TypeError), (5, E.Unjudgeable)],
        "one-pass": [(1, E.Passed), (1, E.Passed), (3, E.NameError), (4, E.TypeError)],
        "no-fail": [(1, E.Passed), (2, E.Passed), (3, E.SandboxFailure), (4, E.NameError)],
        "flaky": [(1, E.Passed), (2, E.Passed), (2, E.TimeoutError), (3, E.NameError), (4, E.NameError)],
        "judged twice": [(1, E.Passed), (2, E.Passed), (2, E.Flaky), (3, E.TypeError), (4, E.TypeError), (3, E.Flaky)],
    }
    answers = {"broken": [(1, E.Unjudgeable), (2, E.Unjudgeable)], **answers}
    with ErrorBook.create(tmp_path / "book") as book:
        for task_id, given in answers.items():
            book.add_problem(task_id, np.array([7], dtype=np.int32), "def f():")
            book.append([row(task_id, sample, token, error) for sample, (token, error) in enumerate(given)])
        book.commit()
        pools, dropped = make_pools(book, CurriculumSettings())
        assert [book.task_ids[made.problem] for made in pools] == ["good"]
        assert (pools[0].passed - 2).tolist() == [0, 2] and (pools[0].failed - 2).tolist() == [3, 4]
        assert dropped["broken"] == "none of 2 answers could be judged: the judge's word on Unjudgeable"
        assert pools[0].errors.tolist() == [E.NameError, E.TypeError]
        assert dropped["one-pass"].startswith("1 distinct passed") and dropped["no-fail"].startswith(
            "1 distinct failed"
        )
        assert dropped["flaky"].startswith("1 distinct passed"), "answer 2 passed once and timed out once"
        assert dropped["judged twice"].startswith("1 distinct passed"), "answer 2 was found flaky once"
        lenient = CurriculumSettings(min_passed=1, min_failed=1)
        (kept,) = [one for one in make_pools(book, lenient)[0] if book.task_ids[one.problem] == "judged twice"]
        start = sum(len(given) for given in list(answers.values())[:-1])
        assert (kept.passed - start).tolist() == [0] and (kept.failed - start).tolist() == [4]


def row(task_id: str, sample: int, token: int, error: E) -> Row:
    return Row(
        task_id=task_id,
        round=0,
        sample=sample,
        seed=sample,
        policy="init",
        token_ids=np.array([token, 2], dtype=np.int32),
        logprobs=np.zeros(2, dtype=np.float32),
        text="",
        code="",
        finish="stop",
        verdict=Verdict(error=error, message=f"the judge's word on {error.name}"),
    )
