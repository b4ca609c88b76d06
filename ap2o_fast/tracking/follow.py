"""The process of one tracker: `python -m ap2o_fast.tracking.follow NAME RUN`, until its standard input ends.

RUN/tracking/NAME/state.json says what was handed on. It is written before the tracker gets the numbers, so that none
comes twice however the process ends; those of its last second may be lacking then, and metrics.jsonl has them.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ap2o_fast.tracking.lines import News
from ap2o_fast.tracking.tracker import Identity, Tracker, open_tracker

INTERVAL = 1.0
"""Seconds between two looks at the files."""
TIMED_OUT = 3


def place(run: Path, name: str) -> Path:
    """Where a tracker's own files lie, its state and its log among them."""
    return run / "tracking" / name


def follow(name: str, run: Path, ended: threading.Event) -> None:
    """Hand on what is new in the run's files every second, and once more when `ended`.

    Errors: whatever the tracker raises.
    """
    folder = place(run, name)
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    with _alone(folder):
        state = _read(folder)
        known = bool(state)
        if not known:
            state = {"id": uuid.uuid4().hex, "name": settings["track"]["name"] or settings["run_dir"], "sent": {}}
        news, tracker = News(run, state["sent"]), None
        last = False
        while not last:
            last = ended.wait(INTERVAL)
            for numbers in news:
                if tracker is None:  # not before there is something: a look at a run makes no run elsewhere
                    tracker = _open(name, state, known, folder, settings)
                state["sent"][numbers.file] = numbers.key
                _write(folder, state)
                tracker.log(numbers.values, numbers.step)
        if tracker is not None:
            tracker.close()


def _open(name: str, state: Mapping[str, Any], known: bool, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    identity = Identity(
        project=settings["track"]["project"],
        name=state["name"],
        id=state["id"],
        known=known,
        folder=folder,
        settings=dict(_dotted(settings)),
    )
    return open_tracker(name, identity)


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for the process of a run that was killed, which may still be handing on its last numbers."""
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _write(folder: Path, state: Mapping[str, Any]) -> None:
    beside = folder / "state.json.tmp"
    beside.write_text(json.dumps(state) + "\n", encoding="utf-8")
    beside.replace(folder / "state.json")


def main() -> None:
    """Follow until the run closes this process's standard input, or is gone; then for so many seconds at most."""
    name, run, deadline = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.buffer.read()
        ended.set()
        # The run waits as long and then ends this process; where it is gone, nobody else does.
        timer = threading.Timer(deadline + 10, lambda: os._exit(TIMED_OUT))
        timer.daemon = True
        timer.start()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    os.nice(10)
    follow(name, run, ended)


if __name__ == "__main__":
    main()
