"""A stage of a run in progress: how far it is, how fast, and what it has found so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.reporting.text import duration, rate

NOT_JUDGED = {kind.name for kind in ErrorType if kind >= ErrorType.Unjudgeable}


class Stage:
    """A stage of known length; made by `terminal.progress`.

    Attributes:
        name: as a person reads it, e.g. ``exam (init)``.
        done: units finished, those of an earlier, interrupted run included.
        total: units in all.
        unit: plural name of a unit, e.g. ``answers``.
        types: verdicts so far by the name of their type, those of an earlier run included; empty where nothing is
            judged.
        fields: the latest numbers worth showing, e.g. loss.
        finished: None while it runs; False where an error or an interrupt ended it.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        types: Mapping[str, int] | None = None,
        clock: Callable[[], float],
    ) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.types = Counter(types or {})
        self.fields: dict[str, Any] = {}
        self.finished: bool | None = None
        self.on_change: Callable[[Stage], None] = lambda _: None
        self._first, self._clock, self._begin, self._end = done, clock, clock(), 0.0

    def advance(self, n: int = 1, types: Mapping[str, int] | None = None, **fields: Any) -> None:
        """Count `n` more units as finished, with their verdicts by type, and show these fields from now on."""
        self.done += n
        self.types.update(types or {})
        self.fields.update(fields)
        self.on_change(self)

    def end(self, *, finished: bool) -> None:
        """Stop the clock."""
        self._end, self.finished = self._clock(), finished

    @property
    def seconds(self) -> float:
        """Wall time since the stage began, or until it ended."""
        return (self._clock() if self.finished is None else self._end) - self._begin

    @property
    def rate(self) -> float:
        """Units a second in this run, 0.0 before the first."""
        return (self.done - self._first) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time left at this rate, None where it cannot be told."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    @property
    def pass_at_1(self) -> float | None:
        """The share of the judged answers that passed, None before the first: pass@1 so far, where every problem has
        as many answers."""
        types = dict(self.types)  # a copy: the display's thread looks while the stage goes on
        judged = sum(count for name, count in types.items() if name not in NOT_JUDGED)
        return types.get(ErrorType.Passed.name, 0) / judged if judged else None

    @property
    def errors(self) -> dict[str, int]:
        """Failed answers by type, the most frequent first."""
        found = Counter(dict(self.types)).most_common()
        return {name: count for name, count in found if count and name != ErrorType.Passed.name}

    @property
    def count(self) -> str:
        """How far it is: ``40/100 answers``, or what was done in all."""
        return f"{self.done:,} {self.unit}" if self.finished else f"{self.done:,}/{self.total:,} {self.unit}"

    def line(self) -> str:
        """Name, count, share, rate, time left and findings in one plain line."""
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        parts = [f"{self.name}: {self.count}{share}", f"{rate(self.rate)} {self.unit}/s"]
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return " · ".join(parts + self._found())

    def summary(self) -> str:
        """The line that stays when the stage has ended."""
        stopped = "" if self.finished else "stopped at "
        parts = [f"{self.name}: {stopped}{self.count} in {duration(self.seconds)}", f"{rate(self.rate)} {self.unit}/s"]
        return " · ".join(parts + self._found())

    def _found(self) -> list[str]:
        passed = [] if self.pass_at_1 is None else [f"pass@1 {self.pass_at_1:.3f}"]
        return passed + [f"{name} {short(value)}" for name, value in self.fields.items()]


def short(value: Any) -> str:
    """A field's value in a few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
