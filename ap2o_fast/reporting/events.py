"""What `--json` writes to standard output: one event a line, as JSON. docs/command-line.md lists them for readers.

Fields are only ever added. Numbers that are not finite are null.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

from ap2o_fast.reporting.stage import Stage
from ap2o_fast.reporting.terminal import write_error

State = Literal["began", "running", "finished", "stopped"]


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """How far a stage is; written when it begins, at most once a second while it runs, and when it ends.

    Attributes:
        state: `stopped` where an error or an interrupt ended it.
        stage: its name, e.g. ``exam (init)``, ``correct epoch 1/4``.
        done, total: in units; `done` counts those of an earlier, interrupted run.
        unit: plural name, e.g. ``answers``.
        seconds: since it began.
        rate: units a second.
        seconds_left: at this rate; null where it cannot be told.
        pass_at_1: the share of judged answers that passed so far; null where none is judged.
        errors: failed answers so far by type.
        values: the latest other numbers, e.g. ``loss``.
    """

    event: Literal["stage"] = "stage"
    state: State
    stage: str
    done: int
    total: int
    unit: str
    seconds: float
    rate: float
    seconds_left: float | None
    pass_at_1: float | None
    errors: dict[str, int]
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class NoteEvent:
    """A line that a person would have read in between."""

    event: Literal["note"] = "note"
    text: str


@dataclass(frozen=True, kw_only=True)
class ResultEvent:
    """What a command came to; the last line of one that went well.

    Attributes:
        command: its name.
        result: its content; docs/command-line.md says which fields each command gives.
    """

    event: Literal["result"] = "result"
    command: str
    result: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ErrorEvent:
    """Why a command ended without a result; the last line then. `kind` is the name of the error's class."""

    event: Literal["error"] = "error"
    command: str
    exit_code: int
    kind: str
    what: str
    why: str = ""
    do: str = ""


@dataclass(frozen=True, kw_only=True)
class InterruptedEvent:
    """Ctrl-C or SIGTERM ended a command; the last line then.

    Attributes:
        kept: what is committed, a line each.
        goes_on: the command that goes on from there; empty where there is nothing to go on from.
    """

    event: Literal["interrupted"] = "interrupted"
    command: str
    exit_code: int
    kept: list[str] = field(default_factory=list)
    goes_on: str = ""


Event = StageEvent | NoteEvent | ResultEvent | ErrorEvent | InterruptedEvent


def line_of(event: Event, now: float) -> str:
    """One JSON line: ``event`` first, then ``time`` (seconds since 1970), then the event's own fields."""
    plain = dict(vars(event))
    return json.dumps({"event": plain.pop("event"), "time": round(now, 3), **_finite(plain)}, ensure_ascii=False)


class JsonLines:
    """The display of `--json`.

    Args:
        stream: where lines go, each flushed.
        interval: least seconds between two events of a running stage.
        clock: seconds since 1970.
    """

    def __init__(self, stream: TextIO, *, interval: float = 1.0, clock: Callable[[], float] = time.time) -> None:
        self._stream, self._interval, self._clock, self._last = stream, interval, clock, 0.0

    def write(self, event: Event) -> None:
        """Write one event."""
        self._stream.write(line_of(event, self._clock()) + "\n")
        self._stream.flush()

    def begin(self, stage: Stage) -> None:
        self._write_stage(stage, "began")

    def show(self, stage: Stage) -> None:
        if self._clock() - self._last >= self._interval:
            self._write_stage(stage, "running")

    def end(self, stage: Stage) -> None:
        self._write_stage(stage, "finished" if stage.finished else "stopped")

    def note(self, line: str) -> None:
        write_error(line)  # standard output may be in the middle of an event

    def close(self) -> None:
        pass

    def _write_stage(self, stage: Stage, state: State) -> None:
        self._last = self._clock()
        event = StageEvent(
            state=state,
            stage=stage.name,
            done=stage.done,
            total=stage.total,
            unit=stage.unit,
            seconds=round(stage.seconds, 3),
            rate=stage.rate,
            seconds_left=stage.seconds_left,
            pass_at_1=stage.pass_at_1,
            errors=stage.errors,
            values=dict(stage.fields),
        )
        self.write(event)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
