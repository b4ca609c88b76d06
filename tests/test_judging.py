"""`ap2o judge` on files: every kind of test, both kinds of answer, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ap2o_fast.cli import main
from ap2o_fast.config import JudgeSettings
from ap2o_fast.errors import DataError
from ap2o_fast.judging import judge_files

PROMPT = 'def add(a, b):\n    """The sum."""\n'
PROBLEMS = [
    {
        "task_id": "t/check",
        "prompt": PROMPT,
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(2, 2) == 4\n",
    },
    {"task_id": "t/asserts", "prompt": PROMPT, "entry_point": "add", "test": "assert add(1, 2) == 3"},
    {"task_id": "t/inputs", "prompt": PROMPT, "entry_point": "add", "inputs": [[1, 2], [5, 5]], "expected": [3, 10]},
]
ANSWERS = [
    {"task_id": "t/inputs", "solution": "def add(a, b):\n    return a + b"},
    {"task_id": "t/check", "completion": "    return a + b\n"},
    {"task_id": "t/check", "completion": "    return a * b\n"},
    {"task_id": "t/asserts", "solution": "def add(a, b:\n    return a + b"},
    {"task_id": "t/check", "solution": "def add(a, b):\n    return a + c"},
    {"task_id": "t/inputs", "solution": "import sys\nsys.exit(0)"},
]
EXPECTED = [  # task_id, index, error, line, tests passed, tests in all
    ("t/inputs", 0, "Passed", 0, 2, 2),
    ("t/check", 0, "Passed", 0, 2, 2),
    ("t/check", 1, "WrongResult", 0, 0, 2),
    ("t/asserts", 0, "SyntaxError", 1, 0, 1),
    ("t/check", 2, "NameError", 2, 0, 2),
    ("t/inputs", 1, "Exit", 2, 0, 2),
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_verdict_for_every_answer_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems, answers = write(tmp_path / "p.jsonl", PROBLEMS), write(tmp_path / "a.jsonl", ANSWERS)
    out = tmp_path / "v.jsonl"
    with pytest.raises(SystemExit) as stopped:
        main(["judge", "--problems", str(problems), "--answers", str(answers), "--out", str(out), "--quiet"])
    assert not stopped.value.code
    assert "6 verdicts" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    keys = ("task_id", "index", "error", "line", "tests_passed", "tests_total")
    assert [tuple(row[key] for key in keys) for row in rows] == EXPECTED
    assert [row["passed"] for row in rows] == [True, True, False, False, False, False]
    assert all(row["level"] >= 2 and row["cpu_s"] >= 0 and isinstance(row["message"], str) for row in rows)
    assert set(rows[0]) == {*keys, "passed", "message", "cpu_s", "level"}
    assert {path.name for path in tmp_path.iterdir()} == {"p.jsonl", "a.jsonl", "v.jsonl"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"task_id": "t/none", "solution": ""}, "'t/none'"),
        ({"task_id": "t/check"}, "solution"),
        ({"task_id": "t/check", "solution": "", "completion": ""}, "solution"),
        ({"task_id": "t/check", "solution": 3}, "solution"),
    ],
    ids=str,
)
def test_a_row_that_is_no_answer_is_named_before_anything_runs(
    tmp_path: Path, answer: dict[str, Any], words: str
) -> None:
    problems, answers = write(tmp_path / "p.jsonl", PROBLEMS), write(tmp_path / "a.jsonl", [ANSWERS[0], answer])
    with pytest.raises(DataError, match=f"line 2.*{words}"):
        judge_files(problems, answers, tmp_path / "v.jsonl", JudgeSettings(), quiet=True)
    assert not (tmp_path / "v.jsonl").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    problems, answers = write(tmp_path / "p.jsonl", PROBLEMS), write(tmp_path / "a.jsonl", ANSWERS)
    with pytest.raises(DataError, match="cannot be written"):
        judge_files(problems, answers, tmp_path / "none" / "v.jsonl", JudgeSettings(), quiet=True)
