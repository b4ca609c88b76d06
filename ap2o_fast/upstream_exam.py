"""Exams of the authors' code: merged.json, which it trains on, and the judged answers that merged.json is made of.

infer.py writes the answers (outputs.json), then judges them and writes a line an answer (runs/check_0.json, …);
merge.py makes merged.json of these, with each problem's answers in the order that its curricula count in.
"""

from __future__ import annotations

import builtins
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ap2o_fast.errors import DataError
from ap2o_fast.judge.analysis import error_type
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.problems.rows import Rows, from_lines_or_list

LEAST = 2
"""Fewer distinct passed or failed answers, and merge.py leaves a problem out."""


@dataclass(frozen=True, kw_only=True)
class GivenAnswer:
    """An answer's text and its error as upstream names it: the exception's class, empty where it passed."""

    text: str
    error: str


@dataclass(frozen=True, kw_only=True)
class GivenProblem:
    """A problem with its distinct answers.

    Attributes:
        task_id: as in the file, there also a number.
        prompt: the task, without upstream's sentence around it.
        answers: failures are in the order that upstream's windows slide over.
    """

    task_id: str | int
    prompt: str
    answers: tuple[GivenAnswer, ...]


def read_exam(path: Path) -> list[GivenProblem]:
    """The problems of an upstream exam.

    Args:
        path: a merged.json; or judged answers, one file of them or a folder with some, which are merged here as
            merge.py does. Either as JSON lines or as a JSON list.
    Errors: `DataError` for what is neither, with the line; where nothing is left after merging.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} has no .json file in it", do="name merged.json, or the folder of check_0.json")
    rows = [row for file in files for row in from_lines_or_list(str(file))]
    return merge(_judged(rows)) if "task_id" in rows[0][1] else _merged(rows)


def type_of(name: str) -> ErrorType:
    """What upstream's name of an error is in the taxonomy.

    Theirs are class names: `AssertionError` is a failed test, classes that stand in no line of the taxonomy go by their
    builtin base, as the judge has it. Names without any are `OtherError`, also `UnknownError`, which is upstream's for
    programs that ran too long or vanished.
    """
    if not name:
        return ErrorType.Passed
    if name == "AssertionError":
        return ErrorType.WrongResult
    if name in ErrorType.__members__ and ErrorType[name].is_failure:
        return ErrorType[name]
    kind = getattr(builtins, name, None)
    return error_type([base.__name__ for base in kind.__mro__]) if isinstance(kind, type) else ErrorType.OtherError


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A line of a check file: one judging of one answer."""

    task_id: str | int
    answer_id: int
    prompt: str
    answer: str
    error: str


def merge(lines: Sequence[_Judged]) -> list[GivenProblem]:
    """What merge.py makes of judged answers.

    A problem's answers: the passed ones first, by length, then the failed ones by how often their type occurs among all
    its lines, repeated judgings included; equals in the order of the lines. Of equal texts the first one stays, over
    all problems. Problems keep their place in the order of task ids.
    """
    if all(isinstance(line.task_id, int) or line.task_id.isdecimal() for line in lines):
        problems = sorted({line.task_id for line in lines}, key=int)  # pandas reads them as numbers
    else:
        problems = sorted({line.task_id for line in lines}, key=str)
    counts = Counter((line.task_id, line.error) for line in lines)
    by_task: Mapping[str | int, dict[_Judged, None]] = defaultdict(dict)  # of equal lines one
    for line in lines:
        by_task[line.task_id][line] = None
    seen: set[str] = set()
    exam = []
    for task_id in problems:
        prompt, answers = "", []
        for line in sorted(
            by_task[task_id],
            key=lambda line: (counts[line.task_id, line.error], 0) if line.error else (0, len(line.answer)),
        ):
            if line.answer not in seen:
                seen.add(line.answer)
                answers.append(GivenAnswer(text=line.answer, error=line.error))
                prompt = prompt or line.prompt
        passed = sum(not answer.error for answer in answers)
        if passed >= LEAST and len(answers) - passed >= LEAST:
            exam.append(GivenProblem(task_id=task_id, prompt=prompt, answers=tuple(answers)))
    if not exam:
        raise DataError(
            f"none of {len(problems)} problems has {LEAST} distinct passed and {LEAST} distinct failed answers",
            why="upstream learns from no other",
            do="sample more answers",
        )
    return exam


def _judged(rows: Rows) -> list[_Judged]:
    lines = []
    for place, row in rows:
        if "error_type" not in row and {"task_id", "answer"} <= row.keys():
            raise DataError(
                f"{place}: an answer without a verdict",
                why="infer.py writes outputs.json before it judges the answers",
                do="name the judged ones beside it, runs/check_0.json or the folder runs",
            )
        _need(place, row, task_id=(str, int), answer_id=(int,), prompt=(str,), answer=(str,), error_type=(str,))
        if "output" in row and (row["output"] == "passed") != (row["error_type"] == ""):
            raise DataError(
                f"{place}: output {row['output']!r} goes with no error_type {row['error_type']!r}",
                do="judge the answers anew with the authors' code",
            )
        names = ("task_id", "answer_id", "prompt", "answer")
        lines.append(_Judged(error=row["error_type"], **{name: row[name] for name in names}))
    return lines


def _merged(rows: Rows) -> list[GivenProblem]:
    exam: dict[str | int, GivenProblem] = {}
    for place, row in rows:
        _need(place, row, id=(str, int), problem=(str,), answers=(list,))
        if row["id"] in exam:
            raise DataError(f"{place}: the problem {row['id']!r} stands there twice", do="delete one of the two")
        answers = []
        for index, answer in enumerate(row["answers"]):
            where = f"{place}, answer {index}"
            if not isinstance(answer, dict):
                raise DataError(f"{where} is no object", do="an answer has text, error_frequency and error_type")
            _need(where, answer, text=(str,), error_frequency=(int, float, type(None)), error_type=(str,))
            if (answer["error_frequency"] == 0) != (answer["error_type"] == ""):
                raise DataError(
                    f"{where}: error_frequency {answer['error_frequency']} goes with no error_type "
                    f"{answer['error_type']!r}",
                    why="passed answers have frequency 0 and an empty type, failed ones neither",
                    do="write merged.json anew with the authors' code",
                )
            answers.append(GivenAnswer(text=answer["text"], error=answer["error_type"]))
        exam[row["id"]] = GivenProblem(task_id=row["id"], prompt=row["problem"], answers=tuple(answers))
    return list(exam.values())


def _need(place: str, row: Mapping[str, Any], **kinds: tuple[type, ...]) -> None:
    for name, allowed in kinds.items():
        if name not in row:
            raise DataError(
                f"{place}: there is no {name!r}",
                why=f"it has {', '.join(sorted(row))}",
                do="give a merged.json, or the judged answers that it is made of (runs/check_0.json)",
            )
        if not isinstance(row[name], allowed) or isinstance(row[name], bool):
            wanted = {str: "a text", int: "a number", list: "a list", float: "a number"}
            raise DataError(
                f"{place}: {name!r} is {json.dumps(row[name])[:60]}, which is not {wanted[allowed[0]]}",
                do=f"give {wanted[allowed[0]]} there",
            )
