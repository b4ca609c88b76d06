"""The examiners of one supervisor: a process a problem, the latest of them kept alive for more answers."""

from __future__ import annotations

import collections
import os
import socket
from typing import Any

from ap2o_fast.judge import jail, kernel
from ap2o_fast.judge.examiner import Examiner
from ap2o_fast.judge.helper import Helper
from ap2o_fast.judge.wire import Channel, Closed, adopt

_ALIVE = 8
# Of problems in wire form. They are kept compiled, so that an examiner that is wanted again costs a fork.
_KNOWN_BYTES = 8 << 20
_TASK_SECONDS = 10.0
_MEMORY_MIB = 8192


class Examiners:
    """Knows problems by key and has an examiner run for each that is asked for."""

    def __init__(self, features: jail.Features) -> None:
        self._walls = jail.Walls(features, jail.EXAMINER, work=None)
        self._known: collections.OrderedDict[str, tuple[Examiner, int]] = collections.OrderedDict()
        self._bytes = 0
        self._alive: collections.OrderedDict[str, Helper] = collections.OrderedDict()
        self._ending: list[Helper] = []

    def learn(self, key: str, problem: dict[str, Any], size: int) -> None:
        """Compile a problem of `size` bytes; forget those that were wanted least lately."""
        self._known[key] = (Examiner(problem), size)
        self._bytes += size
        while self._bytes > _KNOWN_BYTES and len(self._known) > 1:
            oldest, (_, freed) = self._known.popitem(last=False)
            self._bytes -= freed
            self.end(oldest)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def get(self, key: str) -> Channel:
        """The channel to the examiner of a known problem; takes an answer's channel with its task, gives a finding."""
        self._known.move_to_end(key)
        if key not in self._alive:
            if len(self._alive) == _ALIVE:
                self.end(next(iter(self._alive)))
            examiner = self._known[key][0]
            self._alive[key] = Helper(lambda end: _serve(end, examiner, self._walls), self._walls.descriptors)
        self._alive.move_to_end(key)
        return self._alive[key].channel

    def end(self, key: str) -> None:
        """End the examiner of a problem, if it runs; it starts anew when it is wanted."""
        if key in self._alive:
            self._alive[key].kill()
            # Nobody waits for its end: it takes as long as a short answer.
            self._ending.append(self._alive.pop(key))
        self._ending = [helper for helper in self._ending if not helper.reap(wait=False)]

    def close(self) -> None:
        """End them all."""
        for key in list(self._alive):
            self.end(key)
        for helper in self._ending:
            helper.reap(wait=True)
        self._ending = []


def _serve(end: socket.socket, examiner: Examiner, walls: jail.Walls) -> None:
    """The examiner's process: judge one answer after another until the supervisor is gone."""
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    kernel.take(jail.confine(walls, memory_mib=_MEMORY_MIB, cpu_seconds=None))
    walls.close()
    supervisor = Channel(end)
    while True:
        try:
            (descriptor,), task = supervisor.take(1, timeout=_TASK_SECONDS)
            answer = Channel(adopt(descriptor))
            finding = examiner.examine(answer, task["code"], task["mode"])
            answer.close()
            supervisor.send(finding, timeout=_TASK_SECONDS)
        except Closed:
            return
