"""The trainer's end of one supervisor: start it, send it an answer, take its finding, and end it for certain."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ap2o_fast.judge.jail import Features
from ap2o_fast.judge.wire import BadFrame, Channel, Closed, pair

_START_SECONDS = 120.0
_REPLY_SECONDS = 60.0
_END_SECONDS = 10.0
# All that an answer finds in its environment. One hash seed: the same answer gets the same verdict.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
_BOOT = "import sys; sys.path[0] = sys.argv.pop(); from ap2o_fast.judge.server import main; main()"


class LaneLost(Exception):
    """The supervisor died or does not answer. The text says which."""


class Lane:
    """One supervisor process. Not to be shared by threads.

    Args:
        memory_mib: the address space of one answer, for limits that the supervisor sets up once.
        without: boundaries to leave out.
        run: False asks only what isolation can be had.
    """

    def __init__(self, *, memory_mib: int, without: Collection[str] = (), run: bool = True) -> None:
        ours, theirs = pair()
        root = str(Path(__file__).resolve().parents[2])
        self._channel = Channel(ours)
        with theirs:
            # A session of its own: Ctrl-C is for the trainer, which decides when the judge ends.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, root],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
                close_fds=True,
            )
        try:
            hello = {"run": run, "memory_mib": memory_mib, "without": list(without), "parent": os.getpid()}
            self._channel.send(hello, timeout=_REPLY_SECONDS)
            self.features = Features(**self._channel.receive(timeout=_START_SECONDS)["features"])
        except (Closed, TimeoutError, BadFrame) as error:
            self.close()
            raise LaneLost(f"the judge's supervisor did not start ({error})") from None
        except BaseException:
            self.close()
            raise

    def run(self, key: str, problem: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        """Judge one answer.

        Args:
            key: names the problem; its wire form `problem` is sent only where the supervisor does not know it.
            request: code, mode and limits.

        Returns: the examiner's finding and the fork server's run. Raises `LaneLost`, after which only `close` is left.
        """
        reply = self._ask({**request, "key": key})
        if "unknown" in reply:
            reply = self._ask({**request, "key": key, "problem": problem})
        return reply

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._channel.send(request, timeout=_REPLY_SECONDS)
            reply: dict[str, Any] = self._channel.receive(timeout=request["limits"]["wall"] + _REPLY_SECONDS)
        except (Closed, TimeoutError, BadFrame) as error:
            raise LaneLost(str(error)) from None
        return reply

    def close(self) -> None:
        """End the supervisor and everything below it. May be called twice, and while another thread waits in `run`."""
        with contextlib.suppress(OSError):
            self._channel.socket.shutdown(2)
        try:
            self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=_END_SECONDS)
        self._channel.close()
