"""How many cores there are for us. Programs that are judged need one each: with fewer they run out of wall time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from ap2o_fast.errors import UsageError

LIMIT = "AP2O_CORES"
"""Environment variable: at most so many. Runs that go on side by side are given their share by it."""


def usable_cores() -> int:
    """At least 1: the cores that this process is bound to, at most what its cgroups (a container's `--cpus`) and
    `AP2O_CORES` allow.

    Errors: `UsageError` where `AP2O_CORES` is no whole number above 0.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [bound, *(max(1, math.ceil(quota)) for quota in quotas())]
    if LIMIT in os.environ:
        text = os.environ[LIMIT]
        if not text.isdecimal() or not int(text):
            raise UsageError(f"{LIMIT}={text!r} is no number of cores", do=f"set {LIMIT} to 1 or more, or unset it")
        limits.append(int(text))
    return min(limits)


def quotas(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Yield the processor time, in cores, that each limited cgroup around this process may use.

    In a container the path that the kernel tells may be the host's, and what is mounted its innermost folder.

    Source: cgroups(7); ``cpu.max`` of version 2, ``cpu.cfs_quota_us`` of version 1.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / "cpu" if controllers else mount
        for folder in (root / path.lstrip("/"), *(root / path.lstrip("/")).parents):
            yield from _quota(folder, version=1 if controllers else 2)
            if folder == root:
                break


def _quota(folder: Path, version: int) -> Iterator[float]:
    names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        quota, period = " ".join((folder / name).read_text() for name in names).split()
    except OSError:  # not limited here, or not mounted
        return
    if quota not in ("max", "-1"):
        yield int(quota) / int(period)
