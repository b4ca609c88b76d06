"""From two reports to a verdict: what the examiner found, and how the answer's process ended."""

from __future__ import annotations

import os
import signal
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ap2o_fast.judge.analysis import error_message, error_type
from ap2o_fast.judge.languages import LANGUAGES
from ap2o_fast.judge.verdict import ErrorType, Verdict

_LONGEST_MESSAGE = 500
_NEARLY_ALL = 0.8


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one answer may use: CPU and wall seconds, MiB of memory, bytes of output; its language has the rest."""

    cpu: float
    wall: float
    memory_mib: int
    output: int
    language: str


def decide(reply: Mapping[str, Any], limits: Limits, level: int) -> Verdict | str:
    """The verdict, or the reason (a text) why the judge itself failed and the answer is to be judged again."""
    finding, run = reply["finding"], reply["run"]
    outcome = finding.get("outcome")
    for failed in (run.get("failed"), finding.get("failed"), outcome == "failed" and finding["message"]):
        if failed:
            return str(failed)
    if outcome == "gone" and finding["phase"] == "start":
        return f"the jail was never closed (status {run['status']})"
    error, line, message = _decide(finding, run, limits, level)
    return Verdict(
        error=error,
        line=line,
        message=clean(message),
        tests_passed=finding.get("passed", 0),
        tests_total=finding.get("total", 0),
        cpu_seconds=run["cpu"],
        peak_mib=run["peak_mib"],
        sandbox_level=level,
    )


def clean(text: str) -> str:
    """At most 500 characters, none of which a terminal or a page would obey: controls, surrogates, bidi marks."""
    kept = "".join(
        " " if character in "\n\t" else character
        for character in text[: 4 * _LONGEST_MESSAGE]
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
    )
    return kept[:_LONGEST_MESSAGE]


def _decide(
    finding: Mapping[str, Any], run: Mapping[str, Any], limits: Limits, level: int
) -> tuple[ErrorType, int, str]:
    outcome = finding["outcome"]
    message = str(finding.get("message", ""))
    if outcome == "unjudgeable":
        return ErrorType.Unjudgeable, 0, message
    # Limits count even where the answer returned just before it was stopped: the race must not decide.
    if run["output"] > limits.output:
        return ErrorType.OutputLimit, 0, f"printed more than {limits.output >> 10} KiB"
    if run["cpu"] > limits.cpu or run["killed"] == "cpu":
        return ErrorType.TimeoutError, 0, f"used more than {limits.cpu:g} s of CPU time"
    if outcome in ("passed", "computed"):
        return ErrorType.Passed, 0, ""
    if outcome == "wrong":
        return ErrorType.WrongResult, 0, message
    if outcome == "raised":
        error = error_type(finding["names"])
        return error, finding["line"], error_message(error, finding)
    if run["killed"] == "wall":
        return ErrorType.TimeoutError, 0, f"still running after {limits.wall:g} s"
    if outcome == "stuck":
        return ErrorType.TimeoutError, 0, "the test did not finish with what was returned"
    return _vanished(run, limits, level, compiling=finding["phase"] == "compile")


def _vanished(run: Mapping[str, Any], limits: Limits, level: int, *, compiling: bool) -> tuple[ErrorType, int, str]:
    """The process ended, or closed its channel, in the middle of a call."""
    status = run["status"]
    if run["killed"] == "asked":
        return ErrorType.Exit, 0, "closed the judge's channel"
    if os.WIFEXITED(status):
        return ErrorType.Exit, 0, f"ended itself with exit status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if compiling:
        return ErrorType.SyntaxError, 0, f"the compiler was killed by {name}"
    if number == signal.SIGXCPU:
        return ErrorType.TimeoutError, 0, f"used more than {limits.cpu:g} s of CPU time"
    # From level 2 on an answer cannot signal, not even itself: the kernel killed it for want of memory.
    if number == signal.SIGKILL and (level >= 2 or run["peak_mib"] > _NEARLY_ALL * limits.memory_mib):
        return ErrorType.MemoryError, 0, f"killed while using {run['peak_mib']:.0f} MiB"
    # A runtime that finds no memory aborts. Python does not: there a signal near the limit is a crash like any other.
    if LANGUAGES[limits.language].policy().spare_mib is not None and run["peak_mib"] > _NEARLY_ALL * limits.memory_mib:
        return ErrorType.MemoryError, 0, f"ended by {name} while using {run['peak_mib']:.0f} MiB"
    return ErrorType.OtherError, 0, f"killed by {name}"
