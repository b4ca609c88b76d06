"""The supervisor: one a worker, between the trainer and everything that runs strangers' code.

It is started with a clean environment, never imports torch, and ends with everything below it when the trainer's
socket closes. For each answer it takes a jailed process from the fork server, hands it to the examiner of the
problem, and puts their two reports together.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from ap2o_fast.judge import cgroup, jail, kernel, syscalls, zygote
from ap2o_fast.judge.examiner import Examiner
from ap2o_fast.judge.wire import Channel, Closed, adopt, pair

_GRACE_SECONDS = 10.0
_EXAMINER_MIB = 8192
_IDLE_SECONDS = 1.0


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


class _Helper:
    """A process of ours, forked from the supervisor, and the channel to it."""

    def __init__(self, others: list[Channel], work: Callable[[socket.socket], None]) -> None:
        ours, theirs = pair()
        parent = os.getpid()
        self.process = os.fork()
        if self.process == 0:
            try:
                ours.close()
                for channel in others:
                    channel.close()
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == parent:
                    work(theirs)
            except Exception:
                traceback.print_exc()  # to the trainer's stderr: a fault of ours, worth a report
            finally:
                os._exit(1)
        theirs.close()
        self.channel = Channel(ours)

    def end(self) -> None:
        """Kill and reap."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


class _Supervisor:
    def __init__(self, trainer: Channel, features: jail.Features, group: cgroup.Group, parent: int) -> None:
        self._trainer = trainer
        self._features = features
        self._group = group
        self._parent = parent
        self._problem: dict[str, Any] = {}
        self._examiner: _Helper | None = None
        self._forks = _Helper([trainer], self._serve_forks)
        self._forks.channel.receive(timeout=60)

    def serve(self) -> None:
        """Judge what the trainer sends, one answer at a time, until it is gone."""
        poll = select.poll()
        poll.register(self._trainer.fileno(), select.POLLIN)
        while os.getppid() == self._parent:
            if not poll.poll(_IDLE_SECONDS * 1000):
                continue
            request = self._trainer.receive(timeout=60)
            if "problem" in request:
                self._problem = request["problem"]
                self._end_examiner()
            self._trainer.send(self._judge(request), timeout=60)

    def _judge(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._examiner is None:
            self._examiner = _Helper([self._trainer, self._forks.channel], self._serve_examiner)
        answer_end, examiner_end = pair()
        control_end, monitor_end = pair()
        control = Channel(control_end)
        try:
            try:
                descriptors = [answer_end.fileno(), monitor_end.fileno()]
                self._forks.channel.give(descriptors, request["limits"], timeout=_GRACE_SECONDS)
            except (Closed, TimeoutError):
                raise _Broken from None
            task = {"code": request["code"], "mode": request["mode"]}
            with contextlib.suppress(Closed, TimeoutError):
                self._examiner.channel.give([examiner_end.fileno()], task, timeout=_GRACE_SECONDS)
            for end in (answer_end, examiner_end, monitor_end):
                end.close()
            return self._collect(control, request["limits"]["wall"] + _GRACE_SECONDS)
        finally:
            for end in (answer_end, examiner_end, monitor_end, control_end):
                end.close()

    def _collect(self, control: Channel, seconds: float) -> dict[str, Any]:
        """Wait for the examiner's finding and the monitor's report, or end what is late."""
        assert self._examiner is not None
        finding: dict[str, Any] | None = None
        run: dict[str, Any] | None = None
        deadline = time.monotonic() + seconds
        poll = select.poll()
        for channel in (self._trainer, self._examiner.channel, control):
            poll.register(channel.fileno(), select.POLLIN)
        while finding is None or run is None:
            left = deadline - time.monotonic()
            if left <= 0:
                if finding is not None:
                    raise _Broken  # the monitor does not end: nothing here can be trusted
                finding = {"outcome": "stuck"}
                poll.unregister(self._examiner.channel.fileno())
                self._end_examiner()
                _ask(control)
                deadline = time.monotonic() + _GRACE_SECONDS
                continue
            for descriptor, _ in poll.poll(min(left, _IDLE_SECONDS) * 1000):
                if descriptor == self._trainer.fileno():
                    raise Closed("the trainer is gone")  # it never speaks before it has its answer
                if descriptor == control.fileno():
                    run = _report(control)
                    poll.unregister(descriptor)
                elif self._examiner is not None:
                    finding = _report(self._examiner.channel)
                    poll.unregister(descriptor)
                    if "failed" in finding:
                        self._end_examiner()
                    _ask(control, zygote.GONE if finding.get("outcome") == "gone" else zygote.KILL)
            if os.getppid() != self._parent:
                raise Closed("the trainer is gone")
        return {"finding": finding, "run": run}

    def end(self) -> None:
        """End the processes below; what they forked ends with them."""
        self._end_examiner()
        self._forks.end()

    def _end_examiner(self) -> None:
        if self._examiner is not None:
            self._examiner.end()
            self._examiner = None

    def _serve_forks(self, end: socket.socket) -> None:
        if not self._features.cgroup:
            self._group.enter()
        zygote.serve(end, self._features)

    def _serve_examiner(self, end: socket.socket) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
        program = b"" if self._features.seccomp else syscalls.program("examiner")
        jail.confine(
            self._features,
            work=None,
            memory_mib=_EXAMINER_MIB,
            cpu_seconds=None,
            policy=jail.Policy(processes=None),
            filter_program=program,
        )
        examiner = Examiner(self._problem)
        supervisor = Channel(end)
        while True:
            try:
                (descriptor,), task = supervisor.take(1, timeout=_GRACE_SECONDS)
                answer = Channel(adopt(descriptor))
                finding = examiner.examine(answer, task["code"], task["mode"])
                answer.close()
                supervisor.send(finding, timeout=_GRACE_SECONDS)
            except Closed:
                return


def _ask(control: Channel, how: bytes = zygote.KILL) -> None:
    """Ask the monitor to end its answer; it may have done so already."""
    with contextlib.suppress(OSError):
        control.socket.send(how)


def _report(channel: Channel) -> dict[str, Any]:
    try:
        return channel.receive(timeout=_GRACE_SECONDS)
    except (Closed, TimeoutError) as error:
        return {"failed": f"a process of the judge ended early ({error})"}
