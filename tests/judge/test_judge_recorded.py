"""Recorded answers and reference solutions of real data sets: our verdict is plain execution's."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ap2o_fast.judge import ErrorType, Job, Judge
from ap2o_fast.problems.problem import Problem

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def rows(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    raw = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(raw) if path.suffix == ".gz" else raw).splitlines()]


def humaneval(row: dict[str, Any]) -> Problem:
    return Problem(
        task_id=row["task_id"],
        prompt=row["prompt"],
        entry_point=row["entry_point"],
        test=row["test"],
        preamble=row["prompt"][: row["prompt"].rindex(f"def {row['entry_point']}(")],
        solution=row["prompt"] + row["canonical_solution"],
    )


def test_recorded_answers_get_the_verdict_of_plain_execution(judge: Judge) -> None:
    problems = rows("humaneval/HumanEval.jsonl.gz")
    jobs = []
    for record in rows("samples/codegen16b/samples.jsonl.gz")[:35]:
        # The prompt lacks the examples, and six names stand for two problems.
        prompt = record["prompt"]
        row = max(problems, key=lambda known: len(os.path.commonprefix([prompt, known["prompt"]])))  # noqa: RUF071
        for body in record["samples"][:3]:
            if "import torch" not in body:  # which alone takes longer than the limit of these tests
                jobs.append(Job(key=row, problem=humaneval(row), code=record["prompt"] + body))
    assert len(jobs) > 100
    program = (
        "import sys, json, io\n"
        "class Out(io.StringIO): pass\n"
        "out, sys.stdout = sys.stdout, Out()\n"
        "for code, test, entry in json.load(sys.stdin):\n"
        "    space = {}\n"
        "    try:\n"
        "        exec(code, space)\n"
        "        exec(test, space)\n"
        "        space['check'](space[entry])\n"
        "        print('passed', file=out)\n"
        "    except BaseException as error:\n"
        "        print(type(error).__name__, file=out)\n"
    )
    direct = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([(job.code, job.key["test"], job.key["entry_point"]) for job in jobs]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout.split()
    names = {"passed": "Passed", "AssertionError": "WrongResult", "IndentationError": "SyntaxError"}
    assert 5 < direct.count("passed") < 60
    for (job, verdict), seen in zip(judge.judge_all(jobs), direct, strict=True):
        if verdict.error is ErrorType.WrongResult:
            # The test may have choked on what was returned: plain execution names that exception.
            assert seen == "AssertionError" or "on which the test raised" in verdict.message, (seen, verdict, job.code)
        elif verdict.error is ErrorType.AssertionError:
            assert seen == "AssertionError" and verdict.line > 0  # the answer's own, which plain execution cannot tell
        else:
            assert verdict.error.name == names.get(seen, seen), (seen, verdict, job.code)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_reference_solutions_pass(judge: Judge, name: str) -> None:
    if name == "humaneval":
        problems = [humaneval(row) for row in rows("humaneval/HumanEval.jsonl.gz")[::4]]
    else:
        problems = []
        for row in rows("mbpp/mbpp.jsonl")[10:510:12]:
            defined = [d for d in re.findall(r"^def (\w+)", row["code"], re.M) if d + "(" in row["test_list"][0]]
            problems.append(
                Problem(
                    task_id=f"Mbpp/{row['task_id']}",
                    prompt="",
                    entry_point=defined[-1],
                    test="\n".join(row["test_list"]),
                    setup=row["test_setup_code"],
                    solution=row["code"],
                )
            )
    failed = [(problem.task_id, reason) for problem in problems if (reason := judge.check_reference(problem))]
    assert len(problems) > 40 and failed == []
