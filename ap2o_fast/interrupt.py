"""Ctrl-C and SIGTERM: the first asks for an end at the next place where nothing is lost, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

ASKED = "interrupted: what is in progress is being finished and kept; Ctrl-C again ends at once"


class Interrupted(KeyboardInterrupt):
    """An interrupt with what is kept of the work.

    Attributes:
        kept: what is committed, a line each.
        goes_on: the command that goes on from there.
    """

    def __init__(self, kept: Sequence[str], goes_on: str) -> None:
        super().__init__("interrupted")
        self.kept, self.goes_on = list(kept), goes_on


class Interrupt:
    """While active, the first SIGINT or SIGTERM only sets `asked`; the second raises `KeyboardInterrupt`.

    One within another knows what the outer one was asked. In another thread than the main one, where Python lets
    nobody handle signals, it does nothing.

    Args:
        tell: is given a line to show at the first signal. Called by the signal's handler.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        self._tell, self._asked = tell, False
        self._before: dict[int, Any] = {}
        self._outer: Interrupt | None = None

    @property
    def asked(self) -> bool:
        """Whether an end is asked for."""
        return self._asked or (self._outer is not None and self._outer.asked)

    def __enter__(self) -> Interrupt:
        here = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if here else ():
            before = self._before[number] = signal.signal(number, self._handle)
            owner = getattr(before, "__self__", None)
            self._outer = owner if isinstance(owner, Interrupt) else self._outer
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self._asked = True
        self._tell(ASKED)
