"""Ctrl-C in every stage: once ends with what is in progress kept and says how to go on, twice ends at once."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from ap2o_fast.book import ErrorBook
from ap2o_fast.interrupt import ASKED
from ap2o_fast.reporting.metrics import read_lines
from tests.launch import Ap2o

PATIENCE = 180.0
LONG = ["sampling.n=150", "quiz.n=100", "evaluate.n=150", "train.epochs=4"]
"""Stages long enough to be interrupted in the middle."""
ANSWERS = {"exam": 4 * 150, "test": 150, "quiz": 2 * 100}


def answers(book: Path) -> int:
    return len(ErrorBook.open(book)) if (book / "manifest.json").exists() else 0


STAGES: dict[str, Callable[[Path], bool]] = {  # in the order of a run
    "exam": lambda run: answers(run / "book") > 0,
    "test": lambda run: answers(run / "test") > 0,
    "quiz": lambda run: answers(run / "quiz") > 0,
    "training": lambda run: len(read_lines(run / "metrics.jsonl")) > 0,
}


def wait_for(process: Ap2o, reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.is_running(), f"ended before {what}: {process.errors()}"
        assert time.monotonic() < deadline, f"never reached {what}"
        time.sleep(0.001)


def interrupt(process: Ap2o, reached: Callable[[], bool], what: str) -> str:
    """Ctrl-C once something is reached; returns what was said."""
    wait_for(process, reached, what)
    process.send(signal.SIGINT)
    assert process.wait(PATIENCE) == 130, process.errors()
    assert "Traceback" not in process.errors()
    return process.errors()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_world(tmp_path_factory.mktemp("ctrl-c")).settings


def test_once_in_every_stage_keeps_what_there_is_and_says_how_to_go_on(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = Ap2o("run", world, f"run_dir={run}", *LONG)
    for stage, reached in STAGES.items():
        said = interrupt(process, lambda reached=reached: reached(run), stage)  # type: ignore[misc]
        assert said.endswith(f"go on: ap2o resume {run}\n"), said
        if stage == "training":
            state = next((run / "checkpoints/training").glob("step-*/COMPLETE")).parent
            assert int(state.name.split("-")[1]) == len(read_lines(run / "metrics.jsonl"))
            assert "training: a checkpoint after" in said
        else:
            kept = answers(run / ("book" if stage == "exam" else stage))
            assert 0 < kept < ANSWERS[stage] and f"{stage}: {kept} answers in {run}" in said, said
            assert ASKED in said
        process = Ap2o("resume", run)
    interrupt(process, lambda: len(read_lines(run / "quiz.jsonl")) > 1, "the second quiz")


def test_a_stage_by_itself_goes_on_by_its_own_command(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = Ap2o("exam", world, f"run_dir={run}", *LONG)
    said = interrupt(process, lambda: answers(run / "book") > 0, "the exam")
    assert said.endswith(f"go on: ap2o exam {run}\n")


@pytest.mark.parametrize("stage", STAGES)
def test_twice_ends_at_once_with_what_is_committed(world: Path, tmp_path: Path, stage: str) -> None:
    run = tmp_path / "run"
    shorter = [] if stage in ("exam", "test") else ["evaluate.before=false", "sampling.n=24"]
    shorter += [] if stage != "test" else ["sampling.n=24"]
    process = Ap2o("run", world, f"run_dir={run}", *LONG, *shorter)
    wait_for(process, lambda: STAGES[stage](run), stage)
    process.send(signal.SIGINT)
    wait_for(process, lambda: ASKED in process.errors(), "the first interrupt")
    process.send(signal.SIGINT)
    assert process.wait(PATIENCE) == 130, process.errors()
    assert process.errors().endswith(f"go on: ap2o resume {run}\n"), process.errors()
    for name in ("book", "quiz", "test"):
        if (run / name).exists():
            assert ErrorBook.open(run / name, check=True).lost_rows == 0


def test_a_comparison_says_how_many_runs_are_done(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "comparison"
    some = ["--systems", "dpo,dyn-dpo", "--seeds", "1", "sampling.n=24", "train.epochs=30", "compare.budget=own"]
    process = Ap2o("compare", world, f"run_dir={folder}", *some)
    said = interrupt(
        process, lambda: any(len(read_lines(p)) > 0 for p in folder.glob("runs/*/metrics.jsonl")), "a run's training"
    )
    assert "runs: 0 of 2 finished, 1 more begun" in said
    assert said.endswith(f"go on: ap2o compare {folder}\n")
    assert list(folder.glob("runs/*/checkpoints/training/step-*/COMPLETE"))


def test_ctrl_c_at_a_terminal_reaches_the_judges_processes_too_and_the_table_is_cleared(
    world: Path, tmp_path: Path
) -> None:
    """The key sends the signal to every process of the terminal's foreground group."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "ap2o_fast", "exam", str(world), f"run_dir={run}", *LONG]
    root = Path(__file__).resolve().parents[2]
    paths = f"{root}{os.pathsep}{root / 'kernels'}"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "100"},
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling terminal
    )
    os.close(theirs)
    seen, pressed, deadline = b"", False, time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.01)[0]:
            try:
                seen += os.read(ours, 1 << 16)
            except OSError:  # it has closed its side
                break
        if not pressed and answers(run / "book") > 0 and b"pass@1" in seen:
            os.write(ours, b"\x03")
            pressed = True
    os.close(ours)
    assert process.wait(PATIENCE) == 130, seen.decode()
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen.decode())
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    assert "errors, exam (init)" in text, "the histogram grew"
    assert lines[-1] == f"go on: ap2o exam {run}"
    assert "exam (init): stopped at" in text, lines[-12:]
    assert f"exam: {answers(run / 'book')} answers" in text
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l"), "the cursor is there again"


def test_with_json_the_last_line_says_what_is_kept(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "ap2o_fast", "exam", str(world), f"run_dir={run}", "--json", *LONG]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(json.loads(line))
        if lines[-1]["event"] == "stage" and lines[-1]["done"] > 0 and lines[-1]["state"] == "running":
            process.send_signal(signal.SIGINT)
            break
    rest, said = process.communicate(timeout=PATIENCE)
    lines += map(json.loads, rest.splitlines())
    assert process.returncode == 130, said
    assert [line["state"] for line in lines if line["event"] == "stage"][-1] == "stopped"
    last = lines[-1]
    assert (last["event"], last["exit_code"], last["goes_on"]) == ("interrupted", 130, f"ap2o exam {run}")
    assert last["kept"] == [f"exam: {answers(run / 'book')} answers in {run / 'book'}"]
