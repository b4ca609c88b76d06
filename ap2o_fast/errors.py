"""Errors a person can act on: each says what happened, why, and what to do, and carries the exit code of `ap2o`."""

from __future__ import annotations

from ap2o_fast.exits import Exit


class Ap2oError(Exception):
    """Base of every error that is the user's to fix. The command line prints it without a traceback.

    Args:
        what: what went wrong, naming the file, key or value.
        why: the cause, where it is not obvious from `what`.
        do: what the reader can do about it.

    Attributes:
        told: whether another process of the run prints it; None where they have not met.
    """

    exit_code: Exit = Exit.FAILED
    told: bool | None = None

    def __init__(self, what: str, *, why: str = "", do: str = "") -> None:
        self.what, self.why, self.do = what, why, do
        super().__init__("\n".join(part for part in (what, why and f"why: {why}", do and f"do:  {do}") if part))


class UsageError(Ap2oError, ValueError):
    """A command, a setting or a combination of settings that cannot be honoured."""

    exit_code = Exit.USAGE


class DataError(Ap2oError, ValueError):
    """Problems, answers or a run folder that cannot be used as they are."""

    exit_code = Exit.DATA


class MachineError(Ap2oError, RuntimeError):
    """Something the machine lacks: a package, a model, memory, disk space."""

    exit_code = Exit.MACHINE


class SandboxRefused(Ap2oError, RuntimeError):
    """The isolation that the settings demand is not to be had here; nothing was run."""

    exit_code = Exit.SANDBOX


class NumericalError(Ap2oError, ArithmeticError):
    """A loss or gradient that is not finite, or an invariant of the numbers that does not hold."""

    exit_code = Exit.NUMERICAL
