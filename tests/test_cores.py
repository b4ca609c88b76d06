"""Cores that may be used: the process's own, its containers' limits, ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ap2o_fast import cores
from ap2o_fast.config import JudgeSettings
from ap2o_fast.errors import UsageError
from ap2o_fast.judge import Judge


def groups(tmp_path: Path, lines: str, **files: str) -> list[float]:
    """The quotas found with these lines of /proc/self/cgroup and files below the mount; `__` stands for a slash."""
    (tmp_path / "cgroup").write_text(lines)
    for name, text in files.items():
        path = tmp_path / "mount" / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("_cfs", ".cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(cores.quotas(tmp_path / "cgroup", tmp_path / "mount"))


def test_version_2_every_group_around_the_process_counts(tmp_path: Path) -> None:
    found = groups(
        tmp_path, "0::/pod/box\n", pod__box__cpu_max="max 100000\n", pod__cpu_max="350000 100000\n", cpu_max="8 1"
    )
    assert found == [3.5, 8.0]


def test_version_1_only_the_processor_s_groups_count(tmp_path: Path) -> None:
    lines = "5:memory:/pod\n3:cpuset:/pod\n2:cpu,cpuacct:/pod\n1:name=systemd:/pod\n0::/\n"
    period, quota = "cfs_period_us", "cfs_quota_us"
    files = {f"cpu__pod__cpu_{quota}": "150000\n", f"cpu__pod__cpu_{period}": "100000\n"}
    files |= {f"cpu__cpu_{quota}": "-1\n", f"cpu__cpu_{period}": "100000\n"}
    assert groups(tmp_path, lines, **files) == [1.5]


def test_in_a_container_that_sees_the_host_s_path_the_mount_is_its_group(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/kubepods/pod7\n", cpu_max="400000 100000\n") == [4.0]


def test_no_limit(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/\n") == []
    assert list(cores.quotas(tmp_path / "missing", tmp_path)) == []


@pytest.mark.parametrize(
    ("quotas", "asked", "usable"),
    [
        ([], "", 8),
        ([2.5], "", 3),
        ([2.5, 0.1], "", 1),
        ([64.0], "", 8),
        ([4.0], "2", 2),
        ([2.0], "4", 2),
    ],
)
def test_the_least_limit_holds(quotas: list[float], asked: str, usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores, "quotas", lambda: quotas)
    monkeypatch.setenv(cores.LIMIT, asked) if asked else monkeypatch.delenv(cores.LIMIT, raising=False)
    assert cores.usable_cores() == usable
    assert Judge(JudgeSettings()).workers == usable
    assert Judge(JudgeSettings(workers=5)).workers == 5


@pytest.mark.parametrize("text", ["0", "many", "-1", "1.5", ""])
def test_a_limit_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cores.LIMIT, text)
    with pytest.raises(UsageError, match="AP2O_CORES"):
        cores.usable_cores()
