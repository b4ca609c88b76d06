"""The soak in small, and that it would notice: a leak, a process left over, a wrong verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
# In a process of its own: what other tests have left behind may be freed at any time.
GROWING = """
import json, os, subprocess, tempfile
import soak
before = soak.measure()
children = [subprocess.Popen(["sleep", "60"]) for _ in range(1 + soak.SHORT["processes of the judge"])]
try:
    ballast = os.urandom(1 << 20) * 40
    with tempfile.TemporaryDirectory(prefix="ap2o-judge-"), tempfile.NamedTemporaryFile(dir="/dev/shm"):
        print(json.dumps([list(before), soak.grown(before, soak.measure())]))
finally:
    for child in children:
        child.kill()
        child.wait()
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
    assert closed == end == 0 and before >= 2 and after >= 2  # that no more have come is the soak's own to say


@pytest.mark.slow
def test_a_leak_is_told_by_name() -> None:
    done = run("-c", LEAKING, "--count", "20", "--hostile", "0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "grown while judging: descriptors of the trainer" in done.stdout
    assert "left after closing: descriptors of the trainer" in done.stdout


def test_every_figure_sees_what_it_is_named_after() -> None:
    done = run("-c", GROWING)
    assert done.returncode == 0, done.stderr
    before, grown = json.loads(done.stdout)
    told = [name for name in before if name not in ("cgroups", "memory of the judge's processes, MiB")]
    assert set(told) <= set(grown), grown


def test_a_wrong_verdict_is_told() -> None:
    right, wrong = frozenset({"Passed"}), frozenset({"WrongResult"})
    programs = [
        soak.Program(problem=PROBLEM, code=HONEST, expected=expected) for expected in (right, wrong, frozenset())
    ]
    with Judge(JudgeSettings(workers=1)) as judge:
        types, told = soak.judge_them(judge, programs, "test")
    assert types == {"Passed": 3} and len(told) == 1 and "expected ['WrongResult']" in told[0]
