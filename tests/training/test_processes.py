"""Processes as torchrun starts them: one is killed, one fails, they are too many, or torchrun itself starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ap2o_fast.errors import DataError, MachineError, NumericalError, UsageError
from ap2o_fast.training import model_hash, score
from ap2o_fast.training.parallel.distributed import ALONE, World, any_rank, join, parts, together
from tests.training.processes import (
    PATIENCE,
    ROOT,
    environment,
    free_port,
    quiet_environment,
    run_together,
    torchrun,
)
from tests.training.test_sharding import BOOK, PLAN, make_trainer


def test_passes_are_as_many_everywhere_and_of_like_cost() -> None:
    worlds = [World(rank=rank, size=3) for rank in range(3)]
    assert [parts([1, 9, 4, 8, 5, 7, 2], world) for world in worlds] == [[1, 4, 0], [3, 2, None], [5, 6, None]]
    assert [parts([3], world) for world in worlds] == [[0], [None], [None]]
    assert parts([1, 9, 4], ALONE) == [0, 1, 2]


def train_until_the_other_dies(rank: int, port: int, news: Any) -> None:
    os.environ.update(environment(rank, 2, port))
    torch.set_num_threads(1)
    try:
        with join("cpu", deadline=60) as world:
            trainer = make_trainer(world)
            reference = score(trainer.model, BOOK, np.arange(len(BOOK)), 64, world=world)
            while True:
                trainer.train_step(PLAN, BOOK, reference)
                news.put(rank)
    except MachineError as error:
        news.put(str(error))


def test_a_killed_process_ends_the_others_with_its_name_on_it() -> None:
    context = multiprocessing.get_context("forkserver")
    with quiet_environment():
        news, port = context.Queue(), free_port()
        members = [
            context.Process(target=train_until_the_other_dies, args=(r, port, news), daemon=True) for r in (0, 1)
        ]
        for member in members:
            member.start()
    while news.get(timeout=PATIENCE) != 1:
        pass
    assert members[1].pid is not None
    os.kill(members[1].pid, signal.SIGKILL)
    told = news.get(timeout=PATIENCE)
    while told in (0, 1):
        told = news.get(timeout=PATIENCE)
    assert "another process of this run has ended or does not answer" in told
    members[0].join(PATIENCE)
    assert members[0].exitcode == 0


def disagree(world: World) -> None:
    """What goes wrong in one process is told in both."""

    def fail() -> int:
        if world.rank == 1:
            raise DataError("only here", do="nothing")
        return world.rank

    assert together(lambda: world.rank, world) == [0, 1]
    with pytest.raises(DataError, match="only here"):
        together(fail, world)
    assert any_rank(world.rank == 1, world)
    assert not any_rank(False, world)
    trainer = make_trainer(world)
    reference = score(trainer.model, BOOK, np.arange(len(BOOK)), 64, world=world)
    before = model_hash(trainer.model)
    with pytest.raises(NumericalError, match="score the book again"):
        # Of one pair's answers; the other process has an empty pass.
        trainer.train_step(PLAN[:1], BOOK, reference + 1)
    broken = []
    if world.rank == 1:
        layer = trainer.model.get_decoder().layers[1].mlp.down_proj
        broken.append(layer.register_forward_hook(lambda module, inputs, output: output * float("nan")))
    trainer.step = 1  # past the check of the references, which would see it
    with pytest.raises(NumericalError, match="step 2: loss is nan"):
        trainer.train_step(PLAN, BOOK, reference)
    assert model_hash(trainer.model) == before
    for hook in broken:
        hook.remove()
    assert trainer.train_step(PLAN, BOOK, reference)["step"] == 2
    assert model_hash(trainer.model) != before


def test_all_processes_agree_on_what_went_wrong() -> None:
    run_together(2, disagree)


def test_what_the_processes_cannot_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(0, 6, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="each takes a device of its own"), join("cuda:1"):
        pass
    with pytest.raises(UsageError, match="4 does not divide the 6 processes"), join("cpu", shard=4):
        pass
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(UsageError, match="LOCAL_RANK is not set"), join("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with join("cpu") as world:
        assert world == ALONE
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_program_of_the_page_trains_under_torchrun(tmp_path: Path) -> None:
    done = torchrun(str(ROOT / "tests" / "training" / "torchrun_program.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "step 2 of 2" in done.stdout
    assert (tmp_path / "trained" / "model.safetensors").exists()
    assert (tmp_path / "run" / "checkpoints" / "best" / "model.safetensors").exists()
    assert "refused: a loaded model cannot be divided among 2 processes" in done.stdout
