"""The few Linux calls the jail needs that Python 3.10 does not offer, through ctypes: namespaces, mounts, Landlock.

Sources: namespaces(7), mount_setattr(2), landlock(7), capabilities(7). Every function raises `OSError` where the
kernel refuses; none degrades by itself.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import signal
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 38, 36

_MACHINE = platform.machine()
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}
_SYS_MOUNT_SETATTR, _SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 442, 444, 445, 446
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000

# Access rights of Landlock by the ABI that brought them: 13 rights, then REFER, TRUNCATE, IOCTL_DEV.
_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FS_RIGHTS_LATEST = (1 << 16) - 1
EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14
READ = _READ_FILE | _READ_DIR
READ_WRITE_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE
# Files, folders and links may be made; devices, sockets and pipes may not, and nothing may be executed.
WORK = READ_WRITE_FILE | _READ_DIR | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13
_FILE_ONLY = READ_WRITE_FILE | EXECUTE

_CAPABILITIES_OF_SELF, _NO_CAPABILITIES = struct.pack("=Ii", 0x20080522, 0), bytes(24)


@functools.cache
def warm() -> ctypes.PyDLL:
    """The C library and the interpreter's own functions, called without giving up the interpreter's lock: the judge's
    processes have one thread."""
    return ctypes.PyDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _check(warm().syscall(ctypes.c_long(number), *arguments), what)


class Step(NamedTuple):
    """One call with its arguments laid out. After a fork every object that is touched is a page to be copied; to make
    a call that lies ready touches few."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    what: str = ""
    alive: object = None  # what an argument points to


def take(steps: Sequence[Step]) -> None:
    """Make the calls, in order. Raises `OSError` at the first that the kernel refuses."""
    for call, arguments, what, _ in steps:
        if call(*arguments) == -1:
            _check(-1, what)


def unshare(flags: int) -> None:
    """Move this process (and, for the pid namespace, its next child) into new namespaces."""
    _check(warm().unshare(ctypes.c_int(flags)), "unshare")


class Fork:
    """As `os.fork`, but the child begins in new namespaces. For processes with one thread.

    One clone(2) instead of unshare(2) and fork(2): unshare gives a process's children one new pid namespace, once.
    """

    def __init__(self, namespaces: int) -> None:
        library = warm()
        # Bound here: to look one of them up costs the child a dozen pages.
        self._before, self._clone = library.PyOS_BeforeFork, library.syscall
        self._in_parent, self._in_child = library.PyOS_AfterFork_Parent, library.PyOS_AfterFork_Child
        words = (_SYS_CLONE[_MACHINE], namespaces | signal.SIGCHLD, 0, 0, 0, 0)
        self._arguments = tuple(ctypes.c_long(word) for word in words)

    def __call__(self) -> int:
        self._before()
        process: int = self._clone(*self._arguments)
        if process == 0:
            self._in_child()
            return 0
        number = ctypes.get_errno()
        self._in_parent()
        if process < 0:
            raise OSError(number, f"clone: {os.strerror(number)}")
        return process


def prctl(option: int, value: int, argument: int = 0) -> None:
    """Set one process attribute."""
    take([prctl_step(option, value, argument)])


def prctl_step(option: int, value: int, argument: int = 0) -> Step:
    """`prctl`, prepared."""
    words = tuple(ctypes.c_ulong(word) for word in (value, argument, 0, 0))
    return Step(warm().prctl, (ctypes.c_int(option), *words), f"prctl {option}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    take([mount_step(source, target, kind, flags, data)])


def mount_step(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> Step:
    """`mount`, prepared."""
    texts = [ctypes.c_char_p(text) for text in (source.encode(), target.encode(), kind.encode() or None)]
    return Step(warm().mount, (*texts, ctypes.c_ulong(flags), ctypes.c_char_p(data.encode())), f"mount {target}")


def unmount(target: str) -> None:
    """Detach a mount at once, whoever still uses it."""
    _check(warm().umount2(target.encode(), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def restrict_mount(target: str, *, devices: bool = False, recursive: bool = True) -> None:
    """Make the tree at `target` read-only and without set-uid (and, unless `devices`, without device files)."""
    attributes = 1 | 2 | (0 if devices else 4)  # RDONLY, NOSUID, NODEV: only added, so that locked flags stay
    argument = struct.pack("=QQQQ", attributes, 0, 0, 0)
    descriptor = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        _syscall(
            f"mount_setattr {target}",
            _SYS_MOUNT_SETATTR,
            ctypes.c_int(descriptor),
            ctypes.c_char_p(b""),
            ctypes.c_uint(_AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)),
            ctypes.c_char_p(argument),
            ctypes.c_size_t(len(argument)),
        )
    finally:
        os.close(descriptor)


def pivot_root(new_root: str) -> None:
    """Make `new_root` (a mount) the root of this mount namespace and let go of the old one."""
    os.chdir(new_root)
    _syscall("pivot_root", _SYS_PIVOT_ROOT[_MACHINE], ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))
    unmount(".")
    os.chdir("/")


def drop_capabilities_step() -> Step:
    """Give up every capability; with no_new_privs none can be had again."""
    return Step(warm().capset, (ctypes.c_char_p(_CAPABILITIES_OF_SELF), ctypes.c_char_p(_NO_CAPABILITIES)), "capset")


def landlock_abi() -> int:
    """The kernel's Landlock ABI, from 1. Raises `OSError` where it has none."""
    return _syscall("Landlock", _SYS_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))


def landlock_ruleset(rules: Sequence[tuple[str, int]]) -> int:
    """A descriptor of rules (path, rights) for `landlock`: every file not under one of them is denied, every TCP port
    and, where the ABI has them, signals to other processes and their abstract unix sockets.

    A path that does not exist is left out: it cannot be reached either way. A rule for a folder also covers what is
    mounted on a folder in it.
    """
    abi = landlock_abi()
    handled = _FS_RIGHTS.get(abi, _FS_RIGHTS_LATEST)
    attributes = struct.pack("=QQQ", handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _syscall(
        "landlock_create_ruleset",
        _SYS_CREATE_RULESET,
        ctypes.c_char_p(attributes),
        ctypes.c_size_t(size),
        ctypes.c_uint(0),
    )
    try:
        for path, rights in rules:
            _add_rule(ruleset, path, rights & handled)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def _add_rule(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        allowed = rights & (-1 if os.path.isdir(path) else _FILE_ONLY)
        _syscall(
            f"landlock_add_rule {path}",
            _SYS_ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(1),
            ctypes.c_char_p(struct.pack("=Qi", allowed, descriptor)),
            ctypes.c_uint(0),
        )
    finally:
        os.close(descriptor)


def landlock_step(ruleset: int) -> Step:
    """Put this process and its children under the rules, for ever. Needs no_new_privs."""
    words = tuple(ctypes.c_long(word) for word in (_SYS_RESTRICT_SELF, ruleset, 0))
    return Step(warm().syscall, words, "landlock_restrict_self")
