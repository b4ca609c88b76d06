"""Where there are no namespaces: an answer's folder, and ending and removing what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection

_ORPHANS_SECONDS = 5.0


def new_folder() -> str:
    """An empty folder that only this user can enter."""
    import tempfile  # here and below: the fork server imports nothing that its answers do not need

    return tempfile.mkdtemp(prefix="ap2o-judge-")


def kill_orphans(kept: Collection[int]) -> None:
    """End every child of this process (a subreaper: orphans below it become its children) but those in `kept`."""
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while time.monotonic() < deadline:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as stream:
            orphans = {int(number) for number in stream.read().split()} - set(kept)
        if not orphans:
            return
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan, os.WNOHANG)
        time.sleep(0.001)


def remove(folder: str) -> None:
    """Remove the folder, in a process of its own: a tree too deep for Python must not end this one."""
    child = os.fork()
    if child == 0:
        try:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
