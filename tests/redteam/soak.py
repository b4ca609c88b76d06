"""Thousands of programs, honest and hostile, through one judge: afterwards everything must be as it was before.

    make soak, or: python tests/redteam/soak.py [--count 10000] [--hostile 0.03] [--workers 2] [--without namespaces]

The mix: recorded answers of a real model to HumanEval where ../shared/data is there (else the starter set's solutions
and their first halves), honest controls that must pass, and the hostile programs of this folder with the verdicts they
expect. Prints a table; exits with 1 if a process, descriptor, file, segment or memory is left, or a verdict is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "kernels"), str(Path(__file__).parent)]

from test_redteam import CPU, HONEST, PROBLEM, PROGRAMS, WALL_FACTOR, World, outside, processes  # noqa: E402

from ap2o_fast.config import JudgeSettings, SourceSettings  # noqa: E402
from ap2o_fast.judge import Job, Judge, kernel  # noqa: E402
from ap2o_fast.problems import Problem, load  # noqa: E402
from ap2o_fast.reporting.terminal import progress  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
CONTROLS = 0.1
SETTLED_SECONDS = 10.0
Figures = Mapping[str, float]

# How much more than before a figure may be. Counts: nothing. Memory: what an allocator keeps of a day's work.
ALLOWED = {"memory of the trainer, MiB": 16.0, "memory of the judge's processes, MiB": 24.0}
# A lane whose examiner was lost to a hostile program makes another when it needs one: each of two may be one short.
SHORT = {"processes of the judge": 2}


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program; `expected` names the verdicts that are right, empty where any is."""

    problem: Problem
    code: str
    expected: frozenset[str] = frozenset()


def measure() -> dict[str, float]:
    """What this process and all below it hold. Processes that escape from the judge become children of this one."""
    _bury()
    below = processes()
    return {
        "processes of the judge": len(below),
        "descriptors of the trainer": len(os.listdir("/proc/self/fd")) - 1,
        "descriptors of the judge's processes": sum(_descriptors(process) for process in below),
        "memory of the trainer, MiB": _memory_mib(os.getpid()),
        "memory of the judge's processes, MiB": sum(map(_memory_mib, below)),
        "temporary files": len(list(Path(tempfile.gettempdir()).glob("ap2o-judge-*"))),
        "shared memory and message queues": _shared(),
        "cgroups": sum(1 for process in _cgroups() if process in below or not Path(f"/proc/{process}").exists()),
    }


def _bury() -> None:
    """Reap what became a child of this process and has ended. Supervisors, who lead sessions, are their lane's."""
    for process in processes():
        with contextlib.suppress(OSError):
            state, parent, _, session = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:4]
            if state == "Z" and int(parent) == os.getpid() and int(session) != process:
                os.waitpid(process, os.WNOHANG)


def _descriptors(process: int) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/fd"))
    except OSError:  # ended meanwhile, or not ours to look into
        return 0


def _memory_mib(process: int) -> float:
    """What is resident of its own: pages of files do not leak, and come and go as the kernel wants its memory."""
    try:
        found = re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0.0
    return sum(map(int, found)) / 1024


def _shared() -> int:
    tables = [Path(f"/proc/sysvipc/{kind}") for kind in ("shm", "sem", "msg")]
    count = sum(len(table.read_text().splitlines()) - 1 for table in tables if table.exists())
    shm = Path("/dev/shm")
    return count + (len(list(shm.iterdir())) if shm.is_dir() else 0)


def _cgroups() -> Iterator[int]:
    """The supervisors that cgroups are named after."""
    yield from {int(path.name.rpartition("-")[2]) for path in Path("/sys/fs/cgroup").glob("**/ap2o-judge-*")}


