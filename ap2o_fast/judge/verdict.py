"""What the judge says of an answer: the error taxonomy and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ErrorType(IntEnum):
    """Stable names and codes of the error book; never renumbered, new ones only at the end.

    The paper types failures by the interpreter's exception class (section "Analysis"); upstream takes raw class
    names. Here related classes share a type and the judge's own failures are told apart from the model's.
    """

    Passed = 0
    WrongResult = 1
    SyntaxError = 2
    NameError = 3
    TypeError = 4
    ValueError = 5
    IndexError = 6
    KeyError = 7
    AttributeError = 8
    ImportError = 9
    ZeroDivisionError = 10
    OverflowError = 11
    RecursionError = 12
    RuntimeError = 13
    OSError = 14
    AssertionError = 15
    MemoryError = 16
    TimeoutError = 17
    OutputLimit = 18
    Exit = 19
    OtherError = 20
    Unjudgeable = 21
    SandboxFailure = 22
    Flaky = 23

    @property
    def is_failure(self) -> bool:
        """True for the model's own errors: what may be a rejected answer."""
        return ErrorType.Passed < self < ErrorType.Unjudgeable


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judge's finding on one answer.

    Attributes:
        error: `ErrorType.Passed` or what went wrong.
        line: the line of the answer's own code (from 1) that raised, 0 where none did.
        message: the exception's message or what differed, control characters stripped, at most 500 characters.
        tests_passed, tests_total: counted test by test by the examiner.
        cpu_seconds, peak_mib: what the answer's process used.
        sandbox_level: isolation under which it ran (0 to 4, see docs/sandbox.md).
    """

    error: ErrorType
    line: int = 0
    message: str = ""
    tests_passed: int = 0
    tests_total: int = 0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0
    sandbox_level: int = 0

    @property
    def passed(self) -> bool:
        """True if every test passed."""
        return self.error is ErrorType.Passed
