"""One writer a book: an advisory lock that the system releases when its holder is gone, however it went."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ap2o_fast.book.fs import disk_error
from ap2o_fast.errors import DataError

NAME = "lock"


def take_lock(folder: Path) -> int:
    """Lock `folder` for writing and return the descriptor that holds the lock until it is closed.

    Raises:
        DataError: another writer holds it; the error names its process.
        MachineError: the file system cannot lock, or the folder cannot be written.
    """
    path = folder / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise disk_error(f"the error book {folder} cannot be opened for writing", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise DataError(
            f"the error book {folder} is being written by another process (pid {holder})",
            why="a book has one writer at a time; a process that the writer started may still hold its lock",
            do="wait for that run or end it; reading needs no lock",
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise disk_error(f"the error book {folder} cannot be locked", error) from error
    return descriptor
