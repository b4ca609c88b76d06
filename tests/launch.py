"""`ap2o` in a process of its own, forked from a server that has imported the libraries already.

A start from nothing takes seconds of imports, and tests of killed runs start many. What is forked has never computed,
so it is as good as new.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

from tests.training.processes import quiet_environment


class Ap2o:
    """``ap2o ARGUMENTS --quiet``, running."""

    def __init__(self, *arguments: str | Path) -> None:
        descriptor, errors = tempfile.mkstemp(prefix="ap2o-launch-")
        os.close(descriptor)
        self._errors = Path(errors)
        words = [*map(str, arguments), "--quiet"]
        with quiet_environment():
            self._process = multiprocessing.get_context("forkserver").Process(target=_call, args=(words, errors))
            self._process.start()

    def errors(self) -> str:
        """What it has written to standard error."""
        return self._errors.read_text(encoding="utf-8", errors="replace")

    def is_running(self) -> bool:
        """False once it has ended."""
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, seconds: float) -> int | None:
        """Its exit status, negative for a signal; None if it has not ended after so long."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """End it as a power failure would, and wait for that."""
        self.send(signal.SIGKILL)
        self._process.join()


def _call(arguments: list[str], errors: str) -> None:
    with open(os.devnull, "r+b") as nothing, open(errors, "wb") as told:
        for number, file in enumerate((nothing, nothing, told)):
            os.dup2(file.fileno(), number)
    from ap2o_fast.cli import main

    main(arguments)