def settled(goal: Callable[[Figures], bool]) -> dict[str, float]:
    """The figures once they meet the goal, or when they have had long enough."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while not goal(found := measure()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def grown(before: Figures, after: Figures) -> list[str]:
    """Names of the figures that have grown by more than is allowed."""
    return [name for name, value in after.items() if value > before[name] + (ALLOWED | SHORT).get(name, 0)]


def make_programs(count: int, hostile: float, world: World) -> list[Program]:
    """The mix, the same for the same arguments."""
    chance = random.Random(0)
    attacks, controls = [], [Program(problem=PROBLEM, code=HONEST, expected=frozenset({"Passed"}))]
    for path in PROGRAMS:
        code, expected = world.program(path)
        program = Program(problem=PROBLEM, code=code, expected=frozenset(expected))
        (controls if expected == {"Passed"} else attacks).append(program)
    recorded, references = _recorded() if DATA.is_dir() else _starter()
    controls += references
    kinds = chance.choices(["attack", "control", "recorded"], [hostile, CONTROLS, 1 - CONTROLS - hostile], k=count)
    pools = {"attack": attacks, "control": controls, "recorded": recorded}
    for pool in pools.values():
        chance.shuffle(pool)
    turn = Counter[str]()
    programs = []
    for kind in kinds:
        programs.append(pools[kind][turn[kind] % len(pools[kind])])
        turn[kind] += 1
    print(", ".join(f"{turn[kind]:,} {kind}s" for kind in pools).replace("recordeds", "recorded answers"))
    return programs


def _recorded() -> tuple[list[Program], list[Program]]:
    problems = load(SourceSettings(source=str(DATA / "humaneval" / "HumanEval.jsonl.gz")))
    raw = gzip.decompress((DATA / "samples" / "codegen16b" / "samples.jsonl.gz").read_bytes())
    recorded = []
    for line in raw.splitlines():
        row = json.loads(line)
        # It lacks the examples, and six names stand for two problems.
        prompt = row["prompt"]
        problem = max(problems, key=lambda known: len(os.path.commonprefix([prompt, known.prompt])))  # noqa: RUF071
        recorded += [Program(problem=problem, code=row["prompt"] + body) for body in row["samples"]]
    return recorded, _solved(problems)


def _starter() -> tuple[list[Program], list[Program]]:
    problems = load(SourceSettings(source="starter"))
    solutions = [(problem, problem.solution or "") for problem in problems]
    halves = [Program(problem=problem, code=code[: len(code) // 2]) for problem, code in solutions]
    return halves + _solved(problems), _solved(problems)


def _solved(problems: list[Problem]) -> list[Program]:
    return [
        Program(problem=problem, code=problem.solution, expected=frozenset({"Passed"}))
        for problem in problems
        if problem.solution
    ]


def judge_them(judge: Judge, programs: list[Program], name: str) -> tuple[Counter[str], list[str]]:
    """Verdicts by type, and the wrong ones in words."""
    types, wrong = Counter[str](), []
    jobs = (
        Job(key=program, problem=program.problem, code=program.code, seed=number)
        for number, program in enumerate(programs)
    )
    with progress(name, len(programs), "programs") as bar:
        for job, verdict in judge.judge_all(jobs):
            types[verdict.error.name] += 1
            expected = job.key.expected
            fits = verdict.error.name in expected or (expected == {"failure"} and verdict.error.is_failure)
            if (expected and not fits) or verdict.error.name == "SandboxFailure":
                source = re.search(r"^# attack: (.*)$", job.code, re.M)
                what = source[1] if source else job.problem.task_id
                wrong.append(f"{what}: {verdict.error.name} ({verdict.message}), expected {sorted(expected)}")
            bar.advance(wrong=len(wrong))
    return types, wrong


def soak(count: int, hostile: float, workers: int, world: World, without: Sequence[str] = ()) -> list[str]:
    """Run it, print the table; returns what is wrong, in words."""
    programs = make_programs(count, hostile, world)
    closed = measure()
    settings = JudgeSettings(workers=workers, cpu_seconds=CPU, wall_factor=WALL_FACTOR, memory_mib=256, output_kib=64)
    last = [Program(problem=PROBLEM, code=HONEST)] * 16  # so that every worker ends with the same problem
    with Judge(settings, without=without) as judge:
        print(f"isolation level {judge.level}")
        # Caches fill and lanes start before the first look.
        judge_them(judge, programs[: max(count // 20, 50)] + last, "warm up")
        still = [measure()]
        before = settled(lambda found: still.append(found) or _counts(still[-2]) == _counts(found))  # type: ignore[func-returns-value]
        types, wrong = judge_them(judge, programs + last, "soak")
        after = settled(lambda found: not grown(before, found))
    end = settled(lambda found: not _left(closed, found))
    print(f"\n{'':40} {'closed':>10} {'before':>10} {'after':>10} {'closed again':>14}")
    for name in closed:
        print(f"{name:40} " + " ".join(f"{found[name]:10,.0f}" for found in (closed, before, after)), end="")
        print(f" {end[name]:14,.0f}{'   GROWN' if name in grown(before, after) + _left(closed, end) else ''}")
    print("verdicts: " + ", ".join(f"{name} {number:,}" for name, number in types.most_common()))
    world.untouched()
    wrong += [f"grown while judging: {name}" for name in grown(before, after)]
    return wrong + [f"left after closing: {name}" for name in _left(closed, end)]


def _counts(found: Figures) -> list[float]:
    return [value for name, value in found.items() if name not in ALLOWED]


def _left(closed: Figures, end: Figures) -> list[str]:
    """Memory apart: a closed judge leaves what its trainer has imported."""
    return [name for name, value in end.items() if name not in ALLOWED and value > closed[name]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--hostile", type=float, default=0.03, help="their share")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], help="boundaries to leave out, e.g. namespaces")
    arguments = parser.parse_args()
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as folder, outside(Path(folder)) as world:
        wrong = soak(arguments.count, arguments.hostile, arguments.workers, world, arguments.without)
    for line in wrong[:20]:
        print(f"wrong: {line}")
    print(f"{len(wrong)} things are wrong" if wrong else "everything is as it was")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
