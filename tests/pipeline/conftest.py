"""One tiny world and one finished run of it, shared by the tests of whole runs."""

from __future__ import annotations

import pytest
import tiny
from tiny import World

from ap2o_fast import config
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.run_folder import RunFolder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return tiny.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world: World) -> RunFolder:
    """An uninterrupted run."""
    folder = RunFolder.create(config.load(world.settings, [f"run_dir={world.folder / 'finished'}"]))
    with Pipeline(folder, quiet=True) as pipeline:
        pipeline.run()
    return folder
