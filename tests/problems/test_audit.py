"""Problems that no answer can pass are found, others are left alone."""

from __future__ import annotations

import pytest

from ap2o_fast.problems import Problem, audit
from ap2o_fast.problems.audit import unreachable

PROMPT = 'def f(x):\n    """Do it."""\n'
CHECK = "def check(candidate):\n    assert {}\n"


def problem(test: str = "", **fields: object) -> Problem:
    return Problem(**{"task_id": "X/1", "prompt": PROMPT, "entry_point": "f", "test": test, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (problem(CHECK.format("g(1) == 2")), "never call 'f', they call 'g'"),
        (problem("assert g(1) == 2\nassert len([1]) == 1"), "never call 'f', they call 'g'"),
        (problem(CHECK.format("True")), "never call 'f'"),
        (problem(CHECK.format("candidate(Pair(1)) == 2")), "use 'Pair', which nothing defines"),
        (problem("assert f(oak) == pine"), "use 'oak', 'pine', which nothing defines"),
        (
            problem("def check(candidate):\n    assert check(1)", entry_point="rev", prompt="def rev(n): ..."),
            "never call 'rev'",
        ),
        (problem("def check(:"), "is not Python"),
        (problem(CHECK.format("candidate(1)"), entry_point="g"), "the prompt defines 'f', but the tests are of 'g'"),
        (problem(CHECK.format("candidate(1)"), prompt="Write a function."), "does not name 'f'"),
        (problem(CHECK.format("candidate(1)"), entry_point="f(x): # y"), "is not a name"),
        (problem(inputs=((1,),), expected=(1,), entry_point="g"), "the prompt defines 'f'"),
    ],
)
def test_unreachable_tests(case: Problem, reason: str) -> None:
    kept, excluded = audit([case])
    assert not kept
    assert reason in excluded["X/1"]


@pytest.mark.parametrize(
    "case",
    [
        problem(CHECK.format("candidate(1) == 2")),
        problem(CHECK.format("f(1) == 2")),
        problem("for a, b in [(1, 2)]:\n    assert f(a) == b"),
        problem("from math import *\nassert f(pi) == tau"),
        problem("def near(a, b):\n    return abs(a - b) < 1\n" + CHECK.format("near(candidate(1), 2)")),
        problem(CHECK.format("candidate(Pair(1)) == 2"), preamble="class Pair:\n    def __init__(self, a): ..."),
        problem("assert f(oak) == 1", setup="oak = 1"),
        problem(CHECK.format("[candidate(y) for y in (1, 2)] == [(lambda z: z)(w := 3), w]")),
        problem("try:\n    f(1)\nexcept ValueError as e:\n    assert str(e) == __name__"),
        problem("assert f(1)", prompt="Write a function f(x) that does it, please."),
        problem("assert f(1)", prompt="def g(y):\n    return y\n\n\n" + PROMPT),
        problem("check that f works", language="cobol"),
        problem(inputs=((1,),), expected=(1,)),
    ],
)
def test_reachable_tests(case: Problem) -> None:
    assert unreachable(case) is None


def test_the_judge_is_asked_about_references_of_the_others_only() -> None:
    asked = []

    def check_reference(case: Problem) -> str | None:
        asked.append(case.task_id)
        return "its reference fails" if case.task_id == "bad" else None

    cases = [
        problem("assert f(1)", task_id="none"),
        problem("assert f(1)", task_id="bad", solution="def f(x): 0"),
        problem("assert f(1)", task_id="good", solution="def f(x): 1"),
        problem("assert g(1)", task_id="lost", solution="def f(x): 1"),
    ]
    kept, excluded = audit(cases, check_reference)
    assert asked == ["bad", "good"]
    assert [case.task_id for case in kept] == ["none", "good"]
    assert excluded == {"bad": "its reference fails", "lost": "the tests never call 'f', they call 'g'"}
