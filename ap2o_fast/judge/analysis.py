"""What an answer's failure is called (the paper's analysis step, Eq. 5), whatever its language.

The answer's process reports the names of builtin Python exceptions, so its word can only choose among failures; the
taxonomy below turns them into an `ErrorType` outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ap2o_fast.judge.verdict import ErrorType

# Builtin exceptions that name a type themselves. Others go by their nearest base among these, else OtherError.
_NAMED = {error.name: error for error in ErrorType if ErrorType.SyntaxError <= error <= ErrorType.MemoryError}
_NAMED["SystemExit"] = ErrorType.Exit


def error_type(names: Sequence[str]) -> ErrorType:
    """The type of an exception with these builtin bases, nearest first: FileNotFoundError is an OSError, …"""
    return next((_NAMED[name] for name in names if name in _NAMED), ErrorType.OtherError)


def error_message(error: ErrorType, report: Mapping[str, Any]) -> str:
    """The exception's text, with its class in front where the type does not say it."""
    kind, text = str(report.get("class", "")), str(report.get("text", ""))
    if kind == error.name:
        return text
    return f"{kind}: {text}" if kind and text else kind or text
