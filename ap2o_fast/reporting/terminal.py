"""Progress of long work as a person meets it in the terminal.

It goes to standard error: a live table (`live`) where that is a terminal, one plain line an interval where it is not,
or is a dumb one. Whoever does the work calls `progress` and does not know who looks at it; `showing` says that for a
whole command. Colours follow rich's rules, so NO_COLOR is honoured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.text import Text

from ap2o_fast.reporting.live import LiveTable
from ap2o_fast.reporting.stage import Stage


class Display(Protocol):
    """Who looks at the stages of a command."""

    def begin(self, stage: Stage) -> None:
        """A stage has begun."""

    def show(self, stage: Stage) -> None:
        """A stage has advanced."""

    def end(self, stage: Stage) -> None:
        """A stage has ended; `stage.finished` says how."""

    def note(self, line: str) -> None:
        """Say something at once. Called by signal handlers: takes no lock, writes to no buffer."""

    def close(self) -> None:
        """Nothing more comes."""


_shown: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def showing(display: Display) -> Iterator[Display]:
    """Inside, in this thread, all progress is shown by `display`, which is closed at the end."""
    token = _shown.set(display)
    try:
        yield display
    finally:
        _shown.reset(token)
        display.close()


def note(line: str) -> None:
    """Say a line at once, by whoever shows the progress; fit for a signal handler."""
    (_shown.get() or Silent()).note(line)


@contextmanager
def progress(
    stage: str,
    total: int,
    unit: str,
    *,
    done: int = 0,
    types: Mapping[str, int] | None = None,
    quiet: bool = False,
    interval: float = 10.0,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Stage]:
    """Show the progress of a stage; one line stays of it, also when it ends by an exception.

    Args:
        stage: its name.
        total: units of work in all.
        unit: plural name of a unit, e.g. ``answers``.
        done: units finished by an earlier run; they count as done but not in the rate.
        types: verdicts of an earlier run by the name of their type.
        quiet: show nothing.
        interval: seconds between lines where the console is not a terminal.
        console: rich's, instead of the display that `showing` set; standard error where there is none.
        clock: seconds, monotonic.

    Yields: a `Stage`; call its `advance`.
    """
    state = Stage(stage, total, unit, done=done, types=types, clock=clock)
    if quiet:
        yield state
        return
    given = None if console else _shown.get()
    display = given or display_of(console or Console(stderr=True), interval=interval, clock=clock)
    state.on_change = display.show
    display.begin(state)
    finished = False
    try:
        yield state
        finished = True
    finally:
        state.end(finished=finished)
        display.end(state)
        if given is None:
            display.close()


def display_of(console: Console, *, interval: float = 10.0, clock: Callable[[], float] = time.monotonic) -> Display:
    """What suits a console: a live table on a terminal that can move its cursor, else lines."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveTable(console)
    return Lines(console, interval, clock)


class Lines:
    """One line an interval, and one at the end of each stage."""

    def __init__(self, console: Console, interval: float, clock: Callable[[], float]) -> None:
        self._console, self._interval, self._clock, self._last = console, interval, clock, clock()

    def begin(self, stage: Stage) -> None:
        self._last = self._clock()

    def show(self, stage: Stage) -> None:
        now = self._clock()
        if now - self._last >= self._interval:
            self._last = now
            self._console.print(Text(stage.line()), soft_wrap=True)

    def end(self, stage: Stage) -> None:
        self._console.print(Text(stage.summary()), soft_wrap=True)

    def note(self, line: str) -> None:
        write_error(line)

    def close(self) -> None:
        pass


class Silent:
    """Shows nothing but notes: what `--quiet` sees."""

    def begin(self, stage: Stage) -> None:
        pass

    def show(self, stage: Stage) -> None:
        pass

    def end(self, stage: Stage) -> None:
        pass

    def note(self, line: str) -> None:
        write_error(line)

    def close(self) -> None:
        pass


def write_error(line: str) -> None:
    """Write to standard error past all buffers."""
    os.write(2, f"{line}\n".encode())
