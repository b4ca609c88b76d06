"""Systems side by side: each in a process of its own, step by step in turn or one after another, gate before figures.

A process is forked after the imports and before anything touches a GPU, so that each starts at once, has the device's
memory for itself and can be ended. What it reports: seconds between steps, peak memory, and means of its metrics, by
which it must agree with the others.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

WARM_UP = 2
"""Intervals not counted at the beginning; the last does not count either, because ours has no step to launch then."""
GIB = 2**30
Train = Callable[[Callable[[], None]], Mapping[str, float]]


@dataclass(kw_only=True)
class Runner:
    """What became of one system.

    Attributes:
        peak_gib: most that its tensors took, on the CPU its process beyond the imports.
        reserved_gib: most that torch's allocator held on a GPU, what it could not use included.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    peak_gib: float = 0.0
    reserved_gib: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    failed: str = ""

    @property
    def median(self) -> float:
        """Seconds a step."""
        return statistics.median(self.seconds)


def race(systems: Mapping[str, Train], *, device: str, in_turn: bool, limit: float = 240.0) -> list[Runner]:
    """Run each system to its end.

    Args:
        systems: by name, functions that train and call `tick` when they are ready and after each step.
        in_turn: one step of each in turn, all in memory at once; else one system after another.
        limit: seconds that one may take between two ticks.
    """
    if in_turn:
        return _alternate([_Lane(name, train, device, limit) for name, train in systems.items()])
    return [runner for name, train in systems.items() for runner in _alternate([_Lane(name, train, device, limit)])]


class _Lane:
    """A system's process and the permits it waits for."""

    def __init__(self, name: str, train: Train, device: str, limit: float) -> None:
        self.runner, self.limit = Runner(name=name), limit
        ours, theirs = multiprocessing.Pipe()
        self.pipe: Connection = ours
        self.process = _context(device).Process(target=_run, args=(train, device, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.intervals: list[float] = []
        self.at_work = True

    def step(self) -> None:
        """Wait for the next tick, and note how long it took."""
        try:
            if not self.pipe.poll(self.limit):
                raise TimeoutError(f"no step within {self.limit:.0f} s")
            what, *values = self.pipe.recv()
        except (EOFError, OSError, TimeoutError) as error:
            what, values = "failed", [str(error) or f"the process ended ({self.process.exitcode})"]
        if what == "tick":
            self.intervals.append(values[0])
            return
        self.at_work = False
        if what == "end":
            self.runner.metrics = values[0]
            self.runner.peak_gib, self.runner.reserved_gib = (size / GIB for size in values[1:])
            self.runner.seconds = self.intervals[1 + WARM_UP : -1]
        else:
            self.runner.failed = values[0]
        self.process.join(5)
        self.process.kill()

    def permit(self) -> None:
        with contextlib.suppress(OSError):  # it has ended; the next step says why
            self.pipe.send("go")


@functools.cache
def _context(device: str) -> Any:
    """Forking, or, where some import has touched the GPU already, which a fork does not survive, starting anew."""
    fork = multiprocessing.get_context("fork")
    if device != "cuda":
        return fork
    with fork.Pool(1) as one:
        forked_badly = one.apply(_forked_badly)
    if forked_badly:
        print("a package has touched the GPU while it was imported: every system is imported anew", file=sys.stderr)
    return multiprocessing.get_context("spawn") if forked_badly else fork


def _forked_badly() -> bool:
    return bool(torch.cuda._is_in_bad_fork())


def _alternate(lanes: list[_Lane]) -> list[Runner]:
    for lane in lanes:
        lane.step()  # ready
    while any(lane.at_work for lane in lanes):
        for lane in lanes:
            if lane.at_work:
                lane.permit()
                lane.step()
    return [lane.runner for lane in lanes]


def _run(train: Train, device: str, pipe: Connection) -> None:
    last = time.perf_counter()

    def tick() -> None:
        nonlocal last
        pipe.send(("tick", time.perf_counter() - last))
        pipe.recv()
        last = time.perf_counter()

    try:
        before = _status("VmRSS") if device == "cpu" else 0
        metrics = dict(train(tick))
        if device == "cpu":
            pipe.send(("end", metrics, _status("VmHWM") - before, 0))
        else:
            pipe.send(("end", metrics, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()))
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = next(iter(str(error).strip().splitlines()), "")[:200]
        short = (
            "out of memory" if isinstance(error, torch.cuda.OutOfMemoryError) else f"{type(error).__name__}: {message}"
        )
        pipe.send(("failed", f"{short} ({Path(where.filename).name}:{where.lineno})"))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def disagree(runner: Runner, right: Runner, tolerance: float) -> str:
    """Why a system's figures may not be shown beside `right`'s, or nothing: log-probabilities or losses differ."""
    for name in ("logps/chosen", "logps/rejected", "loss"):
        off = abs(runner.metrics[name] - right.metrics[name]) / abs(right.metrics[name])
        if not off <= tolerance:
            return f"red: {name} {runner.metrics[name]:.5g}, ours {right.metrics[name]:.5g}"
    return ""
