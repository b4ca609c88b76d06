"""Do our verdicts agree with EvalPlus's? Reference solutions and recorded answers of real models, judged by both.

    python benchmarks/agreement.py --data DATA [--each 4] [--only SET] [--out FILE.json]

DATA holds `evalplus/{HumanEvalPlus,MbppPlus}.jsonl.gz` (v0.1.10, v0.2.0), `samples/mixed/*.jsonl.gz` (one completion a
task) and `samples/codegen16b/samples.jsonl.gz` (of which the first `--each` of every task). All base and plus inputs
count. EvalPlus is its `untrusted_check` (0.3.1) as its `evaluate` calls it; it only takes dangerous functions away
from the answer (`reliability_guard`): run this where nothing can be lost.

The file is written after every set; with `--only` the rows of the other sets stay as they are. Verdicts that differ are
listed with the reason that `EXPLAINED` gives; one without a reason makes the exit code 1.
"""

from __future__ import annotations

import argparse
import difflib
import gzip
import importlib.metadata
import json
import multiprocessing
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "kernels")]

from ap2o_fast.config import JudgeSettings, SourceSettings  # noqa: E402
from ap2o_fast.judge import Job, Judge  # noqa: E402
from ap2o_fast.problems import Problem, load  # noqa: E402
from ap2o_fast.reporting.terminal import progress  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "agreement.json"
HUMANEVAL, MBPP = "evalplus/HumanEvalPlus.jsonl.gz", "evalplus/MbppPlus.jsonl.gz"
CODEGEN = "samples/codegen16b/samples.jsonl.gz"
CPU_SECONDS = 4.0
"""EvalPlus allows each input 4 s, or 4 times the reference where that is more; we allow an answer that for all."""

EXPLAINED: dict[str, str] = {
    "Mbpp/255": "for one input the reference needs more than judge.memory_mib; under EvalPlus it fails at times, too",
    "HumanEval/32": "any root counts; EvalPlus 0.3.1 fails every answer: its check of this task counts no input",
    "HumanEval/15": "inputs of a million, limited by wall time: in two runs before EvalPlus passed it",
    "HumanEval/139": "slow for a few inputs, which EvalPlus limits by wall time: a busy machine decides",
    "codegen16b: HumanEval/79 #1": "right; it imports matplotlib, which needs the `open` that EvalPlus takes away",
    "codegen16b: HumanEval/116 #0": "right; it imports torch, which needs the `open` that EvalPlus takes away",
}
"""Answer (`name of the set: task_id #index`) or task (`task_id`) to the reason why the two may differ on it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: its task, its place among that task's answers of the set, its complete source."""

    task_id: str
    index: int
    code: str


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def answer_sets(data: Path, each: int) -> Iterator[tuple[str, str, list[Answer]]]:
    """(name, file of its problems, answers) of every set, reference solutions first."""
    prompts: dict[str, str] = {}
    for file in (HUMANEVAL, MBPP):
        rows = read(data / file)
        prompts |= {row["task_id"]: row["prompt"] for row in rows}
        references = [(row["task_id"], row["prompt"] + row["canonical_solution"]) for row in rows]
        name = f"reference solutions, {Path(file).name.split('.')[0]}"
        yield name, file, [Answer(task_id=task_id, index=0, code=code) for task_id, code in references]
    for path in sorted((data / "samples" / "mixed").glob("*.jsonl.gz")):
        rows = read(path)
        answers = [
            Answer(task_id=row["task_id"], index=0, code=prompts[row["task_id"]] + row["completion"]) for row in rows
        ]
        yield path.name.split(".")[0], HUMANEVAL, answers
    yield (
        "codegen16b",
        HUMANEVAL,
        [
            Answer(task_id=task_id, index=index, code=record["prompt"] + body)
            for record in read(data / CODEGEN)
            for task_id in [nearest(record["prompt"], prompts)]
            for index, body in enumerate(record["samples"][:each])
        ],
    )


def nearest(prompt: str, prompts: dict[str, str]) -> str:
    """The HumanEval task with this prompt, which lacks the examples; six names stand for two tasks each."""
    name = re.findall(r"^def (\w+)\(", prompt, re.M)[-1]
    same = [
        task_id
        for task_id, known in prompts.items()
        if task_id.startswith("HumanEval") and re.findall(r"^def (\w+)\(", known, re.M)[-1] == name
    ]
    return max(same, key=lambda task_id: difflib.SequenceMatcher(None, prompt, prompts[task_id]).ratio())


def problems_of(data: Path, file: str) -> dict[str, Problem]:
    return {problem.task_id: problem for problem in load(SourceSettings(source=str(data / file)))}


def by_ours(problems: dict[str, Problem], answers: list[Answer], judge: Judge) -> list[str]:
    """The name of our verdict on each answer."""
    jobs = [Job(key=answer, problem=problems[answer.task_id], code=answer.code) for answer in answers]
    with progress("ours", len(jobs), "answers") as bar:
        found = []
        for _, verdict in judge.judge_all(jobs):
            found.append(verdict.error.name)
            bar.advance()
    return found


