"""C++: g++ builds the answer in the jail, then the answer's process becomes the program.

The program is one file: the problem's preamble, the answer, and `cpp_*.hpp`, which take the type of the answer's
function from the function itself, as MultiPL-E's ``auto candidate = f;`` does: a prompt of MultiPL-E or HumanEval-X
shows the signature, and no problem has to repeat it. So an overloaded function, or a template, is refused, and default
arguments do not count; arguments that do not fit the parameters are a `TypeError`. Known types: integers, floating
point, ``bool``, ``char``, ``std::string``, ``std::optional`` (``None``), the containers of the standard library,
``std::pair`` and ``std::tuple`` (which come back as tuples). A ``main`` of the answer's is left alone.

Built as MultiPL-E builds, plus checks of the standard library's preconditions, so that an index out of range is
an `IndexError` each time and not what the memory beside it happens to hold. Without optimisation each function keeps a
frame of its own, which gives exact lines.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ap2o_fast.judge.jail import Policy
from ap2o_fast.judge.languages.language import (
    ANSWER_FILE,
    COMMON_TAGS,
    Canaries,
    Close,
    failure,
    find,
    keep_across_exec,
    text_beside,
)
from ap2o_fast.judge.wire import Channel

if TYPE_CHECKING:
    import subprocess  # loaded where it is used: the fork server, which every answer's process copies, does without

# Read here because the jail does not show this folder.
_GLUE = text_beside("cpp_failures.hpp") + text_beside("cpp_values.hpp")
_FLAGS = ("-std=c++17", "-O0", "-g1", "-pipe", "-no-pie", "-D_GLIBCXX_ASSERTIONS", "-w", "-fmax-errors=1")
_PLAIN = ("-fno-diagnostics-show-caret", "-fno-diagnostics-show-option", "-fdiagnostics-color=never")
# Traps that need no library: the end of a function that should return something, and a plain array's bounds.
_TRAPS = ("-fsanitize=return,bounds", "-fsanitize-undefined-trap-on-error")
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin", "TMPDIR": "."}
# What the built program may do beyond the least: become itself, from the work folder.
PROGRAM = Policy(calls=("execute",), run_made=True)
_SOURCE, _PROGRAM, _LINES = "answer.cpp", "./answer", "answer.lines"
_BUILD_CPU_SECONDS, _BUILD_SECONDS, _BUILD_MIB = 10, 40.0, 1024
# What the compiler's words stand for, by the nearest exception of Python; everything else is a SyntaxError.
_ALIKE = (
    (
        r"was not declared|has not been declared|is not a member of|does not name a type|undefined reference",
        "NameError",
    ),
    (r"has no member named", "AttributeError"),
    (r"No such file or directory", "ImportError"),
    (r"cannot convert|could not convert|invalid conversion|no match(ing function)? for|cannot bind", "TypeError"),
    (r"too (few|many) arguments|invalid operands|no known conversion|invalid use of void", "TypeError"),
)


class Cpp:
    """g++ is the analyser: its messages give compile-time errors, its line table and our handlers run-time errors."""

    needs: tuple[str, ...] = ("g++", "objdump")
    install = "install g++ 9 or later and binutils with the system's package manager (Debian: apt install g++)"
    build_seconds = _BUILD_SECONDS
    least_mib = 256
    tags: frozenset[str] | None = COMMON_TAGS
    canaries = Canaries("int f(int x) { return x + 1; }", "int f(int x) { return x; }")

    def policy(self) -> Policy:
        """For the build: the compiler is several programs, one after the other. Nothing of the answer runs yet."""
        return Policy(
            calls=("execute", "processes", "tighten"),
            execute=("/usr",),
            run_made=True,
            processes=64,
            least_mib=_BUILD_MIB,
            least_cpu_seconds=_BUILD_CPU_SECONDS,
        )

    def serve(self, channel: Channel, close: Close) -> None:
        """See `Language.serve`: build, close the jail, become the program."""
        task = channel.receive()
        said = _apart(lambda: _build(task))
        channel.send(said)
        if said != ["compiled"]:
            return
        close(PROGRAM)
        keep_across_exec()
        os.execve(_PROGRAM, [_PROGRAM], {"LC_ALL": "C.UTF-8"})


def _source(preamble: str, code: str, entry_point: str) -> str:
    """The whole program. The line after the answer fails, in the answer's own numbering, if a brace is left open."""
    if not entry_point.isidentifier():
        entry_point = "no_such_name"
    parts = ["#define main ap2o_main_of_the_answer", '#line 1 "<preamble>"', preamble, f'#line 1 "{ANSWER_FILE}"', code]
    parts += ["namespace ap2o_judge {}", "#undef main", '#line 1 "<judge>"', _GLUE]
    parts += [f"signed main() {{ ap2o_judge::serve(&::{entry_point}); }}", ""]
    return "\n".join(parts)


