"""The starter set: sound, graded, and no problem of one split in another."""

from __future__ import annotations

import ast
import json
from collections import Counter
from importlib import resources
from typing import Any

import pytest

from ap2o_fast.config import SourceSettings
from ap2o_fast.problems import Problem, audit, load

STARTER = load(SourceSettings(source="starter"))
ROWS = [
    json.loads(line)
    for line in resources.files("ap2o_fast.problems").joinpath("starter.jsonl").read_text("utf-8").splitlines()
]


def fails(problem: Problem, answer: str) -> bool:
    space: dict[str, Any] = {}
    exec(answer, space)
    exec(problem.test, space)
    try:
        space["check"](space[problem.entry_point])
    except Exception:
        return True
    return False


def test_sizes_and_grades() -> None:
    assert len(STARTER) == len({problem.task_id for problem in STARTER}) == 64
    assert Counter(problem.split for problem in STARTER) == {"train": 36, "quiz": 12, "test": 16}
    for split in ("train", "quiz", "test"):
        grades = Counter(row["difficulty"] for row in ROWS if row["split"] == split)
        assert set(grades) == {1, 2, 3}
        assert grades[1] >= 2 / 3 * grades.total()
        assert len(load(SourceSettings(source="starter", split=split))) == grades.total()


def test_no_problem_of_one_split_in_another() -> None:
    """By the words of the task and by what the solution says; within a split no task twice."""
    tasks = Counter(problem.prompt.partition('"""')[2] for problem in STARTER)
    assert max(tasks.values()) == 1, tasks.most_common(1)
    bodies: dict[str, set[str]] = {}
    for problem in STARTER:
        bodies.setdefault((problem.solution or "").partition("\n")[2], set()).add(problem.split)
    assert len(bodies) >= 60
    assert all(len(splits) == 1 for splits in bodies.values()), bodies


def test_audit_keeps_all() -> None:
    assert audit(STARTER) == (STARTER, {})


@pytest.mark.parametrize("problem", STARTER, ids=lambda problem: problem.entry_point)
def test_each_problem(problem: Problem) -> None:
    (stub,) = ast.parse(problem.prompt).body
    assert isinstance(stub, ast.FunctionDef)
    assert stub.name == problem.entry_point == problem.task_id.removeprefix("Starter/")
    assert ast.get_docstring(stub)
    assert sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(problem.test))) >= 5
    assert problem.solution is not None
    assert problem.solution.startswith(problem.prompt.splitlines()[0])
    assert len(problem.solution.splitlines()) <= 7
    assert not fails(problem, problem.solution)
    arguments = [argument.arg for argument in stub.args.args]
    for constant in ("None", "True", "False", "0", "1", "''", "[]", *arguments):
        assert fails(problem, f"def {problem.entry_point}({', '.join(arguments)}):\n    return {constant}\n"), constant
