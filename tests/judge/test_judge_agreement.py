"""Our verdicts on a fixed sample of real answers are those that EvalPlus gave (benchmarks/agreement.py recorded them).

EvalPlus itself does not run here: it is slow, and limits by wall time, which a busy machine does not keep.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ap2o_fast.config import JudgeSettings
from ap2o_fast.judge import Job, Judge
from benchmarks import agreement

RECORDED: dict[str, Any] = json.loads(agreement.RESULTS.read_text(encoding="utf-8"))
# One task in so many, so that both sets and every recorded model have some; a prime number, to meet all kinds of tasks.
STEP = 17


@pytest.fixture(scope="module")
def patient() -> Iterator[Judge]:
    with Judge(JudgeSettings(workers=2, cpu_seconds=agreement.CPU_SECONDS)) as judge:
        yield judge


def test_the_record_is_whole_and_every_difference_explained() -> None:
    rows = RECORDED["sets"]
    assert RECORDED["evalplus"] == "0.3.1" and RECORDED["answers"] == sum(row["answers"] for row in rows) > 2400
    for row in rows:
        assert row["answers"] == len(row["evalplus"]) == row["both_pass"] + row["both_fail"] + len(row["differ"])
        assert all(one["reason"] for one in row["differ"]), row["differ"]
    assert RECORDED["differ"] == sum(len(row["differ"]) for row in rows) <= 8
    references = {row["set"]: row for row in rows if row["set"].startswith("reference")}
    failed = {
        name: [one["task_id"] for one in row["differ"] if one["ours"] != "Passed"] for name, row in references.items()
    }
    assert failed == {"reference solutions, HumanEvalPlus": [], "reference solutions, MbppPlus": ["Mbpp/255"]}


@pytest.mark.slow
def test_our_verdicts_are_those_that_evalplus_gave(patient: Judge, shared_data: Path) -> None:
    problems = {file: agreement.problems_of(shared_data, file) for file in (agreement.HUMANEVAL, agreement.MBPP)}
    explained = {name.rpartition(": ")[2].partition(" ")[0] for name in agreement.EXPLAINED}
    jobs = []
    for recorded, (name, file, answers) in zip(
        RECORDED["sets"], agreement.answer_sets(shared_data, RECORDED["each"]), strict=True
    ):
        assert recorded["set"] == name and recorded["answers"] == len(answers)
        for answer, theirs in zip(answers, recorded["evalplus"], strict=True):
            number = int(answer.task_id.partition("/")[2])
            if number % STEP == 2 and answer.task_id not in explained and answer.task_id not in SLOW:
                key = f"{name}: {answer.task_id} #{answer.index}"
                jobs.append(Job(key=(key, theirs), problem=problems[file][answer.task_id], code=answer.code))
    # One task after the other: its reference is run once, and its tests are compiled once.
    jobs.sort(key=lambda job: job.problem.task_id)
    assert len(jobs) > 120 and 25 < sum(job.key[1] == "P" for job in jobs) < len(jobs) - 60
    differ = [(job.key, verdict) for job, verdict in patient.judge_all(jobs) if verdict.passed != (job.key[1] == "P")]
    assert differ == []


# Tasks whose inputs are so large that one answer takes seconds: the benchmark judges them.
SLOW = frozenset({"HumanEval/15", "HumanEval/130"})
