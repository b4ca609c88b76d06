"""What a command says while it runs and at its end: to a person, or with `--json` to a program."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout
from types import TracebackType
from typing import Any

from rich.console import Console

from ap2o_fast.errors import Ap2oError
from ap2o_fast.exits import Exit
from ap2o_fast.interrupt import Interrupted
from ap2o_fast.reporting.events import ErrorEvent, InterruptedEvent, JsonLines, NoteEvent, ResultEvent
from ap2o_fast.reporting.terminal import Silent, display_of, showing

FULL_OR_CLOSED = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)
"""Errors of a disk that the machine's owner mends."""


def rank() -> int:
    """Number of this process among those of torchrun."""
    return int(os.environ.get("RANK", "0"))


class Output:
    """The output of one command, shown from `with` on. Of the processes of torchrun the first alone says anything.

    With `--json` standard output has events (`reporting.events`) and nothing else: what libraries print goes to
    standard error.

    Attributes:
        out: standard output for a person; prints nothing with `--json`.

    Args:
        command: its name.
        quiet: no progress.
        as_json: events instead of text.
    """

    def __init__(self, command: str, *, quiet: bool = False, as_json: bool = False) -> None:
        self.command, self._quiet = command, quiet
        self._lines = JsonLines(sys.stdout) if as_json and rank() == 0 else None
        self.out = Console(quiet=as_json or rank() > 0)
        self._err = Console(stderr=True, quiet=rank() > 0)
        self._stack = ExitStack()

    def __enter__(self) -> Output:
        if self._lines is not None:
            self._stack.enter_context(redirect_stdout(sys.stderr))
        shown = Silent() if self._quiet else self._lines or display_of(self._err)
        self._progress = self._stack.enter_context(ExitStack())
        self._progress.enter_context(showing(shown))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if error is not None and self._lines is not None:
            self._tell_end(self._lines, error)

    def note(self, line: str, style: str | None = None) -> None:
        """A line in between, to standard error; an event with `--json`."""
        if self._lines is not None:
            self._lines.write(NoteEvent(text=line))
        else:
            self._err.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def result(self, content: Mapping[str, Any]) -> None:
        """What the command came to: an event with `--json`, nothing without. No more progress is shown after it, so
        that what a person reads stays last."""
        self._progress.close()
        if self._lines is not None:
            self._lines.write(ResultEvent(command=self.command, result=dict(content)))

    def _tell_end(self, lines: JsonLines, error: BaseException) -> None:
        code = Exit.INTERRUPTED
        if isinstance(error, Interrupted):
            lines.write(InterruptedEvent(command=self.command, exit_code=code, kept=error.kept, goes_on=error.goes_on))
        elif isinstance(error, KeyboardInterrupt):
            lines.write(InterruptedEvent(command=self.command, exit_code=code))
        elif (isinstance(error, Exception) and not hasattr(error, "exit_code")) or isinstance(error, Ap2oError):
            lines.write(_error_event(self.command, error))


def _error_event(command: str, error: Exception) -> ErrorEvent:
    kind = type(error).__name__
    if isinstance(error, Ap2oError):
        return ErrorEvent(
            command=command, exit_code=error.exit_code, kind=kind, what=error.what, why=error.why, do=error.do
        )
    full = isinstance(error, OSError) and error.errno in FULL_OR_CLOSED
    code = Exit.MACHINE if full else Exit.FAILED
    return ErrorEvent(command=command, exit_code=code, kind=kind, what=str(error))
