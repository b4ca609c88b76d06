"""A loss that stays where it began is told, once, and only then."""

from __future__ import annotations

import logging

import pytest

from ap2o_fast.training.standstill import MOVED, STEPS, Standstill
from tests.training.test_step import BOOK, PLAN, make_trainer, references


def told(margins: list[float], warmup: int = 3, beta: float = 1.0) -> list[int]:
    """The steps after which something is told."""
    watch = Standstill(warmup, beta)
    lines = ({"step": n, "rewards/margins": margin, "learning_rate": 1e-9} for n, margin in enumerate(margins, 1))
    return [int(line["step"]) for line in lines if watch.see(line)]


def test_margins_that_do_not_move_are_told_once() -> None:
    assert told([0.0] * 100) == [3 + STEPS]
    assert told([-MOVED / 2] * 100) == [3 + STEPS]
    assert told([0.0] * (2 + STEPS)) == [], "too early to tell"


@pytest.mark.parametrize("sign", [-1, 1])
def test_one_that_moved_is_enough(sign: int) -> None:
    assert told([0.0] * 10 + [sign * MOVED] + [0.0] * 90) == []


def test_rewards_are_measured_by_their_beta() -> None:
    assert told([MOVED / 10] * 100, beta=1.0) == [3 + STEPS]
    assert told([MOVED / 10] * 100, beta=0.1) == []


def test_the_warm_up_does_not_count() -> None:
    assert told([1.0] * 3 + [0.0] * 100) == [3 + STEPS]


def test_a_loss_without_margins_is_left_alone() -> None:
    watch = Standstill(0, 0.1)
    assert not any(watch.see({"step": n, "learning_rate": 0.0, "loss": 1.0}) for n in range(1, 100))


@pytest.mark.parametrize(("lr", "count"), [(1e-12, 1), (1e-2, 0)])
def test_training_warns(lr: float, count: int, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(lr=lr, warmup=0.0)
    with caplog.at_level(logging.WARNING):
        assert len(list(trainer.train_steps([PLAN] * (STEPS + 3), BOOK, references(trainer)))) == STEPS + 3
    assert caplog.text.count("the weights hardly move") == count
