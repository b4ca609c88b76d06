"""Runs in processes of their own: side by side, failures by name, and none that outlives an interrupt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ap2o_fast import config
from ap2o_fast.comparing import runs
from ap2o_fast.comparing.systems import PlannedRun, planned_runs
from ap2o_fast.run_folder import RunFolder

FINISHES = "print('all well')"
FAILS = "import sys; print('error: no luck\\nwhy: none', file=sys.stderr); sys.exit(3)"
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
WAITS = """
import os, pathlib, signal, sys
def end(*_):
    pathlib.Path(sys.argv[1], "checkpoint").touch()
    sys.exit(130)
signal.signal(signal.SIGINT, end)
print(os.environ["OMP_NUM_THREADS"], os.environ["AP2O_CORES"], flush=True)
pathlib.Path(sys.argv[1], "began").touch()
while True:
    signal.pause()
"""


@pytest.fixture
def todo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[PlannedRun]:
    monkeypatch.setattr(runs, "begin", lambda run, exam: RunFolder.create(run.config, join=True))
    made = config.load(None, ["compare.systems=[dpo,dyn-dpo,ap2o-l2h]", "compare.seeds=[1]", f"run_dir={tmp_path}"])
    return planned_runs(made, tmp_path)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def choose(**by_system: str) -> None:
        def command(folder: RunFolder) -> list[str]:
            return [
                sys.executable,
                "-c",
                by_system[folder.config.curriculum.system.replace("-", "_")],
                str(folder.path),
            ]

        monkeypatch.setattr(runs, "command", command)

    return choose


def run_all(todo: list[PlannedRun], jobs: int = 2) -> dict[str, str]:
    found: dict[str, str] = {}
    exam = RunFolder(path=Path("exam"), config=todo[0].config)
    runs.run_all(todo, exam, jobs=jobs, quiet=True, ended=lambda run, error: found.__setitem__(run.name, error))
    return found


def test_a_process_continues_a_run_by_the_ordinary_command(todo: list[PlannedRun]) -> None:
    folder = RunFolder(path=todo[0].path, config=todo[0].config)
    here = [sys.executable, "-m", "ap2o_fast.with_parent", str(os.getpid())]
    assert runs.command(folder) == [*here, "resume", str(todo[0].path)]


def test_what_a_killed_process_had_started_saves_its_checkpoint_and_ends(tmp_path: Path) -> None:
    child = "import os, sys\nfrom ap2o_fast.with_parent import end_with\nend_with(os.getppid())" + WAITS
    start = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', *sys.argv[1:]], start_new_session=True)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "AP2O_CORES": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", start, child, str(tmp_path)], env=environment)
    while not (tmp_path / "began").exists():
        assert parent.poll() is None, "it never began"
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint").exists():
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.01)


def test_failures_are_named_and_the_others_go_on(todo: list[PlannedRun], programs: Callable[..., None]) -> None:
    programs(dpo=FAILS, dyn_dpo=DIES, ap2o_l2h=FINISHES)
    found = run_all(todo)
    assert found["dpo-s1"] == "no luck\nwhy: none"
    assert "ended with -9" in found["dyn-dpo-s1"] and "compare.log" in found["dyn-dpo-s1"]
    assert found["ap2o-l2h-s1"] == ""
    assert (todo[2].path / runs.LOG).read_text() == "all well\n"


def test_a_run_whose_folder_cannot_be_made_is_named_and_the_others_go_on(
    todo: list[PlannedRun], programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = runs.begin

    def refuse(run: PlannedRun, exam: RunFolder) -> RunFolder:
        if run is todo[0]:
            raise OSError("no room")
        return begin(run, exam)

    monkeypatch.setattr(runs, "begin", refuse)
    programs(dyn_dpo=FINISHES, ap2o_l2h=FINISHES)
    found = run_all(todo)
    assert found["dpo-s1"].startswith("OSError: no room (see ") and not todo[0].path.exists()
    assert "no room" in todo[0].path.with_name("dpo-s1.log").read_text()
    assert (found["dyn-dpo-s1"], found["ap2o-l2h-s1"]) == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_every_process_and_all_end(
    todo: list[PlannedRun], programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    programs(dpo=WAITS, dyn_dpo=WAITS, ap2o_l2h=FINISHES)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))

    def interrupt() -> None:
        while not all((run.path / "began").exists() for run in todo[:2]):
            stopped.wait(0.01)
        os.kill(os.getpid(), number)

    stopped = threading.Event()
    waiter = threading.Thread(target=interrupt, daemon=True)  # a run that never begins must not hang the tests
    waiter.start()
    with pytest.raises(KeyboardInterrupt):
        run_all(todo)
    waiter.join()
    assert all((run.path / "checkpoint").exists() for run in todo[:2]), "each had the time for a checkpoint"
    assert not (todo[2].path / runs.LOG).exists(), "what had not begun does not begin"
    assert [(run.path / runs.LOG).read_text() for run in todo[:2]] == ["4 4\n", "4 4\n"], "the cores are divided"


def test_a_process_that_does_not_answer_is_ended(
    todo: list[PlannedRun], programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SECONDS_TO_CHECKPOINT", 0.2)
    programs(dpo=WAITS.replace("sys.exit(130)", "pass"), dyn_dpo=FINISHES, ap2o_l2h=FINISHES)

    def interrupt() -> None:
        while not (todo[0].path / "began").exists():
            stopped.wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    stopped = threading.Event()
    waiter = threading.Thread(target=interrupt, daemon=True)  # a run that never begins must not hang the tests
    waiter.start()
    with pytest.raises(KeyboardInterrupt):
        run_all(todo)
    waiter.join()
    assert (todo[0].path / "checkpoint").exists()


def test_a_second_interrupt_ends_all_at_once(todo: list[PlannedRun], programs: Callable[..., None]) -> None:
    programs(dpo=WAITS.replace("sys.exit(130)", "pass"), dyn_dpo=FINISHES, ap2o_l2h=FINISHES)

    def interrupt() -> None:
        for name in ("began", "checkpoint"):
            while not (todo[0].path / name).exists():
                stopped.wait(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    stopped = threading.Event()
    waiter = threading.Thread(target=interrupt, daemon=True)  # a run that never begins must not hang the tests
    waiter.start()
    with pytest.raises(KeyboardInterrupt):
        run_all(todo)  # which waits SECONDS_TO_CHECKPOINT for a run, after one interrupt
    waiter.join()


def test_runs_of_one_process_share_what_takes_long_to_start(todo: list[PlannedRun]) -> None:
    sets = SimpleNamespace(problems={"train": []})
    shared: Any = SimpleNamespace(quiet=True, judge=object(), sets=sets, vllm=object())
    run = runs.OneOfMany(RunFolder(path=todo[0].path, config=todo[0].config), shared)
    assert (run.judge, run.problems, run.vllm) == (shared.judge, sets.problems, shared.vllm)
