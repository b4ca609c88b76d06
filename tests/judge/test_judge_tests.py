"""What the examiner makes of tests: styles, counts, comparison, and tests that cannot be judged."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from ap2o_fast.errors import UsageError
from ap2o_fast.judge import ErrorType, Judge
from ap2o_fast.judge.compare import matches
from ap2o_fast.judge.lane import Lane, LaneLost
from ap2o_fast.problems.problem import Problem


def problem(**fields: Any) -> Problem:
    return Problem(**{"task_id": "t", "prompt": "", "entry_point": "f", **fields})


HONEST = {
    "prints": ("assert f(2) == 4", "import sys\ndef f(x):\n  print('hi'); sys.stderr.write('x' * 5000)\n  return 4"),
    "catches": ("assert f(0) is None", "def f(x):\n  try:\n    return 1 / x\n  except Exception:\n    return"),
    "tuple": ("assert f(1) == (1, [2, {3}])", "def f(x): return (1, [2, {3}])"),
    "set": ("assert f(1) == {1, 2} and type(f(1)) is set", "def f(x): return {1, 2}"),
    "frozenset key": ("assert f(1)[frozenset({1})] == b'x'", "def f(x): return {frozenset({1}): b'x'}"),
    "decimal": (
        "from decimal import Decimal\nassert f(1) == Decimal('1.10')",
        "import decimal\ndef f(x): return decimal.Decimal('1.10')",
    ),
    "nan": ("import math\nassert math.isnan(f(1))", "def f(x): return float('nan')"),
    "infinity": ("assert f(1) == [float('inf'), -float('inf')]", "def f(x): return [float('inf'), -float('inf')]"),
    "big int": ("assert f(3) == 10 ** 5000", "def f(x): return 10 ** 5000"),
    "complex": ("assert f(1) == 1 + 2j", "def f(x): return 1 + 2j"),
    "counter": ("assert f('aab') == {'a': 2, 'b': 1}", "from collections import Counter\ndef f(x): return Counter(x)"),
    "generator": ("assert list(f(3)) == [0, 1, 4]", "def f(x):\n    for i in range(x): yield i * i"),
    "range": ("assert f(3) == range(3)", "def f(x): return range(x)"),
    "dict view": ("assert f(1) == {1, 2}", "def f(x): return {1: 0, 2: 0}.keys()"),
    "keywords": ("assert f(a=1, b=2) == -1", "def f(b, a): return a - b"),
    "stdin": ("assert f(1) == ''", "import sys\ndef f(x): return sys.stdin.read()"),
    "work folder": ("assert f('a') == 'a'", "def f(x):\n  open('t', 'w').write(x)\n  return open('t').read()"),
    "dataclass": (
        "assert f(2) == 2",
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n  x: 'int'\ndef f(x): return P(x).x",
    ),
    "lazy import": ("assert f(1) == 1", "def f(x):\n    import csv, xml.dom.minidom, sqlite3, argparse\n    return x"),
    "asyncio": ("assert f(1) == 1", "import asyncio\nasync def g(x): return x\ndef f(x): return asyncio.run(g(x))"),
    "main guard": ("assert f(1) == 1", "def f(x): return x\nif __name__ == '__main__':\n    input()"),
    "lone surrogate": ("assert f(1) == '\\ud800'", "def f(x): return '\\ud800'"),
    "limits itself": (
        "assert f(1) == 1",
        ("import resource, sys; sys.setrecursionlimit(5000)\n"
         "resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))\ndef f(x): return x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_answers_pass(judge: Judge, name: str) -> None:
    test, code = HONEST[name]
    verdict = judge.judge(problem(test=test), code)
    assert verdict.passed, verdict
    assert verdict.tests_passed == verdict.tests_total == 1


def test_numpy_loads_in_the_jail_and_its_scalars_are_numbers(judge: Judge) -> None:
    code = "import numpy as np\ndef f(x): return [np.float64(x) / 2, np.int64(x), np.bool_(True), np.mean([x, x])]"
    assert judge.judge(problem(test="assert f(3) == [1.5, 3, True, 3.0]"), code).passed
    array = judge.judge(problem(test="assert f(3) == 1"), "import numpy as np\ndef f(x): return np.zeros(2)")
    assert (array.error, array.message) == (ErrorType.WrongResult, "f(3) returned a numpy.ndarray")


def test_an_iterator_is_no_list(judge: Judge) -> None:
    assert judge.judge(problem(test="assert f(3) == [0, 1, 2]"), "def f(x): return map(int, range(x))").error is (
        ErrorType.WrongResult
    )


def test_mutated_arguments_do_not_poison_the_next_test(judge: Judge) -> None:
    test = "data = [3, 1, 2]\nassert f(data) == 3\nassert data == [3, 1, 2]\nassert f(data) == 3"
    code = "def f(x):\n    n = len(x)\n    x.clear()\n    return n"
    assert judge.judge(problem(test=test), code).passed
    given = problem(inputs=(([1, 2],), ([1, 2],)), expected=(2, 2))
    assert judge.judge(given, code).passed


def test_asserts_are_counted_to_the_first_failure(judge: Judge) -> None:
    straight = problem(test="assert f(0) == 0\nassert f(1) == 1\nassert f(2) == 4\nassert f(3) == 3")
    verdict = judge.judge(straight, "def f(x): return x")
    assert (verdict.error, verdict.tests_passed, verdict.tests_total) == (ErrorType.WrongResult, 2, 4)
    loop = problem(test="def check(g):\n    for i in range(10):\n        assert g(i) == i")
    verdict = judge.judge(loop, "def f(x): return min(x, 6)")
    assert (verdict.tests_passed, verdict.tests_total) == (7, 8)
    verdict = judge.judge(loop, "def f(x): return x")
    assert (verdict.tests_passed, verdict.tests_total) == (10, 10)


def test_messages_say_what_differed(judge: Judge) -> None:
    code = "def f(x, y=0): return [x, y]"
    assert judge.judge(problem(test="assert f(2, y=3) == [3, 2]"), code).message == (
        "f(2, y=3) returned [2, 3], expected [3, 2]"
    )
    assert judge.judge(problem(test="assert len(f(2)) == 3"), code).message == "assert len(f(2)) == 3; got 2 and 3"
    assert judge.judge(problem(test="assert not f(2)"), code).message == "assert not f(2); f(2) returned [2, 0]"
    assert judge.judge(problem(test="assert f(2).upper() == 'A'"), code).message.startswith(
        "f(2) returned [2, 0], on which the test raised AttributeError"
    )


def test_tests_may_expect_exceptions(judge: Judge) -> None:
    test = "try:\n    f(-1)\nexcept ValueError as error:\n    assert 'minus' in str(error)\nelse:\n    assert False\n"
    test += "assert f(1) == 1"
    code = "def f(x):\n    if x < 0: raise ValueError('minus one')\n    return x"
    assert judge.judge(problem(test=test), code).passed
    assert judge.judge(problem(test=test), "def f(x): return x").error is ErrorType.WrongResult
    assert judge.judge(problem(test=test), "def f(x): return x.y").error is ErrorType.AttributeError


def test_a_bare_except_cannot_hide_the_end_of_the_answer(judge: Judge) -> None:
    test = "try:\n    f(1)\nexcept:\n    pass\nassert True"
    assert judge.judge(problem(test=test), "import os\ndef f(x): os._exit(0)").error is ErrorType.Exit


def test_setup_and_preamble_reach_the_test(judge: Judge) -> None:
    given = problem(test="assert f(twice(2)) == LIMIT", setup="def twice(x): return 2 * x", preamble="LIMIT = 4\n")
    assert judge.judge(given, "def f(x): return min(x, LIMIT)").passed
    assert judge.judge(given, "def f(x): return twice(x)").error is ErrorType.NameError  # setup is the test's alone


UNJUDGEABLE = {
    "a helper of the answer": ("assert f([Pair(1, 2)]) == 1", "uses Pair"),
    "another function": ("assert g(1) == 1", "never calls f"),
    "a callback": ("assert f(lambda x: x) == 1", "passes a function to f"),
    "the function object": ("assert f.__code__.co_argcount == 1", "looks at f.__code__"),
    "in-place change": ("a = [2, 1]\nf(a)\nassert a == [1, 2]", "effect on the arguments"),
    "nothing": ("f(1)", "asserts nothing"),
    "broken": ("assert f(1) ==", "cannot be parsed"),
    "raises by itself": ("x = 1 / 0\nassert f(1) == 1", "the test itself raised ZeroDivisionError"),
    "exits": ("import sys\nsys.exit(0)\nassert f(1) == 1", "the test itself raised SystemExit"),
    "ends early": ("def check(f):\n    return\n    assert f(1) == 1", "ended before all its asserts"),
}


@pytest.mark.parametrize("name", UNJUDGEABLE)
def test_what_cannot_be_judged_is_never_the_models_failure(judge: Judge, name: str) -> None:
    test, message = UNJUDGEABLE[name]
    verdict = judge.judge(problem(test=test), "def f(x): return 1")
    assert verdict.error is ErrorType.Unjudgeable
    assert message in verdict.message


def test_broken_setup_and_shape(judge: Judge) -> None:
    for fields in (
        {"test": "assert f(1)", "setup": "1 / 0"},
        {"test": "assert f(1)", "preamble": "1 / 0"},
        {"test": ""},
        {"inputs": ((1,),)},
        {"inputs": ((1,),), "expected": (1, 2)},
        {"inputs": ((object(),),), "expected": (1,)},
    ):
        assert judge.judge(problem(**fields), "def f(x): return x").error is ErrorType.Unjudgeable


def test_inputs_and_expected(judge: Judge) -> None:
    given = problem(inputs=((1, 2), (3, 4)), expected=(3, 7))
    assert judge.judge(given, "def f(a, b): return a + b").passed
    verdict = judge.judge(given, "def f(a, b): return 3")
    assert (verdict.error, verdict.tests_passed, verdict.tests_total) == (ErrorType.WrongResult, 1, 2)
    assert verdict.message == "f(3, 4) returned 3, expected 7"


def test_expected_comes_from_the_solution_where_it_is_not_given(judge: Judge) -> None:
    given = problem(inputs=((1,), (2,)), solution="def f(x): return (x, float('nan'))")
    assert judge.judge(given, "def f(x): return (x, float('nan'))").passed
    assert judge.judge(given, "def f(x): return [x, float('nan')]").error is ErrorType.WrongResult
    broken = problem(inputs=((1,),), solution="def f(x): return 1 / 0")
    verdict = judge.judge(broken, "def f(x): return 1")
    assert verdict.error is ErrorType.Unjudgeable
    assert "reference solution fails: ZeroDivisionError" in verdict.message


@pytest.mark.parametrize(
    ("value", "expected", "atol", "same"),
    [
        (1, 1.0, 0, True),
        (True, 1, 0, True),
        (math.nan, math.nan, 0, True),
        ([math.nan], [math.nan], 0, True),
        ((1, 2), [1, 2], 0, True),
        ([1, 2], (1, 2), 0, False),
        ([(1, 2)], [[1, 2]], 0, True),
        ({1, 2}, [1, 2], 0, False),
        ("ab", ["a", "b"], 0, False),
        ([1, 2], [1, 2, 3], 0, False),
        (0.1 + 0.2, 0.3, 0, False),
        (0.1 + 0.2, 0.3, 1e-9, True),
        ({"a": [0.1 + 0.2]}, {"a": [0.3]}, 1e-9, True),
        (1.5, 1.0, 1e-6, False),
        (1e12 + 1, 1e12, 1e-6, True),
        ({"a": 1}, {"b": 1}, 1, False),
        (None, 0, 1, False),
        (10**400, 1.0, 1, False),
        (Decimal("1.0"), 1, 0, True),
    ],
)
def test_comparison_rules(value: Any, expected: Any, atol: float, same: bool) -> None:
    assert matches(value, expected, atol=atol, json_lists=True) is same


def test_tuple_and_list_differ_where_types_are_known() -> None:
    assert not matches((1, 2), [1, 2])
    assert matches([1, 2], [1, 2])


BROKEN = {
    "the reference is wrong": ("assert f(1) == 2", "def f(x): return x", "WrongResult: f(1) returned 1, expected 2"),
    "the reference raises": ("assert f(1) == 2", "def f(x): return 1 / 0", "ZeroDivisionError"),
    "the test itself raises": ("assert f(1) == 1\nassert f(2) == [1, 2][7]", "def f(x): return x", "raised IndexError"),
    "the test contradicts itself": ("assert f(1) == 1\nassert f(1) == 2", "def f(x): return x", "WrongResult"),
}


@pytest.mark.parametrize(("test", "solution", "words"), BROKEN.values(), ids=BROKEN)
def test_a_problem_that_no_answer_can_pass_is_not_the_answers_failure(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, test: str, solution: str, words: str
) -> None:
    """Without an audit before it, as in `ap2o judge`: the first answer that fails has the reference looked at."""
    runs = []
    run = Lane.run
    monkeypatch.setattr(Lane, "run", lambda lane, *given: runs.append(given) or run(lane, *given))
    broken = problem(test=test, solution=solution)
    verdicts = [judge.judge(broken, code) for code in ("def f(x): return x", "def f(x):", "def f(x): return y")]
    assert {verdict.error for verdict in verdicts} == {ErrorType.Unjudgeable}
    assert len({verdict.message for verdict in verdicts}) == 1
    assert verdicts[0].message.startswith("the reference solution fails: ") and words in verdicts[0].message
    assert len(runs) == 2, "the answer and the reference; the other answers are not even run"


def test_a_reference_is_run_once_and_only_when_an_answer_fails(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    run = Lane.run
    monkeypatch.setattr(Lane, "run", lambda lane, *given: runs.append(given) or run(lane, *given))
    whole = problem(test="assert f(1) == 1", solution="def f(x): return x")
    codes = ("def f(x): return 1", "def f(x): return 2", "def f(x):", "def f(x): return 1")
    verdicts = [judge.judge(whole, code).error.name for code in codes]
    assert verdicts == ["Passed", "WrongResult", "SyntaxError", "Passed"]
    assert len(runs) == len(codes) + 1


@pytest.mark.parametrize("fields", [{"test": "assert f(1) == 1"}, {"inputs": ((1,),)}], ids=["test", "inputs"])
def test_the_judges_own_failure_does_not_break_a_problem(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    whole = problem(**fields, solution="def f(x): return x")

    def lost(*_: Any) -> Any:
        raise LaneLost("the supervisor is gone")

    with monkeypatch.context() as broken:
        broken.setattr(Lane, "run", lost)
        assert judge.judge(whole, "def f(x): return 2").error is ErrorType.SandboxFailure
        assert "SandboxFailure" in (judge.check_reference(whole) or "")
    assert judge.judge(whole, "def f(x): return 2").error is ErrorType.WrongResult
    assert judge.judge(whole, "def f(x): return 1").passed


def test_check_reference(judge: Judge) -> None:
    assert judge.check_reference(problem(test="assert f(1) == 1")) is None
    assert judge.check_reference(problem(test="assert f(1) == 1", solution="def f(x): return x")) is None
    assert judge.check_reference(problem(test="assert f(1) == 2", solution="def f(x): return x")) == (
        "WrongResult: f(1) returned 1, expected 2"
    )
    assert "uses Pair" in (judge.check_reference(problem(test="assert f(Pair())", solution="def f(x): 1")) or "")


def test_the_limit_grows_with_a_slow_reference(judge: Judge) -> None:
    burn = "import time\ndef f(x):\n    end = time.process_time() + {}\n    while time.process_time() < end: pass\n"
    burn += "    return x"
    given = problem(test="assert f(1) == 1", solution=burn.format(0.4))
    assert judge.judge(given, burn.format(1.2)).passed  # 4 x 0.4 s instead of 1 s
    without = problem(test="assert f(1) == 1")
    assert judge.judge(without, burn.format(1.2)).error is ErrorType.TimeoutError


def test_other_languages_are_refused(judge: Judge) -> None:
    with pytest.raises(UsageError, match="rust"):
        judge.judge(problem(test="assert f(1)", language="rust"), "")
