"""The judge's own processes: levels, order, laziness, retries, and that nothing is left behind."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ap2o_fast.config import JudgeSettings
from ap2o_fast.errors import SandboxRefused, UsageError
from ap2o_fast.judge import ErrorType, Job, Judge, detect_level, syscalls
from ap2o_fast.judge.examiners import Examiners
from ap2o_fast.judge.jail import Features
from ap2o_fast.problems.problem import Problem

DOUBLE = Problem(task_id="double", prompt="", entry_point="f", test="assert f(2) == 4\nassert f(5) == 10")
TRIPLE = Problem(task_id="triple", prompt="", entry_point="f", test="assert f(2) == 6")
ROOT = str(Path(__file__).resolve().parents[2])
ALL = ("namespaces", "landlock", "seccomp", "cgroup")


def descendants(root: int) -> set[int]:
    """Every process below `root`."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            state, parent = text.rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry)] = int(parent)
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {root}


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def alive(processes: set[int]) -> set[int]:
    left = set()
    for process in processes:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            left.add(process)
    return left


def test_levels_follow_from_the_boundaries() -> None:
    def level(**missing: str) -> int:
        return Features(**{name: missing.get(name, "") for name in ALL}).level

    assert level() == 3
    assert level(cgroup="no") == 2
    assert level(namespaces="no") == 2
    assert level(landlock="no") == level(seccomp="no") == level(landlock="no", seccomp="no") == 2
    assert level(namespaces="no", landlock="no") == level(namespaces="no", seccomp="no") == 1


@pytest.mark.parametrize("missing", ["namespaces", "landlock", "seccomp", "cgroup"])
def test_detection_says_what_is_missing_and_how_to_get_it(missing: str) -> None:
    level, findings = detect_level(without=[missing])
    assert level == 2 or missing != "cgroup"
    (line,) = [line for line in findings if line.startswith(missing)]
    assert "left out on request" in line and "fix:" in line


def test_below_the_least_level_nothing_runs() -> None:
    before = descendants(os.getpid())
    with (
        pytest.raises(SandboxRefused, match="level 2 is demanded, but only level 1") as refusal,
        Judge(JudgeSettings(min_level=2, workers=1), without=ALL),
    ):
        pytest.fail("opened")
    assert "namespaces: no" in str(refusal.value) and "do:" in str(refusal.value)
    assert descendants(os.getpid()) <= before


@pytest.mark.parametrize("without", [("namespaces",), ("landlock", "seccomp"), ("cgroup", "seccomp"), ALL])
def test_every_level_judges_alike(without: tuple[str, ...]) -> None:
    codes = {
        "def f(x): return 2 * x": ErrorType.Passed,
        "def f(x): return x": ErrorType.WrongResult,
        "import os\ndef f(x): os._exit(0)": ErrorType.Exit,
        "def f(x):\n    while True: pass": ErrorType.TimeoutError,
        "def f(x): return [0] * 10 ** 10": ErrorType.MemoryError,
        "import json, csv\ndef f(x):\n    open('a', 'w').write('b')\n    return 2 * x": ErrorType.Passed,
    }
    with Judge(JudgeSettings(min_level=1, workers=1, cpu_seconds=0.3), without=without) as judge:
        assert judge.level == (1 if without == ALL else 2)
        for code, error in codes.items():
            verdict = judge.judge(DOUBLE, code)
            assert verdict.error is error, (code, verdict)
            assert verdict.sandbox_level == judge.level


def test_order_is_kept_and_jobs_are_taken_lazily(judge: Judge) -> None:
    taken = []

    def jobs() -> Iterator[Job]:
        for number in range(40):
            taken.append(number)
            problem = TRIPLE if number % 3 else DOUBLE
            slow = "sum(range(3_000_000))\n    " if number % 7 == 0 else ""
            yield Job(key=number, problem=problem, code=f"def f(x):\n    {slow}return {3 if number % 3 else 2} * x")

    results = judge.judge_all(jobs())
    first, verdict = next(results)
    assert first.key == 0 and verdict.passed
    assert len(taken) < 20  # the first is slow: the other worker went on, but not to the end
    rest = list(results)
    assert [job.key for job, _ in rest] == list(range(1, 40))
    assert all(verdict.passed for _, verdict in rest)


def test_verdicts_repeat(judge: Judge) -> None:
    code = "import random\ndef f(x): return random.random(), list({'a', 'b', 'c', str(x)}), id"
    problem = Problem(task_id="r", prompt="", entry_point="f", test="assert f(1)[:2] == 0")
    code = code.replace(", id", "")
    messages = {judge.judge(problem, code).message for _ in range(5)}
    assert len(messages) == 1
    assert repr(random.Random(0).random())[:12] in messages.pop()


def test_more_problems_than_examiners_in_turn() -> None:
    problems = [
        Problem(task_id=str(n), prompt="", entry_point="f", test=f"assert f(1) == {n}\nassert f(2) == {2 * n}")
        for n in range(12)
    ]
    others = len(descendants(os.getpid()))
    with Judge(JudgeSettings(workers=1)) as judge:
        for right in (0, 1):
            for n, problem in enumerate(problems):
                verdict = judge.judge(problem, f"def f(x): return x * {n + 1 - right}")
                assert verdict.passed == bool(right), (n, verdict)
        # Supervisor, fork server, waiting jail, and no more examiners than are kept.
        assert until(lambda: len(descendants(os.getpid())) - others <= 3 + 8)


def test_problems_wanted_least_lately_are_forgotten() -> None:
    wire = {"entry_point": "f", "test": "assert f(1) == 1", "setup": "", "preamble": "", "inputs": []}
    wire["language"] = "python"
    examiners = Examiners(Features(**dict.fromkeys(ALL, "no")))
    for key in ("a", "b", "c"):
        examiners.learn(key, wire, size=3 << 20)
    assert ["a" in examiners, "b" in examiners, "c" in examiners] == [False, True, True]


