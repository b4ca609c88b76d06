"""Hostile programs: the right verdict, nothing outside touched, and the next honest program passes.

Each program must stay harmless where the defence it tries is gone: it proves that it could, and does not do it.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ap2o_fast.config import JudgeSettings
from ap2o_fast.judge import ErrorType, Job, Judge
from ap2o_fast.problems.problem import Problem

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
SECRET = "TOKEN_OF_THE_TRAINER"
CPU, WALL_FACTOR = 0.4, 5.0
PROBLEM = Problem(
    task_id="redteam",
    prompt="",
    entry_point="solve",
    test="def check(candidate):\n"
    "    assert candidate(2) == 5\n    assert candidate(10) == 101\n    assert candidate(-3) == 10\n",
)
# Supervisor, fork server, the jail that waits for the next answer, an examiner for the self-test and one for PROBLEM.
IDLE = 5
HONEST = "def solve(x): return x * x + 1"


@dataclass(frozen=True, kw_only=True)
class World:
    """What must stay as it is."""

    canary: Path
    tcp: socket.socket
    udp: socket.socket
    unix: socket.socket
    secret: str

    def program(self, path: Path) -> tuple[str, set[str]]:
        text = path.read_text(encoding="utf-8")
        expected = re.search(r"^# expect: (.*)$", text, re.M)
        assert expected, path
        places = {
            "@CANARY@": str(self.canary),
            "@PORT@": str(self.tcp.getsockname()[1]),
            "@PID@": str(os.getpid()),
            "@NESTED@": "(" * 20_000 + ")" * 20_000,
            "@NUL@": "\0",
        }
        for place, value in places.items():
            text = text.replace(place, value)
        return text, set(expected[1].split())

    def untouched(self) -> None:
        assert self.canary.read_text() == "sing"
        assert sorted(path.name for path in self.canary.parent.iterdir()) == ["canary", "canary.sock"]
        for listener in (self.tcp, self.unix):
            with pytest.raises(BlockingIOError):
                listener.accept()
        with pytest.raises(BlockingIOError):
            self.udp.recv(10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with outside(tmp_path_factory.mktemp("outside")) as made:
        yield made


@contextmanager
def outside(folder: Path) -> Iterator[World]:
    """A world in an empty folder, for as long as the block lasts."""
    (folder / "canary").write_text("sing")
    folder.chmod(0o777)  # what keeps a program out is the jail, not the mode
    (folder / "canary").chmod(0o666)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(tcp.getsockname())
        unix.bind(str(folder / "canary.sock"))
        unix.listen()
        for opened in (tcp, udp, unix):
            opened.setblocking(False)
        yield World(canary=folder / "canary", tcp=tcp, udp=udp, unix=unix, secret=SECRET)


@pytest.fixture(scope="module", params=["everything", "no namespaces"])
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[Judge, int]]:
    settings = JudgeSettings(workers=1, cpu_seconds=CPU, wall_factor=WALL_FACTOR, memory_mib=256, output_kib=64)
    os.environ["AP2O_TEST_SECRET"] = SECRET
    others = len(processes())  # judges of other tests
    with Judge(settings, without=["namespaces"] if request.param == "no namespaces" else []) as judge:
        yield judge, others
    del os.environ["AP2O_TEST_SECRET"]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_program(opened: tuple[Judge, int], world: World, path: Path) -> None:
    judge, others = opened
    code, expected = world.program(path)
    verdict = judge.judge(PROBLEM, code)
    assert verdict.error.name in expected or (expected == {"failure"} and verdict.error.is_failure), verdict
    assert verdict.passed == (expected == {"Passed"})
    assert SECRET not in verdict.message and "environ" not in verdict.message.replace("/environ", "")
    assert not re.search(r"[\x00-\x1f\x7f\u202e]", verdict.message)
    assert judge.judge(PROBLEM, HONEST).passed
    world.untouched()
    assert until(lambda: len(processes()) == others + IDLE), "something was left running"


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)
    return condition()


def processes() -> set[int]:
    """Processes of the judge's own sessions: descendants of this one."""
    below: set[int] = set()
    layer = {os.getpid()}
    while layer:
        following = set()
        for process in layer:
            try:
                for task in Path(f"/proc/{process}/task").iterdir():
                    following |= {int(child) for child in (task / "children").read_text().split()}
            except OSError:
                continue
        layer = following - below
        below |= following
    return below


def test_verdicts_repeat_and_do_not_depend_on_company(world: World) -> None:
    names = ["honest_right", "forge_always_equal", "forge_sys_exit", "files_delete", "process_daemon", "wrong_constant"]
    programs = [world.program(path) for path in PROGRAMS if path.stem in names]
    settings = JudgeSettings(workers=8, cpu_seconds=2, wall_factor=20, memory_mib=256)
    with Judge(settings) as judge:
        jobs = [
            Job(key=number, problem=PROBLEM, code=code) for _ in range(5) for number, (code, _) in enumerate(programs)
        ]
        for job, verdict in judge.judge_all(jobs):
            assert {verdict.error.name} == programs[job.key][1], verdict
    world.untouched()


@pytest.mark.parametrize("name", ["files_overwrite", "network_tcp", "process_daemon"])
def test_the_attacks_work_where_nothing_stops_them(world: World, name: str) -> None:
    """Else the tests above would prove nothing."""
    (path,) = [path for path in PROGRAMS if path.stem == name]
    code, _ = world.program(path)
    settings = JudgeSettings(workers=1, cpu_seconds=2, min_level=1)
    others = len(processes())
    with Judge(settings, without=["namespaces", "landlock", "seccomp", "cgroup"]) as judge:
        verdict = judge.judge(PROBLEM, code)
        # Even so the fork server ends what is left of the answer.
        assert until(lambda: len(processes()) == others + IDLE), "something was left running"
    assert verdict.error is not ErrorType.OSError, verdict
    if name == "files_overwrite":
        assert world.canary.read_text() == "gone"
        world.canary.write_text("sing")
    elif name == "network_tcp":
        for _ in range(verdict.tests_total):
            assert world.tcp.accept()[0].recv(10) == b"stolen"
    world.untouched()
