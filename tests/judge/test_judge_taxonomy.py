"""One program a type: its name, its line, its message, and how many tests it passed."""

from __future__ import annotations

import pytest

from ap2o_fast.judge import ErrorType, Judge
from ap2o_fast.problems.problem import Problem

SQUARE = Problem(
    task_id="square",
    prompt="",
    entry_point="square",
    test="def check(candidate):\n"
    "    assert candidate(1) == 1\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n",
)
BODY = "def square(x):\n    "

CASES = {
    "right": (BODY + "return x * x", "Passed", 0, "", 3),
    "wrong": (BODY + "return x if x < 2 else x + 1", "WrongResult", 0, "square(2) returned 3, expected 4", 1),
    "syntax": ("def square(x)\n    return x", "SyntaxError", 1, "expected ':'", 0),
    "indentation": (BODY + "y = x\n  return y", "SyntaxError", 3, "IndentationError: unindent", 0),
    "tab": ("def square(x):\n\ty = x\n        return y", "SyntaxError", 3, "TabError", 0),
    "null byte": ("x = 1\0", "SyntaxError", None, "null byte", 0),
    "deep nesting": ("x = " + "(" * 5000 + ")" * 5000, "SyntaxError", None, "", 0),
    "surrogate": ("x = '\ud800'", "SyntaxError", 0, "UnicodeEncodeError", 0),
    "missing": ("def cube(x):\n    return x", "NameError", 0, "function square is not defined", 0),
    "name": ("\n" + BODY + "return y", "NameError", 3, "name 'y' is not defined", 0),
    "unbound": (BODY + "y += x\n    return y", "NameError", 2, "UnboundLocalError", 0),
    "type": (BODY + "return x + 'a'", "TypeError", 2, "unsupported operand", 0),
    "arguments": ("def square():\n    return 1", "TypeError", 0, "takes 0 positional arguments but 1 was given", 0),
    "not callable": ("square = 4", "TypeError", 0, "square is not a function", 0),
    "value": (BODY + "return x * x if x < 3 else int('a')", "ValueError", 2, "invalid literal", 2),
    "json": ("import json\n" + BODY + "return json.loads('')", "ValueError", 3, "JSONDecodeError: Expecting value", 0),
    "index": (BODY + "return [][x]", "IndexError", 2, "list index out of range", 0),
    "key": (BODY + "return {}[x]", "KeyError", 2, "1", 0),
    "attribute": (BODY + "return x.foo", "AttributeError", 2, "no attribute 'foo'", 0),
    "import": ("import no_such_module\n" + BODY + "return x", "ImportError", 1, "ModuleNotFoundError", 0),
    "zero": (BODY + "return x / 0", "ZeroDivisionError", 2, "division by zero", 0),
    "overflow": (BODY + "return 2.0 ** 10000", "OverflowError", 2, "", 0),
    "recursion": (BODY + "return square(x)", "RecursionError", 2, "maximum recursion depth", 0),
    "runtime": (BODY + "raise NotImplementedError('later')", "RuntimeError", 2, "NotImplementedError: later", 0),
    "os": (BODY + "return open('/nowhere/at/all')", "OSError", 2, "FileNotFoundError", 0),
    "own timeout": (BODY + "raise TimeoutError('mine')", "OSError", 2, "TimeoutError: mine", 0),
    "own assertion": (BODY + "assert x > 1, 'small'", "AssertionError", 2, "small", 0),
    "memory": (BODY + "return len([0] * 10 ** 10)", "MemoryError", 2, "", 0),
    "busy": (BODY + "while True: pass", "TimeoutError", 0, "used more than 1 s of CPU time", 0),
    "asleep": ("import time\n" + BODY + "time.sleep(60)", "TimeoutError", 0, "still running after 3 s", 0),
    "flood": (BODY + "while True: print('x' * 1000)", "OutputLimit", 0, "printed more than 64 KiB", 0),
    "sys.exit": ("import sys\n" + BODY + "sys.exit(0)", "Exit", 3, "SystemExit: 0", 0),
    "exit at import": ("raise SystemExit", "Exit", 1, "SystemExit", 0),
    "os._exit": ("import os\n" + BODY + "os._exit(0)", "Exit", 0, "ended itself with exit status 0", 0),
    "segfault": ("import ctypes\n" + BODY + "ctypes.string_at(0)", "OtherError", 0, "killed by SIGSEGV", 0),
    "stop iteration": (BODY + "return next(iter([]))", "OtherError", 2, "StopIteration", 0),
    "end of file": (BODY + "return input()", "OtherError", 2, "EOFError: EOF when reading a line", 0),
    "own class": ("class Mine(KeyError): pass\n" + BODY + "raise Mine(x)", "KeyError", 3, "Mine: 1", 0),
    "at import": ("x = 1\ny = x / 0\n" + BODY + "return x", "ZeroDivisionError", 2, "", 0),
    "coroutine": ("async " + BODY + "return x * x", "WrongResult", 0, "square(1) returned a coroutine", 0),
    "deepest line": ("def inner(x):\n    return x[0]\n\n" + BODY + "return inner(x)", "TypeError", 2, "", 0),
}


@pytest.mark.parametrize("name", CASES)
def test_type_line_message_and_count(judge: Judge, name: str) -> None:
    code, error, line, message, passed = CASES[name]
    verdict = judge.judge(SQUARE, code)
    assert verdict.error is ErrorType[error], verdict
    assert message in verdict.message
    assert line is None or verdict.line == line
    assert (verdict.tests_passed, verdict.tests_total) == (passed, 3)
    assert verdict.sandbox_level == judge.level
    assert verdict.passed == (error == "Passed")


def test_every_type_of_the_model_has_a_program() -> None:
    named = {error for _, error, *_ in CASES.values()}
    assert named == {error.name for error in ErrorType if error < ErrorType.Unjudgeable}


def test_lines_count_in_the_answer_and_not_in_the_preamble(judge: Judge) -> None:
    problem = Problem(
        task_id="p", prompt="", entry_point="f", test="assert f(1) == 3", preamble="import math\n\nTWO = 2\n"
    )
    assert judge.judge(problem, "def f(x): return math.floor(x) + TWO").passed
    assert judge.judge(problem, "def f(x):\n    return math.flor(x)").line == 2


def test_messages_are_short_and_free_of_control_characters(judge: Judge) -> None:
    verdict = judge.judge(SQUARE, BODY + "raise ValueError('\\x1b[31mred\\u202e\\x00 <b>' + 'x' * 5000)")
    assert verdict.error is ErrorType.ValueError
    assert verdict.message.startswith("[31mred <b>xxx")
    assert len(verdict.message) == 500
    long = judge.judge(SQUARE, BODY + "return 'y' * 100000")
    assert long.error is ErrorType.WrongResult and len(long.message) <= 500


def test_cost_is_measured(judge: Judge) -> None:
    cheap = judge.judge(SQUARE, BODY + "return x * x")
    dear = judge.judge(SQUARE, BODY + "a = [1] * 10_000_000\n    sum(a)\n    return x * x")
    assert cheap.passed and dear.passed
    assert dear.cpu_seconds > cheap.cpu_seconds > 0
    assert dear.peak_mib > cheap.peak_mib + 50
