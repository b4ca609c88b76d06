"""The warm fork server and the monitors: one monitor and one jailed process an answer.

The fork server never sees a problem, a test or an answer: an answer's process inherits its memory. The monitor is
the answer's parent; it stops it at its limit of CPU time (read from the process's own CPU clock), wall time or
output, and reports what it used.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import importlib
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from typing import Any

from ap2o_fast.judge import jail, kernel, syscalls
from ap2o_fast.judge.child import run_answer
from ap2o_fast.judge.languages import LANGUAGES
from ap2o_fast.judge.wire import Channel, Closed, adopt

# What answers import most: loaded once, so that a fork has them for nothing.
_WARM = (
    *("abc", "array", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "heapq", "itertools", "json", "math", "numbers", "operator", "random", "re"),
    *("statistics", "string", "time", "typing"),
)
_CHANNEL_FD = 3
_HIGH_FD = 64
_SHORTEST_NAP = 0.005
_ENDING_SECONDS = 0.5
GONE, KILL = b"g", b"k"


def serve(end: socket.socket, features: jail.Features) -> None:
    """Enter the namespaces, then fork a monitor for each request until the supervisor is gone. Never returns.

    A request is one byte with two descriptors (the answer's channel, the monitor's control), then a frame of limits.
    """
    for name in _WARM:
        importlib.import_module(name)
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    kernel.warm()
    readable = jail.interpreter_paths()
    sys.path[:] = [path for path in sys.path if any(path.startswith(kept) for kept in readable)]
    channel = Channel(end)
    if not features.namespaces:
        jail.enter_namespaces()
    program = b"" if features.seccomp else syscalls.program()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    channel.send(["ready"])
    while True:
        try:
            descriptors, limits = channel.take(2, timeout=10)
        except (Closed, TimeoutError):
            os._exit(0)
        if os.fork() == 0:
            end.close()
            _monitor(adopt(descriptors[0]), adopt(descriptors[1]), features, limits, program)
        for descriptor in descriptors:
            os.close(descriptor)


def _monitor(
    answer: socket.socket, control: socket.socket, features: jail.Features, limits: dict[str, Any], program: bytes
) -> None:
    """Fork one answer's process, watch it, report and exit."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reports = Channel(control)
    work = jail.WORK_DIR
    try:
        if features.namespaces:
            work = tempfile.mkdtemp(prefix="ap2o-judge-")
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        else:
            jail.fresh_namespaces()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _become_answer(answer, writer, work, features, limits, program)
        os.close(writer)
        answer.close()
        report = _watch(child, reader, control, limits)
        if features.namespaces:
            _kill_orphans()
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        report = {"failed": str(error)}
    with contextlib.suppress(Closed, TimeoutError):
        reports.send(report, timeout=10)
    os._exit(0)


def _become_answer(
    answer: socket.socket, writer: int, work: str, features: jail.Features, limits: dict[str, Any], program: bytes
) -> None:
    """In the new process: keep four descriptors, go into the jail, serve the answer. Never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        kept = (null, writer, writer, answer.fileno())
        # First out of the way: any of them may sit where another belongs.
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD) for descriptor in kept]
        for target, descriptor in enumerate(high):
            os.dup2(descriptor, target, inheritable=False)
        answer.detach()
        os.closerange(_CHANNEL_FD + 1, _HIGH_FD + 100)
        os.chdir(work)
        close = functools.partial(
            jail.confine, features, work=work, memory_mib=limits["memory_mib"], cpu_seconds=int(limits["cpu"]) + 2
        )
        language = LANGUAGES[limits["language"]]
        policy = language.policy()
        close(policy=policy, filter_program=program if policy is jail.LEAST else b"")
        end = adopt(_CHANNEL_FD)
    except OSError as error:
        with contextlib.suppress(Closed, OSError):
            Channel(adopt(_CHANNEL_FD)).send(["failed", str(error)])
        os._exit(97)
    run_answer(end, language, close)


def _watch(child: int, reader: int, control: socket.socket, limits: dict[str, Any]) -> dict[str, Any]:
    """Wait until the answer's process ends or must be ended; return how, and what it used."""
    clock = (~child << 3) | 2  # clock_getcpuclockid(3): the CPU clock of another process
    start = time.monotonic()
    handle = os.pidfd_open(child)
    os.set_blocking(reader, False)
    poll = select.poll()
    for descriptor in (handle, reader, control.fileno()):
        poll.register(descriptor, select.POLLIN)
    killed, printed = "", 0
    while not killed:
        cpu_left = limits["cpu"] - _cpu_clock(clock)
        wall_left = start + limits["wall"] - time.monotonic()
        if cpu_left <= 0 or wall_left <= 0:
            killed = "cpu" if cpu_left <= 0 else "wall"
            break
        # One process with one thread cannot use more CPU time than passes.
        nap = max(min(cpu_left, wall_left), _SHORTEST_NAP)
        ready = {descriptor for descriptor, _ in poll.poll(nap * 1000)}
        if reader in ready:
            count = _drain(reader)
            printed += count
            if count == 0:
                poll.unregister(reader)
            if printed > limits["output"]:
                killed = "output"
        if control.fileno() in ready:
            # The examiner's end has closed: leave a process that is just ending the time to show how.
            if os.read(control.fileno(), 1) == GONE and _ends_within(handle, _ENDING_SECONDS):
                break
            killed = killed or "asked"
        if handle in ready:
            break
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    with contextlib.suppress(BlockingIOError):
        while printed <= limits["output"] and (count := _drain(reader)):
            printed += count
    return {
        "killed": killed,
        "status": status,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "output": printed,
    }


def _ends_within(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _cpu_clock(clock: int) -> float:
    try:
        return time.clock_gettime(clock)
    except OSError:  # it has just ended; the process handle says so
        return 0.0


def _drain(reader: int) -> int:
    return len(os.read(reader, 1 << 16))


def _kill_orphans() -> None:
    """Without a pid namespace: end what the answer left behind (it was re-parented to this monitor)."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as stream:
            orphans = [int(number) for number in stream.read().split()]
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)
