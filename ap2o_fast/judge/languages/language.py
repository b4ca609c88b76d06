"""The protocol behind which each programming language stands: one file of Python a language.

A language takes over the answer's process once the jail is closed. What it says there on the channel is a line of
frames: ``["compiled"]`` once the answer is found to be a program and the problem's preamble has run, but before a line
of the answer has; ``["ready"]`` once its function exists; then for each call (a frame of arguments, see `values`) one
of ``["value", form]``, ``["foreign", "a Promise"]`` for a result that is no inert value, and
``["raised", "call", report]``. Before that, ``["raised", phase, report]`` with the phase ``compile``, ``preamble`` or
``load`` ends it. The examiner believes ``compiled`` and what comes before it; all later words are the answer's own.

A report holds ``names`` (builtin Python exceptions like the one that was met, nearest first), ``class``, ``text`` and
``line`` (of the answer's own code, from 1; 0 for none).
"""

from __future__ import annotations

import fcntl
import os
from typing import Any, NamedTuple, Protocol

from ap2o_fast.judge.jail import Policy
from ap2o_fast.judge.wire import Channel

ANSWER_FILE = "<answer>"
LONGEST_TEXT = 2000
# What values have a counterpart in languages whose data are numbers, texts, lists, maps and sets (tags of `values`).
COMMON_TAGS = frozenset({"l", "t", "s", "f", "q", "it", "dk", "dv", "d", "di", "C", "O", "D", "i", "n"})
# Folders that are searched for interpreters and compilers; what lies elsewhere the jail does not show.
_FOLDERS = ("/usr/local/bin", "/usr/bin")
_SHOWN = "/usr/"


class Close(Protocol):
    """Closes the jail again, tighter."""

    def __call__(self, policy: Policy) -> None: ...


class Canaries(NamedTuple):
    """Known answers to the problem ``f``: x ↦ x + 1."""

    right: str
    wrong: str


class Language(Protocol):
    """One programming language: how an answer is checked, loaded, called and its errors told apart.

    Attributes:
        needs: the programs that must be installed, its own first, and `install`, how to get them.
        build_seconds: wall time that building an answer may take beside its own; 0 where nothing is built.
        least_mib: limits of memory below this leave no room for the language itself.
        tags: the values (tags of `values`) that its functions can be called with; None for all, and for keywords.
        canaries: judged when the language is first used.
    """

    needs: tuple[str, ...]
    install: str
    build_seconds: float
    least_mib: int
    tags: frozenset[str] | None
    canaries: Canaries

    def policy(self) -> Policy:
        """What its process may do beyond the least, from before the answer is known."""

    def serve(self, channel: Channel, close: Close) -> None:
        """In the jail: receive the task (code, preamble, entry_point), then speak as the module says, until killed.

        Raises `OSError`, before ``compiled`` is said, where a program of the language cannot be run.
        """


def text_beside(name: str) -> str:
    """The text of a file in this folder."""
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as stream:
        return stream.read()


def find(program: str) -> str:
    """The path of an interpreter or compiler, empty where there is none in the folders that the jail shows."""
    for folder in _FOLDERS:
        path = os.path.join(folder, program)
        if os.access(path, os.X_OK) and os.path.realpath(path).startswith(_SHOWN):
            return path
    return ""


def missing(language: Language) -> str:
    """Why no answer in this language can be judged here, empty if one can."""
    absent = [program for program in language.needs if not find(program)]
    return f"there is no {' and no '.join(absent)} in {' or '.join(_FOLDERS)}" if absent else ""


def version(language: Language) -> str:
    """What the language's program says of itself, one line."""
    import platform  # not above: the fork server, which every answer's process copies, needs neither
    import subprocess

    if not language.needs:
        return platform.python_version()
    command = [find(language.needs[0]), "--version"]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30).stdout
    return next(iter(said.splitlines()), "").strip()


def keep_across_exec(descriptors: int = 4) -> None:
    """Let the program that this process is about to become inherit its input, output, errors and channel."""
    for descriptor in range(descriptors):
        fcntl.fcntl(descriptor, fcntl.F_SETFD, 0)  # os.set_inheritable takes ioctl, which the filter denies


def failure(phase: str, *names: str, kind: str = "", text: str = "", line: int = 0) -> list[Any]:
    """The frame that reports a failure."""
    return ["raised", phase, {"names": list(names), "class": kind, "text": text[:LONGEST_TEXT], "line": line}]
