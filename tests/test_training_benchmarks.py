"""The comparison of training steps: systems take turns, faults are told, every rung computes the same loss."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.training import compare, ladder, ours
from benchmarks.training.cases import Case
from benchmarks.training.race import WARM_UP, Runner, disagree, race

CASE = Case(shape="tiny", lengths="mbpp", problems=2, steps=2)
RIGHT = {"logps/chosen": -10.0, "logps/rejected": -11.0, "loss": 0.69}


def train(log: Path, name: str, steps: int, tick: Callable[[], None]) -> Mapping[str, float]:
    """Writes down when each step begins and ends, and computes for a while in between."""
    tick()
    for _ in range(steps):
        with log.open("a") as file:
            file.write(f"{name} begins\n")
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        with log.open("a") as file:
            file.write(f"{name} ends\n")
        tick()
    return RIGHT


def broken(tick: Callable[[], None]) -> Mapping[str, float]:
    tick()
    raise ValueError("no such thing")


def dies(tick: Callable[[], None]) -> Mapping[str, float]:
    tick()
    os._exit(9)


def test_systems_take_turns_step_by_step(tmp_path: Path) -> None:
    log, names = tmp_path / "log", ("one", "two", "three")
    runners = race(
        {name: functools.partial(train, log, name, 6) for name in names}, device="cpu", in_turn=True, limit=60
    )
    assert log.read_text().splitlines() == [
        f"{name} {what}" for _ in range(6) for name in names for what in ("begins", "ends")
    ]
    for runner in runners:
        assert len(runner.seconds) == 6 - WARM_UP - 1 and min(runner.seconds) > 0.015
        assert runner.metrics == RIGHT and runner.peak_gib > 0


def test_what_fails_is_told_and_ends_nobody_else(tmp_path: Path) -> None:
    systems = {"broken": broken, "dies": dies, "fine": functools.partial(train, tmp_path / "log", "fine", 6)}
    found = {runner.name: runner for runner in race(systems, device="cpu", in_turn=True, limit=60)}
    assert found["broken"].failed.startswith("ValueError: no such thing")
    assert found["dies"].failed and not found["fine"].failed
    rows = compare.rows(CASE, "cpu", [found["fine"], found["broken"]])
    assert "seconds" in rows[0] and rows[1]["not_timed"].startswith("ValueError")


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_figures_of_another_computation_are_refused(name: str, factor: float) -> None:
    right = Runner(name="ours", metrics=RIGHT)
    assert not disagree(Runner(name="peer", metrics=RIGHT), right, 1e-4)
    assert name in disagree(Runner(name="peer", metrics=RIGHT | {name: RIGHT[name] * factor}), right, 1e-4)


def test_every_rung_computes_what_ours_does() -> None:
    def tick() -> None:
        pass

    right = Runner(name="ours", metrics=ours.train(CASE, "cpu", {}, tick))
    operations = []
    for rung in ladder.RUNGS[:-1]:  # Liger's layers need a GPU
        found = ladder.train(CASE, "cpu", rung, tick)
        assert not disagree(Runner(name=rung, metrics=found), right, 1e-4), rung
        operations.append(found["flops"])
    assert operations[:4] == sorted(operations[:4], reverse=True), "each lever but the head's saves operations"
