"""What the first process does for all, and the folder that all must see."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ap2o_fast.config import Config
from ap2o_fast.errors import DataError, MachineError, UsageError
from ap2o_fast.processes import SharedFolder, create_folder
from ap2o_fast.training.parallel.distributed import World
from ap2o_fast.training.parallel.team import Team
from tests.training.processes import run_together


def lead_and_follow(world: World) -> None:
    team, done = Team(world), list[int]()

    def lead() -> list[int]:
        done.append(world.rank)
        task = team.share(10)
        from_other = team.results(task, 1)
        return [next(from_other), next(from_other), team.first(lambda: 12)]

    def helper(about: int) -> Generator[int, None, None]:
        done.append(world.rank)
        yield from (about, about + 1)

    assert team.first(lead, helper) == [10, 11, 12]
    assert done == [world.rank]

    def fail() -> None:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(ZeroDivisionError if team.leads else MachineError, match="by nothing"):
        team.first(fail)

    def failing(about: int) -> Generator[int, None, None]:
        yield about
        raise DataError("in the helper", do="nothing")

    with pytest.raises(DataError, match="in the helper"):
        team.first(lambda: list(team.results(team.share(1), 1)), failing)
    endless: list[int] = []

    def helps_for_ever(about: int) -> Generator[int, None, None]:
        while True:
            endless.append(about)
            yield about

    def give_up() -> None:
        next(team.results(team.share(2), 1))
        raise DataError("the first has had enough", do="nothing")

    with pytest.raises(DataError, match="had enough"):
        team.first(give_up, helps_for_ever)
    assert bool(endless) != team.leads
    assert team.first(lambda: "and go on") == "and go on"


def test_the_first_acts_and_the_others_help_and_are_told() -> None:
    run_together(2, lead_and_follow)


def look(world: World, folder: Path) -> None:
    config = Config(run_dir=str(folder / "run"))
    made = create_folder(config, world, join=False)
    team = Team(world)
    shared = SharedFolder(path=made.path, config=config, team=team)
    shared.check_seen()
    shared.append("lines.jsonl", {"n": 1})
    assert shared.read_lines("lines.jsonl") == [{"n": 1}]
    with pytest.raises(UsageError, match="already holds this run"):
        create_folder(config, world, join=False)
    there: dict[str, Any] = {"path": made.path, "config": config, "team": team}
    with pytest.raises(DataError, match="process 1 does not see the run folder"):
        SharedFolder(**there | ({"path": folder / "elsewhere"} if world.rank else {})).check_seen()
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(UsageError, match="process 1 was started with other settings"):
        SharedFolder(**there | ({"config": other} if world.rank else {})).check_seen()


def test_all_must_see_the_folder_and_mean_the_same_run(tmp_path: Path) -> None:
    run_together(2, look, tmp_path)
