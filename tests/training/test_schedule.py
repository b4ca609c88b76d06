"""Learning rates of short runs: none trains on nothing without saying so."""

from __future__ import annotations

import pytest

from ap2o_fast.config import TrainSettings
from ap2o_fast.training.optimizer.schedule import Schedule


def shares(total: int, warmup: float = 0.1) -> list[float]:
    schedule = Schedule.of(TrainSettings(warmup=warmup), total)
    return [schedule.share(done) for done in range(total + 1)]


def test_every_run_has_a_step_that_moves_weights() -> None:
    for total in range(1, 30):
        for warmup in (0.0, 0.1, 0.5, 0.99):
            assert max(shares(total, warmup)[:-1]) > 0, (total, warmup)
    assert shares(1) == [1.0, 0.0]
    assert shares(2) == [0.0, 1.0, 0.0]
    # As transformers' linear schedule, which TRL takes.
    assert shares(20) == pytest.approx([0, 0.5, *(1 - i / 18 for i in range(19))])


def test_what_a_warm_up_costs_a_short_run_is_told() -> None:
    assert "first of 2 optimiser steps has learning rate 0" in Schedule.of(TrainSettings(), 2).note()
    assert "train.warmup=0" in Schedule.of(TrainSettings(), 9).note()
    assert not Schedule.of(TrainSettings(), 10).note()
    assert not Schedule.of(TrainSettings(), 1).note()
    assert not Schedule.of(TrainSettings(warmup=0), 2).note()
