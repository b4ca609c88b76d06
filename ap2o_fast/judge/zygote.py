"""The warm fork server: parent of one jailed process an answer, watching each until it ends or must be ended.

It never sees a problem, a test or an answer: an answer's process inherits its memory. A jail is built before its
answer is known and waits; it serves one answer and is gone. With a pid namespace the kernel ends whatever an answer
started; without one the fork server does, being the parent of all orphans.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import math
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

from ap2o_fast.judge import jail, kernel, leftovers
from ap2o_fast.judge.child import run_answer
from ap2o_fast.judge.languages import LANGUAGES
from ap2o_fast.judge.languages.python import rehearse
from ap2o_fast.judge.watch import Watch
from ap2o_fast.judge.wire import Channel, Closed, adopt

# What answers import most: loaded once, so that a fork has them for nothing.
_WARM = (
    *("abc", "array", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "heapq", "itertools", "json", "math", "numbers", "operator", "random", "re"),
    *("statistics", "string", "time", "typing"),
)
_CHANNEL_FD = 3
_BEYOND = 164


def serve(end: socket.socket, features: jail.Features) -> None:
    """Enter the namespaces, then fork a jail for each request until the supervisor is gone. Never returns.

    A request is one byte with two descriptors (the answer's channel, the jail's control), then a frame of limits.
    The control then takes the bytes of `Watch`; it gives a frame with how the process ended and what it used, or with
    ``failed``, the reason why there is none.
    """
    _warm()
    sys.dont_write_bytecode = True
    kernel.warm()
    readable = jail.interpreter_paths()
    sys.path[:] = [path for path in sys.path if any(path.startswith(kept) for kept in readable)]
    channel = Channel(end)
    if not features.namespaces:
        jail.enter_namespaces()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    server = _Server(channel, features)
    rehearse()
    gc.collect()
    gc.freeze()
    channel.send(["ready"])
    server.run()


def _warm() -> None:
    """Import what answers want, without the hooks that would run in each of their processes.

    `random` would be seeded from the kernel; all answers shall begin with the same state. `threading` would look for
    threads to forget; there are none.
    """
    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        for name in _WARM:
            importlib.import_module(name)
    finally:
        os.register_at_fork = register
    importlib.import_module("random").seed(0)
    warnings.simplefilter("ignore")


class _Server:
    def __init__(self, requests: Channel, features: jail.Features) -> None:
        self._requests = requests
        self._features = features
        # Above the four descriptors of an answer, so that nothing opened later sits where one of them belongs.
        while (null := os.open("/dev/null", os.O_RDONLY)) <= _CHANNEL_FD:
            pass
        self._null = null
        self._watches: set[Watch] = set()
        self._owners: dict[int, Watch] = {}  # of the descriptors that are polled
        self._poll = select.poll()
        self._poll.register(requests.fileno(), select.POLLIN)
        # With namespaces an answer's folder and processes end with it, and one pair of walls serves a whole language.
        self._walls: dict[str, jail.Walls] = {}
        self._steps: dict[tuple[object, ...], list[kernel.Step]] = {}
        self._folders: dict[int, str] = {}  # without namespaces: of each process
        if features.namespaces:
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        else:
            self._begin = jail.fork()

    def run(self) -> None:
        """Serve until the supervisor is gone. Never returns."""
        while True:
            due = min((watch.due for watch in self._watches), default=math.inf)
            nap = None if due == math.inf else max(0.0, due - time.monotonic()) * 1000
            for descriptor, _ in self._poll.poll(nap):
                if descriptor == self._requests.fileno():
                    try:
                        (answer, control), limits = self._requests.take(2, timeout=10)
                    except (Closed, TimeoutError):
                        for watch in list(self._watches):
                            self._close(watch)
                        os._exit(0)
                    self._open(answer, Channel(adopt(control)), limits)
                elif not self._owners[descriptor].react(descriptor):
                    self._forget(descriptor)
            for watch in list(self._watches):
                watch.check()
                if watch.ended:
                    self._close(watch)

    def _open(self, answer: int, control: Channel, limits: dict[str, Any]) -> None:
        """Fork a jail and watch it."""
        reader, writer = os.pipe()
        try:
            child = self._fork((self._null, writer, writer, answer), limits)
            watch = Watch(child, reader, control, limits)
        except OSError as error:
            os.close(reader)
            _report(control, {"failed": str(error)})
            return
        finally:
            os.close(writer)
            os.close(answer)
        self._watches.add(watch)
        for descriptor in watch.descriptors:
            self._owners[descriptor] = watch
            self._poll.register(descriptor, select.POLLIN)

    def _fork(self, kept: Sequence[int], limits: dict[str, Any]) -> int:
        language = limits["language"]
        policy = LANGUAGES[language].policy()
        if not self._features.namespaces:
            if language not in self._walls:
                self._walls[language] = jail.Walls(self._features, policy)
            walls = self._walls[language]
            key = (language, limits["memory_mib"], limits["cpu"])
            if key not in self._steps:
                self._steps.clear()
                self._steps[key] = _jail_steps(walls, None, limits)
            child = self._begin()
            if child == 0:
                _become_answer(kept, self._steps[key], walls, jail.BOX, limits)
            return child
        folder = leftovers.new_folder()
        walls = jail.Walls(self._features, policy, work=folder)
        steps = _jail_steps(walls, folder, limits)
        child = os.fork()
        if child == 0:
            _become_answer(kept, steps, walls, folder, limits)
        walls.close()
        self._folders[child] = folder
        return child

    def _close(self, watch: Watch) -> None:
        """End the process and all that it left; report."""
        self._watches.remove(watch)
        for descriptor in watch.descriptors:
            if descriptor in self._owners:
                self._forget(descriptor)
        run = watch.finish()
        if watch.process in self._folders:
            leftovers.kill_orphans({other.process for other in self._watches})
            leftovers.remove(self._folders.pop(watch.process))
        _report(watch.control, run)

    def _forget(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._owners[descriptor]


def _report(control: Channel, run: dict[str, Any]) -> None:
    """Tell the supervisor, if it still wants to know."""
    with contextlib.suppress(Closed, TimeoutError):
        control.send(run, timeout=10)
    control.close()


def _jail_steps(walls: jail.Walls, folder: str | None, limits: dict[str, Any]) -> list[kernel.Step]:
    """From the fork to the closed jail; `folder` is to be worked in, None for a mount of the answer's own."""
    return [
        kernel.prctl_step(kernel.PR_SET_PDEATHSIG, signal.SIGKILL),
        kernel.Step(os.setsid, ()),
        *([jail.fresh_folder()] if folder is None else []),
        kernel.Step(os.chdir, (folder or jail.WORK_DIR,)),
        *_shut(walls, limits),
        kernel.Step(os.closerange, (_CHANNEL_FD + 1, _BEYOND)),
    ]


def _shut(walls: jail.Walls, limits: dict[str, Any]) -> list[kernel.Step]:
    return jail.confine(walls, memory_mib=limits["memory_mib"], cpu_seconds=int(limits["cpu"]) + 2)


def _become_answer(
    kept: Sequence[int], steps: Sequence[kernel.Step], walls: jail.Walls, work: str, limits: dict[str, Any]
) -> None:
    """In the new process: keep four descriptors, go into the jail, serve the answer. Never returns."""
    try:
        for target, descriptor in enumerate(kept):
            os.dup2(descriptor, target, False)
        kernel.take(steps)
        end = adopt(_CHANNEL_FD)
    except OSError as error:
        with contextlib.suppress(Closed, OSError):
            Channel(adopt(_CHANNEL_FD)).send(["failed", str(error)])
        os._exit(97)
    run_answer(
        end,
        LANGUAGES[limits["language"]],
        lambda policy: kernel.take(_shut(jail.Walls(walls.features, policy, work=work), limits)),
    )
