"""Judging speed: programs a second and CPU time a program, ours beside EvalPlus's check and one in AP2O's style.

    python benchmarks/judge.py --answers samples.jsonl.gz --humaneval HumanEval.jsonl.gz --plus HumanEvalPlus.jsonl.gz
        [--count 2000] [--block 100] [--cores 0] [--judges ours EvalPlus] [--out FILE.json]

The same recorded answers for all, on HumanEval's base tests, one program at a time. Each judge lives in a process of
its own, and they take blocks of answers in turn, so that a slow moment of the machine meets all alike. The answers are
`prompt` with `samples`, function bodies to append to it; so many of each problem that `--count` is reached. All are
judged twice: mixed, each answer to another problem than the one before, and grouped by problem, as an exam does.

Printed are programs a second of wall time, the median wall time of a program (a few that run into their limit weigh as
much as hundreds of others), CPU milliseconds a program (the judge's process and all below it), and how many times a
block takes longer than with ours: the 20th, 50th and 80th percentile over the blocks. `--cores 1` has
each judge and all its processes on one core.

EvalPlus is `evalplus.eval.untrusted_check` (0.3.1), once with its own limit, 1 s of wall time a test, and once with
ours, 2 s, since an answer that runs for ever costs each its limit. The last runs an answer as AP2O's published code
does: a process and a manager for each, and a passing answer again and again, here the 10 times that are its least.
Both only take dangerous functions away from the answer (EvalPlus's `reliability_guard`): run them where nothing can be
lost.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import io
import json
import multiprocessing
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "kernels")]

Answer = tuple[str, str]
"""Its problem's task_id, and its complete source."""
SECONDS, REPEATS = 2.0, 10
IMPORTS = re.compile(r"^\s*(import|from)\s+(torch|tensorflow)\b", re.M)
"""Answers that load a framework are left out: where it is installed, its import alone exceeds the limit."""


def read(path: Path) -> list[dict[str, Any]]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.splitlines()]


