"""The soak in small, and that it would notice: a leak, a process left over, a wrong verdict."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import soak
from test_redteam import HONEST, PROBLEM

from ap2o_fast.config import JudgeSettings
from ap2o_fast.judge import Judge

FOLDER = Path(__file__).parent
# The real thing with one descriptor lost an answer.
LEAKING = """
import os, sys
from ap2o_fast.judge.lane import Lane
import soak
run = Lane.run
Lane.run = lambda lane, *given: (os.dup(0), run(lane, *given))[1]
sys.exit(soak.main())
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    paths = f"{FOLDER}:{soak.ROOT}:{soak.ROOT / 'kernels'}"
    return subprocess.run(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=250
    )


@pytest.mark.slow
def test_everything_is_as_before() -> None:
    done = run(str(FOLDER / "soak.py"), "--count", "200", "--hostile", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything is as it was" in done.stdout and "programs/s" in done.stderr
    rows = {line[:40].strip(): line[40:].split() for line in done.stdout.splitlines()}
    closed, before, after, end = map(int, rows["processes of the judge"])
    assert closed == end == 0 and before >= after >= 2  # an examiner that had to be ended begins anew when it is wanted


@pytest.mark.slow
def test_a_leak_is_told_by_name() -> None:
    done = run("-c", LEAKING, "--count", "20", "--hostile", "0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "grown while judging: descriptors of the trainer" in done.stdout
    assert "left after closing: descriptors of the trainer" in done.stdout


def test_every_figure_sees_what_it_is_named_after() -> None:
    before = soak.measure()
    with ExitStack() as stack:
        for _ in range(1 + soak.SHORT["processes of the judge"]):
            child = stack.enter_context(subprocess.Popen(["sleep", "60"]))
            stack.callback(child.kill)
        stack.enter_context(tempfile.TemporaryDirectory(prefix="ap2o-judge-"))
        stack.enter_context(tempfile.NamedTemporaryFile(dir="/dev/shm"))
        ballast = bytearray(os.urandom(1 << 20) * 40)
        grown = soak.grown(before, soak.measure())
        del ballast
    told = [name for name in before if name not in ("cgroups", "RSS of the judge's processes, MiB")]
    assert set(told) <= set(grown), grown


def test_a_wrong_verdict_is_told() -> None:
    right, wrong = frozenset({"Passed"}), frozenset({"WrongResult"})
    programs = [
        soak.Program(problem=PROBLEM, code=HONEST, expected=expected) for expected in (right, wrong, frozenset())
    ]
    with Judge(JudgeSettings(workers=1)) as judge:
        types, told = soak.judge_them(judge, programs, "test")
    assert types == {"Passed": 3} and len(told) == 1 and "expected ['WrongResult']" in told[0]