class EvalPlus:
    """EvalPlus's verdicts: the oracle's results are computed once a task, every answer is checked by itself."""

    def __init__(self, data: Path) -> None:
        self._rows = {row["task_id"]: row for file in (HUMANEVAL, MBPP) for row in read(data / file)}
        self._known: dict[str, Any] = {}

    def passes(self, answer: Answer) -> bool:
        from evalplus.eval import PASS, untrusted_check

        row = self._rows[answer.task_id]
        if answer.task_id not in self._known:
            self._known[answer.task_id] = self._oracle(row)
        dataset = "humaneval" if answer.task_id.startswith("HumanEval") else "mbpp"
        for inputs, expected, seconds in self._known[answer.task_id]:
            status, _ = untrusted_check(
                dataset, answer.code, inputs, row["entry_point"], expected, row["atol"], seconds, fast_check=True
            )
            if status != PASS:
                return False
        return True

    def _oracle(self, row: dict[str, Any]) -> list[tuple[list[Any], list[Any], list[float]]]:
        from evalplus.data.mbpp import mbpp_deserialize_inputs
        from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
        from evalplus.gen.util import trusted_exec

        name, found = row["entry_point"], []
        for kind in ("base_input", "plus_input"):
            inputs = row[kind] or []
            if row["task_id"].startswith("Mbpp"):
                inputs = mbpp_deserialize_inputs(row["task_id"], inputs)
            expected, seconds = trusted_exec(
                row["prompt"] + row["canonical_solution"],
                inputs,
                name,
                record_time=True,
                output_not_none=name in MBPP_OUTPUT_NOT_NONE_TASKS,
            )
            found.append((inputs, expected, seconds))
        return found


_evalplus: EvalPlus


def _open_evalplus(data: Path) -> None:
    global _evalplus
    multiprocessing.set_start_method("fork", force=True)
    _evalplus = EvalPlus(data)


def _evalplus_passes(answers: list[Answer]) -> list[bool]:
    return [_evalplus.passes(answer) for answer in answers]


def by_evalplus(answers: list[Answer], workers: ProcessPoolExecutor) -> list[bool]:
    """Whether EvalPlus passes each answer. All answers to a task go to one worker, which knows its oracle then."""
    tasks: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        tasks.setdefault(answer.task_id, []).append(place)
    found = [False] * len(answers)
    with progress("EvalPlus", len(answers), "answers") as bar:
        parts = [[answers[place] for place in places] for places in tasks.values()]
        for places, passed in zip(tasks.values(), workers.map(_evalplus_passes, parts), strict=True):
            for place, one in zip(places, passed, strict=True):
                found[place] = one
            bar.advance(len(places))
    return found


def compare(name: str, answers: list[Answer], ours: list[str], theirs: list[bool]) -> dict[str, Any]:
    """One row of the table."""
    passed = [verdict == "Passed" for verdict in ours]
    differ = [
        {
            "task_id": answer.task_id,
            "index": answer.index,
            "ours": verdict,
            "evalplus": "pass" if their else "fail",
            "reason": reason(name, answer.task_id, answer.index),
        }
        for answer, verdict, mine, their in zip(answers, ours, passed, theirs, strict=True)
        if mine != their
    ]
    return {
        "set": name,
        "answers": len(answers),
        "both_pass": sum(mine and their for mine, their in zip(passed, theirs, strict=True)),
        "both_fail": sum(not mine and not their for mine, their in zip(passed, theirs, strict=True)),
        "differ": differ,
        "evalplus": "".join("P" if their else "f" for their in theirs),
    }


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['set']:50} {row['answers']:6} {row['both_pass']:6} {row['both_fail']:6} {len(row['differ']):6}",
        flush=True,
    )
    for one in row["differ"]:
        what = f"{one['task_id']} #{one['index']}: ours {one['ours']}, EvalPlus {one['evalplus']}"
        print(f"    {what}: {one['reason'] or 'NOT EXPLAINED'}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--each", type=int, default=4, help="answers of CodeGen a task")
    parser.add_argument("--only", action="append", default=[], help="judge this set again; repeatable")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    problems = {file: problems_of(arguments.data, file) for file in (HUMANEVAL, MBPP)}
    rows: dict[str, dict[str, Any]] = {}
    if arguments.only:
        rows = {row["set"]: row for row in json.loads(arguments.out.read_text(encoding="utf-8"))["sets"]}
    context = multiprocessing.get_context("spawn")
    start: Callable[[Path], None] = _open_evalplus
    with (
        ProcessPoolExecutor(arguments.workers, context, start, (arguments.data,)) as workers,
        Judge(JudgeSettings(workers=arguments.workers, cpu_seconds=CPU_SECONDS)) as judge,
    ):
        print(f"{'':50} {'answers':>6} {'pass':>6} {'fail':>6} {'differ':>6}")
        for name, file, answers in answer_sets(arguments.data, arguments.each):
            if not arguments.only or name in arguments.only:
                ours = by_ours(problems[file], answers, judge)
                rows[name] = compare(name, answers, ours, by_evalplus(answers, workers))
                write(arguments.out, arguments.each, list(rows.values()))
            show(rows[name])
    print(f"{sum(row['answers'] for row in rows.values())} answers")
    return int(any(not one["reason"] for row in rows.values() for one in row["differ"]))


def write(path: Path, each: int, rows: list[dict[str, Any]]) -> None:
    """Save the table, with EvalPlus's verdict on every answer: P or f, in the order of `answer_sets`."""
    for row in rows:
        for one in row["differ"]:
            one["reason"] = reason(row["set"], one["task_id"], one["index"])
    total = {"answers": sum(row["answers"] for row in rows), "differ": sum(len(row["differ"]) for row in rows)}
    found = {"evalplus": importlib.metadata.version("evalplus"), "each": each, **total, "sets": rows}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def reason(name: str, task_id: str, index: int) -> str:
    """Why the two may differ on an answer; empty where nobody has found out."""
    return EXPLAINED.get(f"{name}: {task_id} #{index}", EXPLAINED.get(task_id, ""))


if __name__ == "__main__":
    sys.exit(main())