def _apart(work: Callable[[], list[Any]]) -> list[Any]:
    """Do `work` in another process and return what it returns; its time and memory do not count as this one's.

    They would count if this process waited for it, so it does not: the end of the pipe says that it is over.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.write(writer, json.dumps(work()).encode())  # a report is shorter than a pipe holds
        finally:
            os._exit(0)
    os.close(writer)
    if not select.select([reader], [], [], _BUILD_SECONDS)[0]:
        # A compiler that burns time ends at its limit of CPU time: this is a machine with other things to do.
        return ["failed", f"the compiler was still running after {_BUILD_SECONDS:g} s"]
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    return json.loads(said) if said else ["failed", "the builder of C++ answers died"]


def _run(*command: str) -> subprocess.CompletedProcess[bytes]:
    import subprocess

    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_ENVIRONMENT
    )


def _build(task: dict[str, str]) -> list[Any]:
    """Write, compile and link the program, and its line table. Returns the frame that says how it went."""
    source = _source(task["preamble"], task["code"], task["entry_point"])
    with open(_SOURCE, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(source)
    try:
        built = _run(find("g++"), *_FLAGS, *_PLAIN, *_TRAPS, _SOURCE, "-o", _PROGRAM, "-ldl")
        if built.returncode != 0:
            return _compile_error(built.stdout.decode("utf-8", "replace"), lines=task["code"].count("\n") + 1)
        _write_lines(_run(find("objdump"), "--dwarf=decodedline", _PROGRAM).stdout.decode("utf-8", "replace"))
    except OSError as error:
        return ["failed", str(error)]
    return ["compiled"]


def _compile_error(said: str, lines: int) -> list[Any]:
    """The frame for the compiler's first error: its line, or the line of the answer that it was led to it by."""
    line, text = 0, said.strip().rpartition("\n")[2]
    for row in said.splitlines():
        place = re.search(rf"{ANSWER_FILE}:(\d+)", row)
        line = int(place[1]) if place else line
        found = re.search(r"(?:error: |undefined reference to )", row)
        if found:
            text = row[found.start() :].removeprefix("error: ")
            break
    if "Killed" in text or "CPU time limit" in text or "terminated" in text:
        return failure("compile", "SyntaxError", text=f"the compiler was stopped: {text}")
    if line > lines or (not line and "expected ‘}’ at end of input" in text):
        return failure(
            "compile", "SyntaxError", text=f"the answer ends in the middle of something ({text})", line=lines
        )
    name = next((name for words, name in _ALIKE if re.search(words, text)), "SyntaxError")
    return failure("compile", name, text=text, line=line)


def _write_lines(table: str) -> None:
    """The line table for the program's own use when it fails: pairs of address and line, 0 for not the answer's."""
    rows = []
    for row in re.finditer(r"^(\S+) +(\d+|-) +(0x[0-9a-f]+)", table, re.M):
        rows.append((int(row[3], 16), int(row[2]) if row[1] == ANSWER_FILE and row[2] != "-" else 0))
    rows.sort(key=lambda pair: pair[0])
    with open(_LINES, "wb") as file:
        file.write(b"".join(struct.pack("=QQ", *pair) for pair in rows))
