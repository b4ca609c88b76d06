"""The live table of a run on a terminal: stages with their progress, the errors of the latest sitting, the loss.

Stages that have ended stay as rows while there is room; older ones are printed above as lines, and so are all at the
end, so that the terminal keeps what a log would.
"""

from __future__ import annotations

import os
from collections import deque

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ap2o_fast.reporting.stage import Stage, short
from ap2o_fast.reporting.text import duration, rate

WIDE, MEDIUM = 100, 64
"""Columns of the terminal from which on all, or most, of the table is shown."""
ERRORS = 6
"""Types of errors shown at a time."""
BAR = 24
REFRESHES = 4.0
"""A second."""


class LiveTable:
    """Shows stages in place. The terminal's size is looked at each time, so that it may change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stages: deque[Stage] = deque()
        self._spinner = Spinner("dots")
        self._note = ""
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,  # what goes to a file or a pipe stays there
        )

    def begin(self, stage: Stage) -> None:
        self._stages.append(stage)
        if not self._live.is_started:
            self._live.start()
        while len(self._stages) > self._room() and self._stages[0].finished is not None:
            self._leave(self._stages.popleft())

    def show(self, stage: Stage) -> None:
        pass  # it is drawn at every refresh

    def end(self, stage: Stage) -> None:
        self._live.refresh()

    def note(self, line: str) -> None:
        self._note = line
        if not self._live.is_started:
            os.write(2, f"{line}\n".encode())

    def close(self) -> None:
        self._live.stop()
        while self._stages:
            self._leave(self._stages.popleft())

    def render(self) -> RenderableType:
        """The table as it is now."""
        stages, width = list(self._stages), self._console.width
        parts: list[RenderableType] = [_stage_table(stages, width)]
        judged = next((stage for stage in reversed(stages) if stage.types), None)
        if judged is not None and self._console.height >= ERRORS + 8:
            parts.append(_error_table(judged, width))
        if all(stage.finished is not None for stage in stages):
            self._spinner.update(text="preparing what comes next")
            parts.append(self._spinner)
        if self._note:
            parts.append(Text(self._note, style="yellow", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _room(self) -> int:
        """Rows for stages: what is left beside the head, the errors and a note."""
        return max(1, self._console.height - ERRORS - 8)

    def _leave(self, stage: Stage) -> None:
        self._console.print(Text(stage.summary()), soft_wrap=True)


def _stage_table(stages: list[Stage], width: int) -> Table:
    names = ["stage", "done"]
    names += ["", "rate"] if width >= WIDE else []
    names += ["time"] if width >= MEDIUM else []
    names += ["pass@1", "loss"]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        least = {"pass@1": 6, "loss": 5}.get(name)
        side: JustifyMethod = "left" if name == "stage" else "right"
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify=side, min_width=least)
    for stage in stages:
        cells = _cells(stage, wide=width >= MEDIUM)
        style = "dim" if stage.finished else "red" if stage.finished is False else ""
        table.add_row(*(cells[name] for name in names), style=style)
    return table


def _cells(stage: Stage, *, wide: bool) -> dict[str, RenderableType]:
    left = stage.seconds_left
    ended = stage.finished is not None
    time = f"in {duration(stage.seconds)}" if ended else f"{duration(left)} left" if left is not None else ""
    bar = ProgressBar(total=max(1, stage.total), completed=stage.done, width=BAR)
    return {
        "stage": Text(stage.name),
        "done": Text(stage.count if wide else f"{stage.done:,}/{stage.total:,}"),
        "": "" if ended else bar,
        "rate": f"{rate(stage.rate)}/s",
        "time": time,
        "pass@1": "" if stage.pass_at_1 is None else f"{stage.pass_at_1:.3f}",
        "loss": short(stage.fields.get("loss", "")),
    }


def _error_table(stage: Stage, width: int) -> Table:
    """The histogram of a sitting's errors."""
    table = Table(box=None, pad_edge=False, show_header=False, title=Text(f"errors, {stage.name}"), title_style="dim")
    table.title_justify = "left"
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    errors = list(stage.errors.items())
    most = max((count for _, count in errors), default=1)
    for name, count in errors[:ERRORS]:
        bar = ProgressBar(total=most, completed=count, width=max(4, min(BAR, width - 30)), complete_style="red")
        table.add_row(name, f"{count:,}", bar)
    if len(errors) > ERRORS:
        table.add_row(f"{len(errors) - ERRORS} more types", f"{sum(count for _, count in errors[ERRORS:]):,}", "")
    return table
