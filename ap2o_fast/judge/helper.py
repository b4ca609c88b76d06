"""A process of the judge's own, forked from the supervisor, and the channel to it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Collection

from ap2o_fast.judge import kernel
from ap2o_fast.judge.wire import Channel, pair

_BEYOND = 256  # the supervisor has a few dozen descriptors


class Helper:
    """Forks a process that calls `work` with its end of a channel and holds no other descriptor but stderr and `kept`.

    It dies with the supervisor, and ends when `work` returns or raises.
    """

    def __init__(self, work: Callable[[socket.socket], None], kept: Collection[int] = ()) -> None:
        ours, theirs = pair()
        parent = os.getpid()
        self.process = os.fork()
        if self.process == 0:
            try:
                ours.detach()
                first = 3
                for descriptor in sorted({theirs.fileno(), *kept}):
                    os.closerange(first, descriptor)
                    first = descriptor + 1
                os.closerange(first, _BEYOND)
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == parent:
                    work(theirs)
            except Exception:
                traceback.print_exc()  # to the trainer's stderr: a fault of ours, worth a report
            finally:
                os._exit(1)
        theirs.close()
        self.channel = Channel(ours)

    def kill(self) -> None:
        """End it; `reap` is still to be called."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)

    def reap(self, *, wait: bool) -> bool:
        """True once it is gone. To be called no more after that."""
        return os.waitpid(self.process, 0 if wait else os.WNOHANG)[0] != 0

    def leave(self, seconds: float) -> None:
        """Close the channel and give it so long to end by itself; then as `end`."""
        self.channel.close()
        handle = os.pidfd_open(self.process)
        select.select([handle], [], [], seconds)
        os.close(handle)
        self.end()

    def end(self) -> None:
        """Kill and reap."""
        self.kill()
        self.reap(wait=True)