@pytest.mark.parametrize("victim", ["waiting jail", "examiner", "fork server"])
def test_a_process_that_dies_between_two_answers_is_replaced(victim: str) -> None:
    others = descendants(os.getpid())
    with Judge(JudgeSettings(workers=1)) as judge:
        assert judge.judge(DOUBLE, "def f(x): return 2 * x").passed
        (supervisor,) = [p for p in descendants(os.getpid()) - others if is_supervisor(p)]
        assert until(lambda: len(descendants(supervisor)) == 4)  # fork server, jail, two examiners
        children = sorted(p for p in descendants(supervisor) if parent(p) == supervisor)
        (jail,) = descendants(supervisor) - set(children)
        (server,) = [p for p in children if parent(jail) == p]
        examiner = next(p for p in reversed(children) if p != server)
        killed = {"waiting jail": jail, "examiner": examiner, "fork server": server}[victim]
        os.kill(killed, signal.SIGKILL)
        assert until(lambda: not alive({killed}))
        assert judge.judge(DOUBLE, "def f(x): return 2 * x").passed
        assert judge.judge(DOUBLE, "def f(x): return x").error is ErrorType.WrongResult
    assert until(lambda: not alive(descendants(os.getpid()) - others))


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_dead_supervisor_is_replaced_and_the_answer_judged_again() -> None:
    others = descendants(os.getpid())
    with Judge(JudgeSettings(workers=1, cpu_seconds=5)) as judge:
        (supervisor,) = [p for p in descendants(os.getpid()) - others if is_supervisor(p)]
        results = judge.judge_all(
            Job(key=i, problem=DOUBLE, code="import time\ndef f(x):\n    time.sleep(0.5)\n    return 2 * x")
            for i in range(2)
        )
        below = descendants(supervisor)
        killer = threading.Timer(0.7, os.kill, (supervisor, signal.SIGKILL))
        killer.start()
        assert [verdict.error for _, verdict in results] == [ErrorType.Passed] * 2
        assert until(lambda: not alive(below))


def is_supervisor(process: int) -> bool:
    try:
        return parent(process) == os.getpid() and b"judge.server" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT", "end"])
def test_no_process_outlives_the_trainer(how: str) -> None:
    script = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
from ap2o_fast.config import JudgeSettings
from ap2o_fast.judge import Job, Judge
from ap2o_fast.problems.problem import Problem
problem = Problem(task_id="t", prompt="", entry_point="f", test="assert f(1) == 1")
sleepers = (Job(key=i, problem=problem, code="import time\\ndef f(x): time.sleep(600)") for i in range(4))
with Judge(JudgeSettings(workers=2, cpu_seconds=60, min_level=0)) as judge:
    print("open", flush=True)
    if sys.argv[1] == "end":
        judge.judge(problem, "def f(x): return x")
        raise SystemExit(0)
    list(judge.judge_all(sleepers))
"""
    environment = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen([sys.executable, "-c", script, how], env=environment, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None and trainer.stdout.readline() == b"open\n"
        if how != "end":
            # Two supervisors, each with fork server, examiner, the sleeping answer and the jail for the next.
            assert until(lambda: len(descendants(trainer.pid)) >= 10), descendants(trainer.pid)
            below = descendants(trainer.pid)
            trainer.send_signal(signal.SIGKILL if how == "SIGKILL" else signal.SIGINT)
        else:
            below = set()
        trainer.wait(30)
    assert until(lambda: not alive(below)), alive(below)


def test_close_ends_everything_and_may_be_repeated() -> None:
    before = descendants(os.getpid())
    judge = Judge(JudgeSettings(workers=2))
    with judge:
        assert judge.judge(DOUBLE, "def f(x): return 2 * x").passed
        assert descendants(os.getpid()) > before
    judge.close()
    assert descendants(os.getpid()) <= before
    with pytest.raises(UsageError, match="not open"):
        judge.judge(DOUBLE, "")


def test_without_namespaces_no_folder_is_left() -> None:
    def folders() -> set[Path]:
        places = {Path(os.readlink(f"/proc/{process}/cwd")) for process in alive(descendants(os.getpid()))}
        return {place for place in places if place.name.startswith("ap2o-judge-")}

    with Judge(JudgeSettings(workers=1), without=["namespaces"]) as judge:
        assert judge.judge(DOUBLE, "def f(x):\n    open('a', 'w').write('b')\n    return 2 * x").passed
        assert until(lambda: len(folders()) == 1)
        (folder,) = folders()  # of the jail that waits
    assert not folder.exists()


def test_the_judges_processes_never_load_the_heavy_libraries() -> None:
    heavy = ("torch", "numpy", "transformers", "pydantic")
    code = f"import sys, ap2o_fast.judge.server\nprint([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_an_idle_judge_stays_ready(judge: Judge) -> None:
    assert judge.judge(DOUBLE, "def f(x): return 2 * x").passed
    (supervisor, *_) = sorted(p for p in descendants(os.getpid()) if is_supervisor(p))
    below = descendants(supervisor)
    time.sleep(11)  # longer than any of the judge's own deadlines between two messages
    assert below <= alive(below)
    assert judge.judge(DOUBLE, "def f(x): return 2 * x").passed


def test_a_prepared_filter_lives_as_long_as_its_step() -> None:
    """Its address is all that the call gets: freed, it would be whatever lies there then, and refused or worse."""
    held = weakref.ref(made := syscalls.Filter(syscalls.program()))
    step = made.install()
    del made
    gc.collect()
    assert held() is not None
    del step
    gc.collect()
    assert held() is None