def cpu_seconds() -> float:
    """CPU time of this process, of all that live below it, and of all that have ended there."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents, spent = {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            parents[int(entry)], spent[int(entry)] = int(fields[1]), sum(map(int, fields[11:15])) / ticks
    below = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return sum(spent[process] for process in below)


def nearest(prompt: str, problems: dict[str, dict[str, Any]]) -> str:
    """The problem whose prompt begins like this one, which lacks the examples. Six names stand for two problems."""
    texts = {task_id: row["prompt"] for task_id, row in problems.items()}
    return max(texts, key=lambda task_id: len(os.path.commonprefix([prompt, texts[task_id]])))  # noqa: RUF071


def read_answers(samples: Path, problems: dict[str, dict[str, Any]], count: int) -> list[Answer]:
    """The first answers of every problem, all first ones before the second ones."""
    records = [(nearest(row["prompt"], problems), row) for row in read(samples)]
    rounds = range(max(len(row["samples"]) for _, row in records))
    answers = [
        (task_id, row["prompt"] + row["samples"][round])
        for round in rounds
        for task_id, row in records
        if round < len(row["samples"]) and not IMPORTS.search(row["samples"][round])
    ]
    return answers[:count]


def ours(problems: dict[str, dict[str, Any]], _: Path, stack: contextlib.ExitStack) -> Callable[[Answer], str]:
    from ap2o_fast.config import JudgeSettings
    from ap2o_fast.judge import Judge
    from ap2o_fast.problems import Problem

    known = {
        task_id: Problem(
            task_id=task_id,
            prompt=row["prompt"],
            entry_point=row["entry_point"],
            test=row["test"],
            preamble=row["prompt"][: row["prompt"].rindex(f"def {row['entry_point']}(")],
        )
        for task_id, row in problems.items()
    }
    judge = stack.enter_context(Judge(JudgeSettings(workers=1, cpu_seconds=SECONDS)))
    return lambda answer: judge.judge(known[answer[0]], answer[1]).error.name


def evalplus(
    _: dict[str, dict[str, Any]], plus: Path, __: contextlib.ExitStack, least_seconds: float = 1.0
) -> Callable[[Answer], str]:
    from evalplus.eval import PASS, untrusted_check

    tasks = {}
    for row in read(plus):
        space: dict[str, Any] = {}
        exec(row["prompt"] + row["canonical_solution"], space)
        expected, seconds = [], []
        for arguments in row["base_input"]:
            start = time.perf_counter()
            expected.append(space[row["entry_point"]](*json.loads(json.dumps(arguments))))
            seconds.append(time.perf_counter() - start)
        tasks[row["task_id"]] = (row, expected, seconds)

    def check(answer: Answer) -> str:
        row, expected, seconds = tasks[answer[0]]
        stat, _ = untrusted_check(
            "humaneval",
            answer[1],
            row["base_input"],
            row["entry_point"],
            expected,
            row["atol"],
            seconds,
            fast_check=True,
            min_time_limit=least_seconds,
        )
        return "Passed" if stat == PASS else "failed"

    return check


def _upstream_child(code: str, entry_point: str, test: str, said: Any) -> None:
    from evalplus.eval.utils import reliability_guard

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            reliability_guard()
            for _ in range(REPEATS):
                space: dict[str, Any] = {}
                exec(code + "\n" + test + f"\ncheck({entry_point})", space)
            said.append("Passed")
        except BaseException as error:
            said.append(type(error).__name__)


def upstream(problems: dict[str, dict[str, Any]], _: Path, __: contextlib.ExitStack) -> Callable[[Answer], str]:
    def check(answer: Answer) -> str:
        row = problems[answer[0]]
        with multiprocessing.get_context("fork").Manager() as manager:
            said = manager.list()
            arguments = (answer[1], row["entry_point"], row["test"], said)
            child = multiprocessing.get_context("fork").Process(target=_upstream_child, args=arguments)
            child.start()
            child.join(SECONDS + 1)
            if child.is_alive():
                child.kill()
                child.join()
            return said[0] if said else "TimeoutError"

    return check


STATELESS = "in upstream's style"
"""Begins anew with each answer, so it is measured in one order."""
SAME_LIMIT = "EvalPlus, our limit"
JUDGES = {
    "ours": ours,
    "EvalPlus": evalplus,
    SAME_LIMIT: functools.partial(evalplus, least_seconds=SECONDS),
    STATELESS: upstream,
}


def serve(name: str, problems: dict[str, dict[str, Any]], plus: Path, cores: int, pipe: Connection) -> None:
    """A judge's own process: blocks of answers in; wall seconds of each, CPU seconds of all and verdicts out."""
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    multiprocessing.set_start_method("fork", force=True)  # a spawned process would hand spawning on to EvalPlus
    with contextlib.ExitStack() as stack:
        check = JUDGES[name](problems, plus, stack)
        pipe.send("ready")
        while (block := pipe.recv()) is not None:
            spent, verdicts, seconds = cpu_seconds(), [], []
            for answer in block:
                start = time.perf_counter()
                verdicts.append(check(answer))
                seconds.append(time.perf_counter() - start)
            pipe.send((seconds, cpu_seconds() - spent, verdicts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--humaneval", type=Path, required=True)
    parser.add_argument("--plus", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--cores", type=int, default=0)
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=list(JUDGES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    problems = {row["task_id"]: row for row in read(arguments.humaneval)}
    mixed = read_answers(arguments.answers, problems, arguments.count)
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in arguments.judges:
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(name, problems, arguments.plus, arguments.cores, theirs)).start()
        assert pipes[name].recv() == "ready"
    rows = []
    for order, answers in {"mixed": mixed, "grouped": sorted(mixed, key=lambda answer: answer[0])}.items():
        blocks = [answers[start : start + arguments.block] for start in range(0, len(answers), arguments.block)]
        rows += measure(order, blocks, pipes)
    for pipe in pipes.values():
        pipe.send(None)
    if arguments.out:
        facts = {"count": len(mixed), "block": arguments.block, "cores": arguments.cores or os.cpu_count()}
        arguments.out.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    return 0


def measure(order: str, blocks: list[list[Answer]], pipes: dict[str, Connection]) -> list[dict[str, Any]]:
    """Have every judge judge every block, in turn; print and return a row for each."""
    judges = [name for name in pipes if order == "grouped" or name != STATELESS]
    wall: dict[str, list[float]] = {name: [] for name in judges}
    cpu: dict[str, list[float]] = {name: [] for name in judges}
    verdicts: dict[str, list[str]] = {name: [] for name in judges}
    each: dict[str, list[float]] = {name: [] for name in judges}
    for number, block in enumerate(blocks):
        for name in judges:
            pipes[name].send(block)
            seconds, spent, found = pipes[name].recv()
            each[name] += seconds
            wall[name].append(sum(seconds) / len(block))
            cpu[name].append(spent / len(block))
            verdicts[name] += found
        rates = ", ".join(f"{name} {1 / statistics.median(wall[name]):.1f}/s" for name in judges)
        print(f"{order}, block {number + 1} of {len(blocks)}: {rates}", file=sys.stderr, flush=True)
    answers = [answer for block in blocks for answer in block]
    rows = []
    for name in judges:
        different = [
            n for n, pair in enumerate(zip(verdicts[name], verdicts["EvalPlus"], strict=True)) if differ(*pair)
        ]
        rows.append(
            {
                "order": order,
                "judge": name,
                "programs_per_second": 1 / statistics.mean(wall[name]),
                "median_ms": 1000 * statistics.median(each[name]),
                "cpu_ms": 1000 * statistics.mean(cpu[name]),
                "times_ours": quantiles(wall[name], wall["ours"]),
                "times_ours_cpu": quantiles(cpu[name], cpu["ours"]),
                "passed": verdicts[name].count("Passed"),
                "not_as_evalplus": len(different),
                "block_wall_ms": [round(1000 * seconds, 3) for seconds in wall[name]],
                "block_cpu_ms": [round(1000 * seconds, 3) for seconds in cpu[name]],
            }
        )
        print(
            f"{order:8} {name:20} {rows[-1]['programs_per_second']:6.1f} programs/s, "
            f"median {rows[-1]['median_ms']:6.1f} ms, {rows[-1]['cpu_ms']:6.1f} ms CPU; "
            f"times ours {show(rows[-1]['times_ours'])}, in CPU {show(rows[-1]['times_ours_cpu'])}; "
            f"{rows[-1]['passed']} passed, {len(different)} not as EvalPlus"
        )
        if name == "ours":
            for n in different:
                print(f"  {answers[n][0]}: ours {verdicts[name][n]}, EvalPlus {verdicts['EvalPlus'][n]}")
    return rows


def differ(mine: str, theirs: str) -> bool:
    return (mine == "Passed") != (theirs == "Passed")


def quantiles(values: list[float], base: list[float]) -> list[float]:
    """The 20th, 50th and 80th percentile of the ratios, block by block."""
    ratios = [value / ours for value, ours in zip(values, base, strict=True)]
    if len(ratios) == 1:
        return ratios * 3
    cuts = statistics.quantiles(ratios, n=10, method="inclusive")
    return [round(cuts[n], 3) for n in (1, 4, 7)]


def show(ratios: list[float]) -> str:
    return " / ".join(f"{ratio:.2f}" for ratio in ratios)


if __name__ == "__main__":
    sys.exit(main())
