"""Traces of chosen steps, for chrome://tracing or ui.perfetto.dev. Other steps pay nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ap2o_fast.errors import MachineError, UsageError


class StepProfiler:
    """Records the optimiser steps `train.profile_steps` into one trace.

    Args:
        steps: `3` or `3-5`, counted from 1; empty records none.
        folder: where ``steps-3-5.json.gz`` goes; it is made when there is something to write.

    Errors: `UsageError` for steps that cannot be read.
    """

    def __init__(self, steps: str, folder: Path) -> None:
        self.first, self.last = parse_steps(steps)
        self.folder = folder
        self._running: profile | None = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the optimiser step of this number. An error in it ends the recording, and no trace is written.

        Errors: `MachineError` where the trace cannot be written.
        """
        if not self.first <= number <= self.last:
            yield
            return
        if self._running is None:
            self._running = _started()
        try:
            with record_function(f"step {number}"):
                yield
        except BaseException:
            self._stop()
            raise
        if number == self.last:
            self._write(self._stop())

    def _stop(self) -> profile:
        assert self._running is not None
        running, self._running = self._running, None
        running.stop()
        return running

    def _write(self, recorded: profile) -> None:
        path = self.folder / f"steps-{self.first}-{self.last}.json.gz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            recorded.export_chrome_trace(str(path))
        except OSError as error:
            raise MachineError(
                f"cannot write the trace {path}",
                why=str(error),
                do="free some disk space, or empty train.profile_steps",
            ) from error


def parse_steps(text: str) -> tuple[int, int]:
    """First and last step of `3-5` or `3`; (0, -1), which holds no step, of an empty text.

    Errors: `UsageError` for anything else.
    """
    if not text:
        return 0, -1
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise UsageError(
            f"train.profile_steps={text!r} names no steps", do="write a step or a range of them, 3 or 3-5, from 1 on"
        )
    return first, last


def _started() -> profile:
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    running = profile(activities=activities, record_shapes=True)
    running.start()
    return running
