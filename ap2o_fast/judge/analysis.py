"""What an answer's failure is called: one analyser a language, and the paper's analysis step (Eq. 5) for Python.

An analyser has two halves. `load` and `report` run in the jailed process; what `report` says is the answer's own
word, so it can only choose among failures. The taxonomy below turns it into an `ErrorType` outside.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ap2o_fast.judge.verdict import ErrorType

ANSWER_FILE = "<answer>"
_LONGEST_TEXT = 2000

# Builtin exceptions that name a type themselves. Others go by their nearest base among these, else OtherError.
_NAMED = {error.name: error for error in ErrorType if ErrorType.SyntaxError <= error <= ErrorType.MemoryError}
_NAMED["SystemExit"] = ErrorType.Exit


class Analyser(Protocol):
    """One programming language: how an answer is checked, loaded and its errors told apart. One file each."""

    def compile(self, code: str) -> Any:
        """Check the answer without running it. Whatever it raises is a `SyntaxError`."""

    def prepare(self, preamble: str) -> Any:
        """Run the problem's preamble; return the namespace it leaves."""

    def load(self, program: Any, namespace: Any, entry_point: str) -> Callable[..., Any]:
        """Run a compiled answer in the namespace; return its function. Raises the answer's own exceptions."""

    def report(self, error: BaseException) -> dict[str, Any]:
        """Inert facts on an exception: names (its builtin bases, nearest first), class, text, line (0: none)."""


class Python:
    """CPython itself is the analyser: its compiler finds syntax errors, its tracebacks lines."""

    def compile(self, code: str) -> types.CodeType:
        """See `Analyser.compile`."""
        return compile(code, ANSWER_FILE, "exec", dont_inherit=True)

    def prepare(self, preamble: str) -> dict[str, Any]:
        """See `Analyser.prepare`. The namespace is a real module, which dataclasses and pickle insist on."""
        module = types.ModuleType("answer")
        sys.modules["answer"] = module
        exec(compile(preamble, "<preamble>", "exec", dont_inherit=True), module.__dict__)
        return module.__dict__

    def load(self, program: types.CodeType, namespace: dict[str, Any], entry_point: str) -> Callable[..., Any]:
        """See `Analyser.load`."""
        exec(program, namespace)
        if entry_point not in namespace:
            raise NameError(f"function {entry_point} is not defined")
        function = namespace[entry_point]
        if not callable(function):
            raise TypeError(f"{entry_point} is not a function")
        return function

    def report(self, error: BaseException) -> dict[str, Any]:
        """See `Analyser.report`."""
        names = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
        try:
            text = str(error.msg) if isinstance(error, SyntaxError) else str(error)
        except Exception:  # a hostile or broken __str__
            text = ""
        line = 0
        if isinstance(error, SyntaxError) and error.filename == ANSWER_FILE:
            line = error.lineno or 0
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == ANSWER_FILE:
                line = trace.tb_lineno or line
            trace = trace.tb_next
        return {"names": names, "class": type(error).__name__, "text": text[:_LONGEST_TEXT], "line": line}


ANALYSERS: Mapping[str, Analyser] = {"python": Python()}


def error_type(names: Sequence[str]) -> ErrorType:
    """The type of an exception with these builtin bases, nearest first: FileNotFoundError is an OSError, …"""
    return next((_NAMED[name] for name in names if name in _NAMED), ErrorType.OtherError)


def error_message(error: ErrorType, report: Mapping[str, Any]) -> str:
    """The exception's text, with its class in front where the type does not say it."""
    kind, text = str(report.get("class", "")), str(report.get("text", ""))
    if kind == error.name:
        return text
    return f"{kind}: {text}" if kind and text else kind or text
