"""Durable writes: what is renamed into place must be on the disk before."""

from __future__ import annotations

import os
from pathlib import Path

COMPLETE = "COMPLETE"
"""Name of the file that is written last: a folder without it was not finished."""


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush everything under `folder`, and it."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
