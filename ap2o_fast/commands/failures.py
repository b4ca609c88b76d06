"""How `ap2o` ends when something is wrong: what a person reads, and the exit code."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from typer.core import TyperGroup

from ap2o_fast.commands.output import FULL_OR_CLOSED, rank
from ap2o_fast.errors import Ap2oError, UsageError
from ap2o_fast.exits import Exit
from ap2o_fast.interrupt import Interrupted


class Stopped(BaseException):
    """An interrupt on its way past typer, which would end the process without a word."""


class Commands(TyperGroup):
    """Commands whose interrupts come out."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Stopped from interrupt


def run(call: Callable[[], Any], *, debug: bool) -> None:
    """Call, and end the process as the exception says that comes out, if one does.

    Of an error that several processes of torchrun have, one of them tells. With `debug` errors come out as they are.
    """
    try:
        with _terminable():
            call()
    except (Stopped, KeyboardInterrupt) as stopped:
        _interrupted(stopped.__cause__ if isinstance(stopped, Stopped) else stopped)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, Ap2oError):
            _known(error)
        if isinstance(error, OSError) and error.errno in FULL_OR_CLOSED:
            _say(f"error: {error.strerror}: {error.filename or 'the run folder'}")
            _say("do:  make room or change run_dir, then `ap2o resume`")
            raise SystemExit(Exit.MACHINE) from error
        _unexpected(error)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does. Not under torchrun, whose SIGTERM must end what waits for others."""
    here = threading.current_thread() is threading.main_thread()
    if not here or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _known(error: Ap2oError) -> NoReturn:
    # What is wrong with a command is wrong in every process, and found before they meet.
    if not (isinstance(error, UsageError) and rank() if error.told is None else error.told):
        where = f"process {rank()}: " if rank() else ""
        _say(f"{where}error: {error}")
    raise SystemExit(error.exit_code) from error


def _interrupted(error: BaseException | None) -> NoReturn:
    if rank() == 0:
        if isinstance(error, Interrupted):
            kept = "".join(f"\n  {line}" for line in error.kept) or "\n  settings only: nothing was finished yet"
            _say(f"interrupted; kept:{kept}\ngo on: {error.goes_on}", style=None)
        else:
            _say("interrupted; start the command again", style=None)
    raise SystemExit(Exit.INTERRUPTED) from None


def _unexpected(error: Exception) -> NoReturn:
    trace = "".join(traceback.format_exception(error))
    try:
        descriptor, name = tempfile.mkstemp(prefix="ap2o-error-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"ap2o {' '.join(sys.argv[1:])}\n\n{trace}")
        where_it_is = f"{name}, which has the traceback"
    except OSError:  # no folder for temporary files that can be written, or it is full
        _say(trace)
        where_it_is = "the traceback above"
    said = (str(error).strip().splitlines() or [""])[0]
    where = f"process {rank()}: " if rank() else ""
    _say(f"{where}error: {type(error).__name__}: {said}")
    _say("why: nobody expected this one: a fault of ap2o, or of a library under it")
    _say(f"do:  report it with {where_it_is}, and what `ap2o doctor` says; a run can be resumed")
    raise SystemExit(Exit.FAILED) from error


def _say(text: str, style: str | None = "red") -> None:
    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)
