"""`ap2o evaluate --answers`: pass@k and errors of answers that are there already. No model is needed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ap2o_fast.config import Config
from ap2o_fast.errors import DataError
from ap2o_fast.evaluation import Evaluation, Outcomes, evaluate_outcomes, parts_of, to_dict
from ap2o_fast.judge import open_judge
from ap2o_fast.judging import read_answers
from ap2o_fast.problem_sets import check_apart
from ap2o_fast.problems import audit, load
from ap2o_fast.reporting.terminal import progress


@dataclass(frozen=True, kw_only=True)
class Given:
    """The result of a test whose answers were given.

    Attributes:
        evaluation: of the problems that were answered.
        shared: task ids of the test that training and quiz have, too, by their set.
        excluded: answered problems that no answer can pass, with the reason; their answers do not count.
        unanswered: task ids of the test without an answer.
    """

    evaluation: Evaluation
    shared: dict[str, list[str]]
    excluded: dict[str, str]
    unanswered: list[str]


def evaluate_answers(config: Config, answers: Path, *, quiet: bool) -> Given:
    """Judge every answer of a file to the problems of `problems.test`, and evaluate them as a run's test.

    Args:
        answers: JSON lines in EvalPlus's format, see `judging.read_answers`. Any number a problem; of `evaluate.k` what
            the problem with most answers reaches is reported.

    Errors: as `judging.judge_files`; `DataError` where no answer is left.
    """
    sets = {name: load(source) for name, source in config.problems if name in ("train", "quiz", "test")}
    shared, tests = check_apart(sets), sets["test"]
    jobs = read_answers(answers, tests)
    asked = {job.problem.task_id for job in jobs}
    with open_judge(config.judge) as judge:
        judge.require({job.problem.language for job in jobs})
        used = [problem for problem in tests if problem.task_id in asked]
        excluded = audit(used, judge.check_reference)[1] if config.problems.audit else {}
        jobs = [job for job in jobs if job.problem.task_id not in excluded]
        if not jobs:
            raise DataError(f"{answers} has no answer to a problem of the test", do="check problems.test")
        verdicts = []
        with progress("evaluate", len(jobs), "answers", quiet=quiet) as bar:
            for job, verdict in judge.judge_all(jobs):
                verdicts.append((job.problem.task_id, verdict))
                bar.advance(types={verdict.error.name: 1})
    counts = Counter(task_id for task_id, _ in verdicts)
    k = [k for k in config.evaluate.k if k <= max(counts.values())] or [1]
    kept = [problem for problem in tests if problem.task_id in counts]
    known = {task_id for ids in shared.values() for task_id in ids}
    return Given(
        evaluation=evaluate_outcomes(Outcomes.of_verdicts(verdicts), k, config.seed, parts_of(kept, known)),
        shared=shared,
        excluded=excluded,
        unanswered=[problem.task_id for problem in tests if problem.task_id not in asked],
    )


def as_dict(given: Given) -> dict[str, Any]:
    """As plain JSON values: ``answers`` as ``before`` and ``after`` of evaluation.json, ``shared``, ``excluded`` and
    ``unanswered``."""
    found = {"answers": to_dict(given.evaluation), "shared": given.shared, "excluded": given.excluded}
    return found | {"unanswered": given.unanswered}


def write_result(given: Given, path: Path) -> None:
    """Write `as_dict` as JSON. Errors: `OSError`."""
    path.write_text(json.dumps(as_dict(given), indent=2) + "\n", encoding="utf-8")
