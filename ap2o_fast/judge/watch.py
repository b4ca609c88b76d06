"""One answer's process as its parent sees it: its limits of CPU time, wall time and output, its end, what it used."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from typing import Any

from ap2o_fast.judge.wire import Channel

_SHORTEST_NAP = 0.005
_ENDING_SECONDS = 0.5
BEGIN, GONE, KILL = b"b", b"g", b"k"


class Watch:
    """Watches a child process from its fork on; its limits count from `BEGIN`.

    Args:
        process: the child.
        output: the reading end of what it prints.
        control: takes `BEGIN`, then `KILL`, or `GONE` where the answer's channel has closed; its closing is `KILL`.
        limits: cpu and wall in seconds, output in bytes.

    Attributes:
        process, control: as given.
        descriptors: to be polled for reading and given to `react`.
        due: when (`time.monotonic`) `check` is to be called at the latest.
        ended: the process is to be ended or has ended; `finish` is next.
    """

    def __init__(self, process: int, output: int, control: Channel, limits: dict[str, Any]) -> None:
        self.process = process
        self.due = math.inf
        self.ended = False
        self._handle = os.pidfd_open(process)
        self._output = output
        self.control = control
        self._limits = limits
        self._clock = (~process << 3) | 2  # clock_getcpuclockid(3): the CPU clock of another process
        self._start = math.inf
        self._leaving = False
        self._killed = ""
        self._printed = 0
        os.set_blocking(output, False)
        self.descriptors = (self._handle, output, control.fileno())

    def react(self, descriptor: int) -> bool:
        """Take what has come on one of the descriptors; False if nothing more will."""
        if descriptor == self._handle:
            self.ended = True
            return False
        if descriptor == self._output:
            count = len(os.read(self._output, 1 << 16))
            self._printed += count
            if self._printed > self._limits["output"]:
                self._end("output")
            return count > 0
        order = os.read(descriptor, 1)
        if order == BEGIN:
            self._start = self.due = time.monotonic()
        elif order == GONE:
            # Leave a process that is just ending the time to show how.
            self._leaving = True
            self.due = time.monotonic() + _ENDING_SECONDS
        else:
            self._end("asked")
        return bool(order)

    def check(self) -> None:
        """Compare with the limits of time."""
        now = time.monotonic()
        if now < self.due:
            return
        cpu_left = self._limits["cpu"] - self._cpu()
        wall_left = self._start + self._limits["wall"] - now
        if cpu_left <= 0 or wall_left <= 0:
            self._end("cpu" if cpu_left <= 0 else "wall")
        elif self._leaving:
            self._end("asked")
        # One process with one thread cannot use more CPU time than passes.
        self.due = now + max(min(cpu_left, wall_left), _SHORTEST_NAP)

    def finish(self) -> dict[str, Any]:
        """Kill it if it lives; return how it ended and what it used. The watch is over; `control` stays open.

        A process that ended before its answer began gives ``failed`` instead.
        """
        if self._start == math.inf and not self._killed:
            # Both may have come at once.
            begun = bool(select.select([self.control], [], [], 0)[0]) and os.read(self.control.fileno(), 1) == BEGIN
        else:
            begun = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        _, status, usage = os.wait4(self.process, 0)
        with contextlib.suppress(BlockingIOError):
            while self._printed <= self._limits["output"] and (count := len(os.read(self._output, 1 << 16))):
                self._printed += count
        os.close(self._handle)
        os.close(self._output)
        if not begun:
            return {"failed": f"a jail ended while it waited for its answer (status {status})"}
        return {
            "killed": self._killed,
            "status": status,
            "cpu": usage.ru_utime + usage.ru_stime,
            "peak_mib": usage.ru_maxrss / 1024,
            "output": self._printed,
        }

    def _end(self, why: str) -> None:
        self._killed = self._killed or why
        self.ended = True

    def _cpu(self) -> float:
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # it has just ended; the process handle says so
            return 0.0
