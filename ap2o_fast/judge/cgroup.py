"""Limits of memory and processes by cgroup, where one can be made: the kernel's count for all of a jail together.

Both hierarchies of the kernel are spoken: version 2 where its memory and pids controllers can be had, else version 1
(writable by root only). Source: cgroups(7).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_PREFIX = "ap2o-judge-"
# Room for the fork server and the jail that waits beside one answer.
_SPARE_MIB, _PROCESSES = 256, 16


@dataclass(frozen=True, kw_only=True)
class Group:
    """Folders of one cgroup (one in version 2, one a controller in version 1), or why there is none."""

    folders: tuple[Path, ...] = ()
    missing: str = ""

    def enter(self) -> None:
        """Put the calling process, and so its children, under the limits."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove the group once its processes are gone."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def make(memory_mib: int) -> Group:
    """A group for the answers of one supervisor, limited; `missing` says why where none can be made."""
    try:
        own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
        parent = _MOUNT / own.get("", "/").lstrip("/")
        if {"memory", "pids"} <= set(_read(parent / "cgroup.controllers").split()):
            return _limited((_version_2(parent),), memory_mib, "memory.max", "pids.max")
        parents = {name: _MOUNT / name / own[name].lstrip("/") for name in ("memory", "pids") if name in own}
        if len(parents) < 2:
            return Group(missing="no memory and pids controllers")
        folders = tuple(_new(parents[name]) for name in ("memory", "pids"))
        return _limited(folders, memory_mib, "memory.limit_in_bytes", "pids.max")
    except OSError as error:
        return Group(missing=str(error))


def _version_2(parent: Path) -> Path:
    control = parent / "cgroup.subtree_control"
    if not {"memory", "pids"} <= set(_read(control).split()):
        control.write_text("+memory +pids")
    return _new(parent)


def _new(parent: Path) -> Path:
    for stale in parent.glob(_PREFIX + "*"):
        if not Path(f"/proc/{stale.name.removeprefix(_PREFIX)}").exists():
            with contextlib.suppress(OSError):  # another judge was faster
                stale.rmdir()
    folder = parent / f"{_PREFIX}{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return folder


def _limited(folders: tuple[Path, ...], memory_mib: int, memory_file: str, pids_file: str) -> Group:
    group = Group(folders=folders)
    try:
        (folders[0] / memory_file).write_text(str((memory_mib + _SPARE_MIB) << 20))
        (folders[-1] / pids_file).write_text(str(_PROCESSES))
    except OSError:
        group.remove()
        raise
    return group


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
