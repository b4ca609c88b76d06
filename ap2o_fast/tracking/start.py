"""A run's side of its trackers: start them, and at the end wait for them no longer than was agreed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ap2o_fast.config import TrackSettings
from ap2o_fast.tracking.follow import place
from ap2o_fast.tracking.tracker import require

_log = logging.getLogger(__name__)
LOG = "log.txt"


@contextmanager
def tracked(run: Path, track: TrackSettings) -> Iterator[None]:
    """Inside, every tracker of `track.to` follows the run's folder. One that fails is one warning in the log.

    Errors: `MachineError` where one is not installed.
    """
    require(track.to)
    followers = [Follower(name, run, track.deadline) for name in track.to]
    try:
        yield
    finally:
        end(followers, track.deadline)


class Follower:
    """A tracker's process, and the thread that waits for its end to warn of a failure."""

    def __init__(self, name: str, run: Path, deadline: float) -> None:
        self.name, self.log = name, place(run, name) / LOG
        self._late = False
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as log:
                self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                    [sys.executable, "-m", "ap2o_fast.tracking.follow", name, str(run.resolve()), str(deadline)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    start_new_session=True,  # Ctrl-C is for the run, which then ends this one in order
                )
        except OSError as error:
            _log.warning("the tracker %s could not be started (%s); the run goes on without it", name, error)
            self._process = None
        self._thread = threading.Thread(target=self._watch, daemon=True, name=f"tracker {name}")
        self._thread.start()

    def _watch(self) -> None:
        if self._process is not None and self._process.wait() and not self._late:
            says = "the tracker %s stopped: %s; the run goes on without it, all it wrote is in %s"
            _log.warning(says, self.name, self._last_words(), self.log)

    def _last_words(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace").strip() if self.log.exists() else ""
        return text.splitlines()[-1][:200] if text else "it said nothing"

    def tell(self) -> None:
        """Have the process hand on what there is and end."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def wait(self, until: float) -> None:
        """Wait for its end until that time of the monotonic clock, then end it, with a warning."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._late = True
            self.kill()
            says = "the tracker %s was not done in time and was ended: what it lacks is in the run's own files"
            _log.warning(says, self.name)

    def kill(self) -> None:
        """End the process and what it has started, at once. Does nothing where it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._late = True
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)


def end(followers: list[Follower], deadline: float) -> None:
    """End all, together within `deadline` seconds; an interrupt meanwhile ends them at once."""
    for follower in followers:
        follower.tell()
    until = time.monotonic() + deadline
    try:
        for follower in followers:
            follower.wait(until)
    finally:
        for follower in followers:
            follower.kill()
