"""The system-call filter: what an answer may ask of the kernel, everything else fails with EPERM.

Written as classic BPF by hand, so that neither libseccomp nor a compiler is needed. Source: seccomp(2); numbers from
the kernel's asm/unistd_64.h and asm-generic/unistd.h. Not on the list, among others: every way to start a process or
a thread, to open a socket, to signal, to trace, to execute, to mount, to share memory.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Iterator, Sequence

from ap2o_fast.judge import kernel

# name : number on x86_64 : number on aarch64 (absent where that machine has no such call)
_ALLOWED = """
    read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 close:3:57 close_range:436:436
    fstat:5:80 stat:4 lstat:6 newfstatat:262:79 statx:332:291 statfs:137:43 fstatfs:138:44 lseek:8:62 mmap:9:222
    mprotect:10:226 munmap:11:215 mremap:25:216 madvise:28:233 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135
    rt_sigreturn:15:139 sigaltstack:131:132 restart_syscall:219:128 access:21 faccessat:269:48 faccessat2:439:439
    pipe:22 pipe2:293:59 select:23 pselect6:270:72 poll:7 ppoll:271:73 epoll_create1:291:20 epoll_ctl:233:21
    epoll_wait:232 epoll_pwait:281:22 eventfd2:290:19 socketpair:53:199 dup:32:23 dup2:33 dup3:292:24
    flock:73:32 fsync:74:82 fdatasync:75:83 truncate:76:45 ftruncate:77:46 fallocate:285:47 getdents64:217:61
    getcwd:79:17 chdir:80:49 fchdir:81:50 rename:82 renameat:264:38 renameat2:316:276 mkdir:83 mkdirat:258:34
    rmdir:84 creat:85 link:86 linkat:265:37 symlink:88 symlinkat:266:36 unlink:87 unlinkat:263:35 readlink:89
    readlinkat:267:78 chmod:90 fchmod:91:52 fchmodat:268:53 utimensat:280:88 umask:95:166 gettimeofday:96:169
    getrlimit:97:163 getrusage:98:165 sysinfo:99:179 times:100:153 uname:63:160 getuid:102:174
    getgid:104:176 geteuid:107:175 getegid:108:177 getgroups:115:158 getppid:110:173 getpid:39:172 gettid:186:178
    getpgrp:111 getpgid:121:155 getsid:124:156 futex:202:98 sched_yield:24:124 sched_getaffinity:204:123
    nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 time:201 exit:60:93
    exit_group:231:94 getrandom:318:278 alarm:37 setitimer:38:103 getitimer:36:102 open:2 openat:257:56
    recvfrom:45:207 sendto:44:206 set_robust_list:273:99 rseq:334:293 membarrier:324:283 getcpu:309:168
    copy_file_range:326:285 sendfile:40:71
"""
# More, by what it is for. `execute`: to become another program and start up as it. `processes`: to start others.
# `tighten`: to close the jail a second time, once a compiler is done.
_GROUPS = {
    "examiner": "recvmsg:47:212 sendmsg:46:211",  # takes descriptors from the supervisor
    "execute": "execve:59:221 arch_prctl:158 set_tid_address:218:96",
    "threads": "",
    "tighten": "prctl:157:167 capset:126:91 landlock_create_ruleset:444:444 landlock_add_rule:445:445 "
    "landlock_restrict_self:446:446",
    "processes": "clone:56:220 vfork:58 wait4:61:260",
}

_ALLOW, _DENY, _ABSENT = 0x7FFF0000, 0x00050001, 0x00050026  # the latter two are EPERM and ENOSYS
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_NOT_BELOW, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06

# Calls that depend on one argument: (numbers, which argument, test, its values, what follows if it holds, and if not).
_CONDITIONAL = (
    (("prlimit64", 302, 261), 0, _JUMP_EQUAL, (0,), _ALLOW, _DENY),  # limits of oneself only
    (("fcntl", 72, 25), 1, _JUMP_EQUAL, (8, 15), _DENY, _ALLOW),  # not F_SETOWN(_EX): they name who gets a signal
    (("ioctl", 16, 29), 1, _JUMP_EQUAL, (0x5421,), _ALLOW, _DENY),  # FIONBIO, for time-outs of sockets
)
_CLONE_THREAD = (("clone", 56, 220), 0, _JUMP_BITS, (0x10000,), _ALLOW, _DENY)
# Its flags lie in memory, where no filter can see them; told that there is no such call, the C library takes clone.
_NO_CLONE3 = (("clone3", 435, 435), 0, _JUMP_EQUAL, (), _ABSENT, _ABSENT)
_GROUP_CONDITIONS = {"threads": (_CLONE_THREAD, _NO_CLONE3), "processes": (_NO_CLONE3,)}

_MACHINES = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def supported() -> str:
    """Empty if the filter can be installed here, else why not (to be asked in a process that may be lost)."""
    if platform.machine() not in _MACHINES:
        return f"no system-call table for {platform.machine()}"
    try:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        found = Filter(program())
        kernel.take([found.install()])
    except OSError as error:
        return str(error)
    return ""


def program(*groups: str) -> bytes:
    """The filter for this machine, as an array of `struct sock_filter`.

    Args:
        groups: what is allowed beyond the least: ``examiner``, ``execute``, ``threads``, ``processes``, ``tighten``.
    """
    architecture, column = _MACHINES[platform.machine()]
    calls = [entry.split(":") for entry in " ".join([_ALLOWED, *(_GROUPS[name] for name in groups)]).split()]
    conditions = [*_CONDITIONAL, *(condition for name in groups for condition in _GROUP_CONDITIONS.get(name, ()))]
    numbers = sorted({int(call[column]) for call in calls if len(call) > column})
    code = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _DENY), (_LOAD, 0, 0, 0)]
    for call, argument, test, matching, then, otherwise in conditions:
        # The low half of the 64-bit argument: all of these are ints in the kernel.
        body = [(_LOAD, 0, 0, 16 + 8 * argument)]
        for value in matching:
            body += [(test, 0, 1, value), (_RETURN, 0, 0, then)]
        body.append((_RETURN, 0, 0, otherwise))
        code += [(_JUMP_EQUAL, 0, len(body), int(call[column])), *body]
    # Runs of neighbouring numbers, ascending: the kernel walks the program once for every number when it is installed.
    for first, last in _runs(numbers):
        code += [(_JUMP_NOT_BELOW, 1, 0, first), (_RETURN, 0, 0, _DENY)]
        code += [(_JUMP_ABOVE, 1, 0, last), (_RETURN, 0, 0, _ALLOW)]
    code.append((_RETURN, 0, 0, _DENY))
    return b"".join(struct.pack("=HBBI", *step) for step in code)


class Filter:
    """A filter program in the form that the kernel takes."""

    def __init__(self, filter_program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(filter_program, len(filter_program))
        header = struct.pack("@HP", len(filter_program) // 8, ctypes.addressof(self._buffer))
        self._header = ctypes.create_string_buffer(header, len(header))
        self._address = ctypes.addressof(self._header)

    def install(self) -> kernel.Step:
        """Put this process and its children under the filter, for ever. Needs no_new_privs."""
        return kernel.prctl_step(_PR_SET_SECCOMP, _MODE_FILTER, self._address)._replace(alive=self)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last
