"""Hostile answers in JavaScript and C++: none passes, none is excused, nothing outside is touched, nothing is left.

Each attack returns the right result if it was let, so a jail with a hole passes it.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ap2o_fast.config import JudgeSettings
from ap2o_fast.judge import Judge, syscalls
from ap2o_fast.judge.languages import LANGUAGES, missing
from ap2o_fast.judge.languages.cpp import PROGRAM
from ap2o_fast.judge.languages.language import find
from ap2o_fast.problems.problem import Problem

THREE = "assert f(1) == 1\nassert f(2) == 4\nassert f(3) == 9"
SOURCE = {"javascript": "function f(x) { return x * x }", "cpp": "int f(int x) { return x * x; }"}
JS, CPP = "function f(x) {\n  ", "int f(int x) {\n  "


def installed(name: str, *values: Any) -> Any:
    """A parameter that is skipped where the language cannot be judged."""
    lack = missing(LANGUAGES[name])
    mark = pytest.mark.skipif(bool(lack), reason=lack)
    return pytest.param(name, *values, marks=mark, id="-".join([name, *values[:1]]))


@functools.cache  # so that its examiner is one process, however many answers it sees
def problem(name: str) -> Problem:
    return Problem(task_id="p", prompt="", entry_point="f", test=THREE, language=name)


@pytest.fixture(scope="module", params=["everything", "no namespaces"])
def jailed(request: pytest.FixtureRequest) -> Iterator[tuple[Judge, int]]:
    """A judge, and how many processes there are while it waits and knows the problem of every language."""
    without = ["namespaces"] if request.param == "no namespaces" else []
    with Judge(JudgeSettings(workers=1, cpu_seconds=1, wall_factor=5, output_kib=64), without=without) as judge:
        for name, code in {"python": "def f(x): return x * x", **SOURCE}.items():
            if not missing(LANGUAGES[name]):
                assert judge.judge(problem(name), code).passed
        yield judge, steady(lambda: len(processes()))


def steady(count: Callable[[], int], seconds: float = 0.5) -> int:
    """What `count` gives once it has not changed for so long."""
    found, since = count(), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.01)
        if count() != found:
            found, since = count(), time.monotonic()
    return found


FRAME = """
const fs = require('fs')
const say = (text) => {
  const head = Buffer.alloc(4)
  head.writeUInt32BE(text.length)
  fs.writeSync(3, Buffer.concat([head, Buffer.from(text)]))
}
"""
FRAME_CPP = """#include <string>
#include <unistd.h>
static void say(std::string text) {
  unsigned size = text.size();
  char head[4] = {char(size >> 24), char(size >> 16), char(size >> 8), char(size)};
  write(3, head, 4), write(3, text.data(), size);
}
"""
# What is said in the middle of a call, or with "!" before the function exists.
WORDS = [
    '["value",1]',
    '["ready"]',
    '["passed",3]',
    '!["raised","preamble",{}]',
    '!["failed","the jail"]',
    "![]",
    "{}",
    "x",
]


@pytest.mark.parametrize(
    ("name", "words"),
    [*(installed("javascript", words) for words in WORDS), *(installed("cpp", words) for words in WORDS[:5])],
)
def test_no_frame_of_the_answers_own_passes_or_excuses_it(jailed: tuple[Judge, int], name: str, words: str) -> None:
    text, early = json.dumps(words.lstrip("!")), words.startswith("!")
    if name == "javascript":
        code = FRAME + (f"say({text})\n" if early else "") + JS + ("" if early else f"say({text}); ") + "return 1 }"
    else:
        code = FRAME_CPP + (f"struct A {{ A() {{ say({text}); }} }} a;\n" if early else "")
        code += CPP + ("" if early else f"say({text}); ") + "return 1; }"
    verdict = jailed[0].judge(problem(name), code)
    assert verdict.error.is_failure, verdict
    assert verdict.tests_passed <= 1


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, socket.socket]]:
    """A file that anybody may read and write, and a listener."""
    folder = tmp_path_factory.mktemp("outside")
    folder.chmod(0o777)
    (folder / "canary").write_text("sing")
    (folder / "canary").chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield folder / "canary", listener


# Each returns x * x if it was let, so that a jail with a hole passes it.
ATTACKS = {
    "javascript": {
        "read": JS + "require('fs').readFileSync('@CANARY@'); return x * x }",
        "overwrite": JS + "require('fs').writeFileSync('@CANARY@', 'gone'); return x * x }",
        "delete": JS + "require('fs').unlinkSync('@CANARY@'); return x * x }",
        "list": JS + "require('fs').readdirSync('@FOLDER@'); return x * x }",
        "environment": JS + "if (require('fs').readFileSync('/proc/1/environ')) return x * x }",
        "own environment": JS + "return Object.keys(process.env).length > 2 ? x * x : 0 }",
        "spawn": JS + "require('child_process').execFileSync('/usr/bin/true'); return x * x }",
        "kill": JS + "process.kill(@PID@, 0); return x * x }",
        "network": "const { TCP, TCPConnectWrap, constants } = process.binding('tcp_wrap')\n" + JS
        + "const e = new TCP(constants.SOCKET).connect(new TCPConnectWrap(), '127.0.0.1', @PORT@)\n"
        "return e ? -1 : x * x }",
        "threads": "const { Worker } = require('worker_threads')\n" + JS
        + "for (let i = 0; i < 300; i++) new Worker('for (;;) {}', { eval: true }); return x * x }",
        "executable": JS + "require('fs').writeFileSync('a.node', 'x'); process.dlopen({}, './a.node'); return x * x }",
    },
    "cpp": {
        "read": "#include <fstream>\n" + CPP + 'std::ifstream s("@CANARY@"); return s.good() ? x * x : -1; }',
        "overwrite": "#include <fstream>\n" + CPP
        + 'std::ofstream s("@CANARY@"); s << "gone" << std::flush; return s.good() ? x * x : -1; }',
        "delete": "#include <cstdio>\n" + CPP + 'return std::remove("@CANARY@") == 0 ? x * x : -1; }',
        "include": '#include "@CANARY@"\n' + SOURCE["cpp"],
        "incbin": 'asm(".incbin \\"@CANARY@\\"");\n' + SOURCE["cpp"],
        "fork": "#include <unistd.h>\n" + CPP + "int p = fork(); if (p == 0) _exit(0); return p > 0 ? x * x : -1; }",
        "fork bomb": "#include <unistd.h>\n" + CPP
        + "for (int i = 0; i < 1000; ++i) if (fork() >= 0) return x * x; return -1; }",
        "early": "#include <unistd.h>\nint p = fork();\n" + CPP + "return p >= 0 ? x * x : -1; }",
        "thread": "#include <thread>\n" + CPP + "std::thread t([] {}); t.join(); return x * x; }",
        "system": "#include <cstdlib>\n" + CPP + 'return std::system("true") == 0 ? x * x : -1; }',
        "other programs": "#include <unistd.h>\n" + CPP
        + 'execl("/usr/bin/g++", "g++", "--version", (char*)0); execl("/bin/sh", "sh", (char*)0); return -1; }',
        "kill": "#include <signal.h>\n" + CPP + "return kill(@PID@, 0) == 0 ? x * x : -1; }",
        "network": "#include <netinet/in.h>\n#include <sys/socket.h>\n" + CPP
        + "sockaddr_in a{}; a.sin_family = AF_INET; a.sin_port = htons(@PORT@);\n"
        "a.sin_addr.s_addr = htonl(0x7f000001);\n"
        "int s = socket(AF_INET, SOCK_STREAM, 0); return connect(s, (sockaddr*)&a, sizeof a) == 0 ? x * x : -1; }",
        "memory": "#include <sys/mman.h>\n" + CPP
        + "void* p = mmap(nullptr, 3ul << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n"
        "return p != MAP_FAILED ? x * x : -1; }",
        "limits": "#include <sys/resource.h>\n" + CPP
        + "rlimit l{RLIM_INFINITY, RLIM_INFINITY}; return setrlimit(RLIMIT_AS, &l) == 0 ? x * x : -1; }",
        "tighten": "#include <sys/prctl.h>\n" + CPP + "return prctl(PR_SET_PDEATHSIG, 0) == 0 ? x * x : -1; }",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "attack"), [installed(name, attack) for name, attacks in ATTACKS.items() for attack in attacks]
)
def test_an_attack_fails_and_leaves_nothing(
    jailed: tuple[Judge, int], world: tuple[Path, socket.socket], name: str, attack: str
) -> None:
    canary, listener = world
    judge, settled = jailed
    verdict = judge.judge(problem(name), filled(ATTACKS[name][attack], world))
    assert verdict.error.is_failure and verdict.tests_passed == 0, verdict
    if attack == "other programs":  # had it become one, it would not have come back to say so
        assert verdict.message == "f(1) returned -1, expected 1"
    assert "sing" not in verdict.message
    assert canary.read_text() == "sing"
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert judge.judge(problem("python"), "def f(x): return x * x").passed
    assert until(lambda: len(processes()) == settled), "something was left running"


@pytest.mark.parametrize(("name", "attack"), [installed("javascript", "overwrite"), installed("cpp", "overwrite"),
    installed("cpp", "network"), installed("cpp", "fork"), installed("javascript", "spawn"),
    installed("javascript", "network")])  # fmt: skip
def test_the_attacks_work_where_nothing_stops_them(world: tuple[Path, socket.socket], name: str, attack: str) -> None:
    """Else the test above would prove nothing. Landlock and namespaces let go alone would not do: each holds alone."""
    canary, listener = world
    settings = JudgeSettings(workers=1, cpu_seconds=1, min_level=1)
    with Judge(settings, without=["namespaces", "landlock", "seccomp", "cgroup"]) as judge:
        verdict = judge.judge(problem(name), filled(ATTACKS[name][attack], world))
    if os.geteuid() == 0 or attack != "fork":  # the limit of processes does not hold for root
        assert verdict.passed, verdict
    if attack == "network":
        for _ in range(3):
            listener.accept()[0].close()
    canary.write_text("sing")


def ruling(filter_program: bytes, call: int, argument: int = 0) -> int:
    """What a system-call filter rules on a call with this first argument, by running its instructions."""
    data = struct.pack("=iIQ6Q", call, syscalls._MACHINES[platform.machine()][0], 0, argument, *[0] * 5)
    steps = list(struct.iter_unpack("=HBBI", filter_program))
    place = value = 0
    while True:
        code, then, otherwise, operand = steps[place]
        place += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: value == operand, 0x25: value > operand, 0x35: value >= operand, 0x45: bool(value & operand)}
            place += then if holds[code] else otherwise


CLONE, EXECVE, WAIT, PRCTL, CLONE3 = {"x86_64": (56, 59, 61, 157, 435), "aarch64": (220, 221, 260, 167, 435)}.get(
    platform.machine(), (0, 0, 0, 0, 0)
)
THREAD, ALLOW, EPERM, ENOSYS = 0x10000, 0x7FFF0000, 0x50001, 0x50026


@pytest.mark.skipif(platform.machine() not in syscalls._MACHINES, reason="there is no filter for this machine")
def test_each_filter_lets_through_what_its_language_needs_and_no_more() -> None:
    """Several defences stand behind one another, so the attacks above do not tell that one of them is gone."""
    filters = {
        "python": syscalls.program(*LANGUAGES["python"].policy().calls),
        "javascript": syscalls.program(*LANGUAGES["javascript"].policy().calls),
        "building": syscalls.program(*LANGUAGES["cpp"].policy().calls),
        "cpp": syscalls.program(*PROGRAM.calls),
    }
    asked = [(CLONE, 17), (CLONE, THREAD | 0x100), (CLONE3, 0), (EXECVE, 0), (WAIT, 0), (PRCTL, 1)]
    rulings = {name: [ruling(each, *call) for call in asked] for name, each in filters.items()}
    assert rulings == {
        "python": [EPERM] * 6,
        "javascript": [EPERM, ALLOW, ENOSYS, ALLOW, EPERM, EPERM],
        "building": [ALLOW, ALLOW, ENOSYS, ALLOW, ALLOW, ALLOW],
        "cpp": [EPERM, EPERM, EPERM, ALLOW, EPERM, EPERM],
    }
    assert (LANGUAGES["javascript"].policy().execute, PROGRAM.execute) == ((os.path.realpath(find("node")),), ())
    assert PROGRAM.processes == 0 and PROGRAM.spare_mib is None and not PROGRAM.least_mib


def filled(code: str, world: tuple[Path, socket.socket]) -> str:
    canary, listener = world
    places = {"@CANARY@": canary, "@FOLDER@": canary.parent, "@PORT@": listener.getsockname()[1], "@PID@": os.getpid()}
    for place, value in places.items():
        code = code.replace(place, str(value))
    return code


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)
    return condition()


def processes() -> set[int]:
    """Descendants of this process."""
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
