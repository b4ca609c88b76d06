"""`ap2o judge`: files of problems and answers in, a file of verdicts out."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ap2o_fast.config import JudgeSettings, SourceSettings
from ap2o_fast.errors import DataError
from ap2o_fast.judge import Job, open_judge
from ap2o_fast.judge.twice import is_drawn
from ap2o_fast.judge.verdict import ErrorType, Verdict
from ap2o_fast.problems import Problem, load
from ap2o_fast.problems.rows import from_file
from ap2o_fast.reporting.terminal import progress


@dataclass(kw_only=True)
class Judged:
    """What became of a file of answers: how many ended in each type, and how many were judged twice."""

    types: Counter[str] = field(default_factory=Counter)
    twice: int = 0


def judge_files(problems: Path, answers: Path, verdicts: Path, settings: JudgeSettings, *, quiet: bool) -> Judged:
    """Judge every answer of a file and write one row each, in their order.

    Args:
        problems: any file of problems that `problems.load` reads.
        answers: JSON lines in EvalPlus' format: ``task_id`` with ``solution``, or with ``completion``, which is
            appended to the problem's prompt. Any number of answers a problem.
        verdicts: where to write JSON lines: ``task_id, index, passed, error, line, message, tests_passed, tests_total,
            cpu_s, level``; ``index`` counts a problem's answers from 0. It appears when all is judged.

    Returns: counts.
    Errors: `DataError` for files that cannot be read, with the line; `SandboxRefused`, `MachineError` as `Judge`;
        before anything is judged, `UsageError` for a language that the judge does not know, `MachineError` for one that
        is not installed.
    """
    if not verdicts.parent.is_dir():
        raise DataError(
            f"{verdicts} cannot be written", why=f"there is no folder {verdicts.parent}", do="make it first"
        )
    jobs = read_answers(answers, load(SourceSettings(source=str(problems))))
    judged = Judged()
    partial = verdicts.with_name(verdicts.name + ".partial")
    try:
        with (
            partial.open("w", encoding="utf-8") as file,
            open_judge(settings) as judge,
            progress("judge", len(jobs), "answers", quiet=quiet) as bar,
        ):
            judge.require({job.problem.language for job in jobs})
            for job, verdict in judge.judge_all(jobs):
                task_id, index = job.key
                file.write(json.dumps(verdict_row(task_id, index, verdict), ensure_ascii=False) + "\n")
                judged.types[verdict.error.name] += 1
                judged.twice += verdict.error is not ErrorType.SandboxFailure and is_drawn(
                    settings.recheck, task_id, index
                )
                bar.advance(types={verdict.error.name: 1})
        os.replace(partial, verdicts)
    finally:
        partial.unlink(missing_ok=True)
    return judged


def read_answers(path: Path, problems: list[Problem]) -> list[Job]:
    """The answers as jobs with the key (task_id, index).

    Errors: `DataError` with the line of a row that is no answer to one of the problems.
    """
    by_id = {problem.task_id: problem for problem in problems}
    seen: Counter[str] = Counter()
    jobs = []
    for place, row in from_file(str(path)):
        task_id = row.get("task_id")
        if task_id not in by_id:
            raise DataError(
                f"{place}: no problem has the task_id {task_id!r}", do="give the problems that were answered"
            )
        given = [key for key in ("solution", "completion") if isinstance(row.get(key), str)]
        if len(given) != 1:
            raise DataError(
                f"{place}: an answer has a text `solution`, or a `completion` of the prompt",
                why=f"it has {sorted(row)}",
                do="give one of the two",
            )
        problem = by_id[task_id]
        if problem.prose and given == ["completion"]:
            raise DataError(
                f"{place}: {task_id} has a prompt of words, of which no program is a completion",
                do="give the whole program as `solution`",
            )
        code = row["solution"] if given == ["solution"] else problem.prompt + row["completion"]
        index = seen[task_id]
        jobs.append(Job(key=(task_id, index), problem=problem, code=code, seed=index))
        seen[task_id] += 1
    return jobs


def verdict_row(task_id: str, index: int, verdict: Verdict) -> dict[str, object]:
    """One verdict as `ap2o judge` writes it."""
    return {
        "task_id": task_id,
        "index": index,
        "passed": verdict.passed,
        "error": verdict.error.name,
        "line": verdict.line,
        "message": verdict.message,
        "tests_passed": verdict.tests_passed,
        "tests_total": verdict.tests_total,
        "cpu_s": round(verdict.cpu_seconds, 4),
        "level": verdict.sandbox_level,
    }
