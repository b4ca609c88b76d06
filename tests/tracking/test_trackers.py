"""Each tracker with its real package, and trackers that are missing, fail or hang: a run notices one warning."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tracking.made_up import append, break_tracker, make_run, quiz, result, step

from ap2o_fast import config
from ap2o_fast.errors import MachineError, UsageError
from ap2o_fast.reporting.metrics import truncate
from ap2o_fast.tracking.follow import place
from ap2o_fast.tracking.start import tracked


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install -e '.[track]'")


def run_twice(run: Path, track: config.TrackSettings) -> None:
    """Steps 1 to 4; then resumed from 2 on to 5, with quizzes and the test."""
    with tracked(run, track):
        append(run, "quiz.jsonl", quiz(0, 3, NameError=7))
        append(run, "metrics.jsonl", *(step(number, 1) for number in range(1, 5)))
    truncate(run / "metrics.jsonl", "step", 2)
    with tracked(run, track):
        append(run, "metrics.jsonl", step(3, 1), step(4, 1), step(5, 1))
        append(run, "quiz.jsonl", quiz(1, 4, NameError=6))
        (run / "evaluation.json").write_text(json.dumps({"after": result(0.75)}))


def said(run: Path, name: str) -> str:
    return (place(run, name) / "log.txt").read_text()


def test_tensorboard_has_every_number_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, track = make_run(tmp_path / "run", "tensorboard")
    run_twice(run, track)
    assert caplog.messages == [], said(run, "tensorboard")
    events = EventAccumulator(str(place(run, "tensorboard")))
    events.Reload()

    def curve(tag: str) -> list[tuple[int, float]]:
        return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]

    assert curve("train/loss") == [(number, number / 10) for number in range(1, 6)]
    assert curve("train/rewards/margins") == [(number, number / 100) for number in range(1, 6)]
    assert curve("quiz/pass@1") == [(0, 0.3), (5, 0.4)]
    assert curve("test/after/pass@1") == [(5, 0.75)]
    assert "settings/text_summary" in events.Tags()["tensors"]


def test_weights_and_biases_offline_goes_on_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run, track = make_run(tmp_path / "run", "wandb", project="tried", name="mine")
    run_twice(run, track)
    assert caplog.messages == [], said(run, "wandb")
    name = json.loads((place(run, "wandb") / "state.json").read_text())["id"]
    files = sorted((place(run, "wandb") / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == 2, "each time it was opened leaves a file, both of one run"
    records = [record for path in files for record in wandb_records(path)]
    begun = [record.run for record in records if record.HasField("run")]
    assert {(each.project, each.display_name, each.run_id) for each in begun} == {("tried", "mine", name)}
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    losses = [(row["train/global_step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(number, number / 10) for number in range(1, 6)]
    assert [(row["train/global_step"], row["quiz/pass@1"]) for row in rows if "quiz/pass@1" in row] == [
        (0, 0.3),
        (5, 0.4),
    ]
    assert [row["test/after/pass@1"] for row in rows if "test/after/pass@1" in row] == [0.75]


def test_trackio_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needs("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run, track = make_run(tmp_path / "run", "trackio", project="tried", name="mine")
    run_twice(run, track)
    assert caplog.messages == [], said(run, "trackio")
    with closing(sqlite3.connect(tmp_path / "trackio" / "tried.db")) as database:
        rows = [
            (name, step, json.loads(text))
            for name, step, text in database.execute("select run_name, step, metrics from metrics order by id")
        ]
    losses = [(name, step, row["train/loss"]) for name, step, row in rows if "train/loss" in row]
    assert losses == [("mine", number, number / 10) for number in range(1, 6)]


def test_a_tracker_that_is_not_installed_is_refused_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    run, track = make_run(tmp_path / "run", "wandb")
    with pytest.raises(MachineError, match="pip install wandb"), tracked(run, track):
        pytest.fail("the run has begun")


def test_a_tracker_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"track\.to"):
        config.load(None, ["track.to=[mlflow]"])


def test_one_that_fails_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needs("tensorboard")
    break_tracker(monkeypatch, tmp_path / "path", "tensorboard", "raise ConnectionError('the server went away')")
    run, track = make_run(tmp_path / "run", "tensorboard")
    with tracked(run, track):
        append(run, "metrics.jsonl", step(1, 1), step(2, 1))
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "tensorboard stopped: ConnectionError: the server went away; the run goes on" in warning.message
    assert "Traceback" in said(run, "tensorboard")


def test_one_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needs("tensorboard")
    pids = tmp_path / "pids"
    does = f"child = os.fork(); open({str(pids)!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(1000)"
    break_tracker(monkeypatch, tmp_path / "path", "tensorboard", does.replace("{{", "{").replace("}}", "}"))
    run, track = make_run(tmp_path / "run", "tensorboard", deadline=1.0)
    with tracked(run, track):
        append(run, "metrics.jsonl", step(1, 1))
        while not (pids.exists() and len(pids.read_text().split()) == 2):
            time.sleep(0.05)
    (warning,) = caplog.messages
    assert "was not done in time" in warning
    for pid in map(int, pids.read_text().split()):
        assert _ends(pid)


@pytest.mark.timeout(60)
def test_an_interrupt_while_it_is_waited_for_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("tensorboard")
    pids = tmp_path / "pids"
    does = f"open({str(pids)!r}, 'a').write(str(os.getpid())); time.sleep(1000)"
    break_tracker(monkeypatch, tmp_path / "path", "tensorboard", does)
    run, track = make_run(tmp_path / "run", "tensorboard", deadline=1000.0)

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), tracked(run, track):
        append(run, "metrics.jsonl", step(1, 1))
        while not (pids.exists() and pids.read_text()):
            time.sleep(0.05)
        threading.Timer(0.5, interrupt).start()
    assert _ends(int(pids.read_text()))


def test_the_tracker_of_a_killed_run_hands_on_the_rest_and_ends(tmp_path: Path) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = make_run(tmp_path / "run", "tensorboard")
    append(run, "metrics.jsonl", step(1, 1))
    code = (
        "import os, signal, sys; from pathlib import Path; from ap2o_fast.config import TrackSettings\n"
        "from ap2o_fast.tracking.start import tracked\n"
        "with tracked(Path(sys.argv[1]), TrackSettings(to=('tensorboard',))):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run)], check=False).returncode == -signal.SIGKILL
    with (place(run, "tensorboard") / ".lock").open("a") as file:
        while not (place(run, "tensorboard") / "state.json").exists():
            time.sleep(0.05)
        fcntl.flock(file, fcntl.LOCK_EX)  # held as long as it works
    events = EventAccumulator(str(place(run, "tensorboard")))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1]


def test_a_look_at_a_run_leaves_nothing(tmp_path: Path) -> None:
    needs("tensorboard")
    run, track = make_run(tmp_path / "run", "tensorboard")
    with tracked(run, track):
        pass
    assert (
        not list(place(run, "tensorboard").glob("events*")) and not (place(run, "tensorboard") / "state.json").exists()
    )


def wandb_records(path: Path) -> list[Any]:
    """The records of a file that Weights & Biases left offline: LevelDB's log format around protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, begun, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block that no header fits into
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if not kind:
            break
        begun += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(begun))
            begun = b""
    return found


def _ends(pid: int) -> bool:
    """Whether a process that was killed goes: a signal is delivered when the process is next scheduled."""
    deadline = time.monotonic() + 20
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
