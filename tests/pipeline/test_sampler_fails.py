"""A sampler that fails in the middle of a round: what it answered before is judged and kept, the rest is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tiny import World

from ap2o_fast import config
from ap2o_fast.errors import MachineError
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.sampling import Answer


class Dies:
    """Answers two groups as the honest one does."""

    def __init__(self, honest: Any) -> None:
        self.honest = honest
        self.keys: set[tuple[str, int]] = set()

    def sample(self, requests: Any, **how: Any) -> Iterator[list[Answer]]:
        groups = self.honest.sample(requests, **how)
        for _ in range(2):
            group = next(groups)
            self.keys |= {(answer.task_id, answer.sample) for answer in group}
            yield group
        raise MachineError("the engine has died")


def test_answers_before_a_failure_are_in_the_book(world: World, finished: RunFolder) -> None:
    folder = RunFolder.create(config.load(world.settings, [f"run_dir={world.folder / 'dies'}"]))
    with Pipeline(folder, quiet=True) as pipeline:
        pipeline.use_initial()
        honest, dies = pipeline.sampler, Dies(pipeline.sampler())
        pipeline.sampler = lambda: dies  # type: ignore[method-assign]
        with pytest.raises(MachineError, match="has died"):
            pipeline.exam()
        assert pipeline.book("exam").done(0) == dies.keys and dies.keys
        pipeline.sampler = honest  # type: ignore[method-assign]
        pipeline.exam()
        book = pipeline.book("exam")
        with Pipeline(finished, quiet=True) as other:
            whole = other.book("exam")
            assert book.done(0) == whole.done(0)
            assert np.array_equal(np.sort(book.column("seed")), np.sort(whole.column("seed")))
