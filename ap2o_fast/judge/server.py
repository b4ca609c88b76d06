"""The supervisor: one a worker, between the trainer and everything that runs strangers' code.

It is started with a clean environment, never imports torch, and ends with everything below it when the trainer's
socket closes. For each answer it takes a jailed process from the fork server, hands it to the examiner of the
problem, and puts their two reports together.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import Any, NoReturn

from ap2o_fast.judge import cgroup, jail, watch, zygote
from ap2o_fast.judge.helper import Helper
from ap2o_fast.judge.wire import Channel, Closed, adopt, pair

_GRACE_SECONDS = 10.0
_IDLE_SECONDS = 1.0
_LEAVING_SECONDS = 2.0


def main() -> NoReturn:
    """Entry of the supervisor's process: the trainer's socket is its standard input."""
    end = adopt(os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = Channel(end)
    status = 0
    group = cgroup.Group()
    supervisor: _Supervisor | None = None
    try:
        hello = trainer.receive(timeout=60)
        group = cgroup.make(hello["memory_mib"])
        features = jail.probe(group.missing, hello["without"])
        trainer.send({"features": features.as_dict()})
        if hello["run"]:
            supervisor = _Supervisor(trainer, features, group, hello["parent"])
            supervisor.serve()
    except (Closed, TimeoutError):
        pass
    except _Broken:
        status = 1
    finally:
        if supervisor is not None:
            supervisor.end()
        group.remove()
    os._exit(status)


class _Broken(Exception):
    """The fork server is gone; the trainer starts another supervisor."""


class _Jail:
    """A jail that waits for its answer: the ends of its channel and of its control that are ours."""

    def __init__(self, forks: Channel, limits: dict[str, Any]) -> None:
        self.limits = limits
        answer, self.examiner = pair()
        watcher, control = pair()
        self.control = Channel(control)
        with answer, watcher:
            try:
                forks.give([answer.fileno(), watcher.fileno()], limits, timeout=_GRACE_SECONDS)
            except (Closed, TimeoutError):
                raise _Broken from None

    def order(self, byte: bytes) -> None:
        """Tell the fork server to begin or end; the jail may be gone already."""
        with contextlib.suppress(OSError):
            self.control.socket.send(byte)

    def close(self) -> None:
        """Close our ends, which ends the jail if it lives."""
        self.examiner.close()
        self.control.close()


class _Supervisor:
    def __init__(self, trainer: Channel, features: jail.Features, group: cgroup.Group, parent: int) -> None:
        self._trainer = trainer
        self._parent = parent
        self._next: _Jail | None = None

        def serve_forks(end: socket.socket) -> None:
            if not features.cgroup:
                group.enter()
            zygote.serve(end, features)

        self._forks = Helper(serve_forks)
        self._forks.channel.receive(timeout=60)
        # Only now: the fork server has none of what the examiners import.
        from ap2o_fast.judge.examiners import Examiners

        self._examiners = Examiners(features)

    def serve(self) -> None:
        """Judge what the trainer sends, one answer at a time, until it is gone."""
        poll = select.poll()
        poll.register(self._trainer.fileno(), select.POLLIN)
        while os.getppid() == self._parent:
            if not poll.poll(_IDLE_SECONDS * 1000):
                continue
            request = self._trainer.receive(timeout=60)
            if "problem" in request:
                self._examiners.learn(request["key"], request["problem"], self._trainer.size)
            known = request["key"] in self._examiners
            self._trainer.send(self._judge(request) if known else {"unknown": True}, timeout=60)

    def _judge(self, request: dict[str, Any]) -> dict[str, Any]:
        cell, self._next = self._next, None
        if cell is None or cell.limits != request["limits"]:
            if cell is not None:
                cell.close()
            cell = _Jail(self._forks.channel, request["limits"])
        try:
            examiner = self._examiners.get(request["key"])
            cell.order(watch.BEGIN)  # before the task: an end after it is the answer's, one before it is ours
            task = {"code": request["code"], "mode": request["mode"]}
            with contextlib.suppress(Closed, TimeoutError):
                examiner.give([cell.examiner.fileno()], task, timeout=_GRACE_SECONDS)
            cell.examiner.close()
            # The next answer's jail is built while this one runs.
            self._next = _Jail(self._forks.channel, request["limits"])
            return self._collect(request["key"], cell, request["limits"]["wall"] + _GRACE_SECONDS)
        finally:
            cell.close()

    def _collect(self, key: str, cell: _Jail, seconds: float) -> dict[str, Any]:
        """Wait for the examiner's finding and the fork server's report, or end what is late."""
        examiner = self._examiners.get(key)
        finding: dict[str, Any] | None = None
        run: dict[str, Any] | None = None
        deadline = time.monotonic() + seconds
        poll = select.poll()
        for channel in (self._trainer, examiner, cell.control):
            poll.register(channel.fileno(), select.POLLIN)
        while finding is None or run is None:
            left = deadline - time.monotonic()
            if left <= 0:
                if finding is not None:
                    raise _Broken  # the fork server does not end it: nothing here can be trusted
                finding = {"outcome": "stuck"}
                poll.unregister(examiner.fileno())
                self._examiners.end(key)
                cell.order(watch.KILL)
                deadline = time.monotonic() + _GRACE_SECONDS
                continue
            for descriptor, _ in poll.poll(min(left, _IDLE_SECONDS) * 1000):
                if descriptor == self._trainer.fileno():
                    raise Closed("the trainer is gone")  # it never speaks before it has its answer
                poll.unregister(descriptor)
                if descriptor == cell.control.fileno():
                    run = _report(cell.control)
                else:
                    finding = _report(examiner)
                    if "failed" in finding:
                        self._examiners.end(key)
                    cell.order(watch.GONE if finding.get("outcome") == "gone" else watch.KILL)
            if os.getppid() != self._parent:
                raise Closed("the trainer is gone")
        return {"finding": finding, "run": run}

    def end(self) -> None:
        """End the processes below; what they forked ends with them."""
        self._examiners.close()
        self._forks.leave(_LEAVING_SECONDS)  # it may have a folder to remove


def _report(channel: Channel) -> dict[str, Any]:
    try:
        return channel.receive(timeout=_GRACE_SECONDS)
    except (Closed, TimeoutError) as error:
        return {"failed": f"a process of the judge ended early ({error})"}
