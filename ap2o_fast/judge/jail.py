"""The jail: what stands between an answer and the machine, built from the primitives in `kernel` and `syscalls`.

Two processes take part: the fork server enters namespaces once (`enter_namespaces`) and prepares the `Walls`; each
answer's process begins in namespaces of its own (`fork`), makes its working folder (`fresh_folder`), and gives up
everything it does not need (`confine`) before it sees a line of the answer.
"""

from __future__ import annotations

import functools
import os
import resource
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass

from ap2o_fast.judge import kernel, syscalls

# An answer's working folder is a mount of its own in a folder that holds nothing else: a Landlock rule for the latter
# covers every such mount, so one set of rules serves all answers. /tmp leads to it.
BOX = "/box"
WORK_DIR = f"{BOX}/tmp"
_WORK_OPTIONS = "size=16m,nr_inodes=1024,mode=700"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_NOBODY = 65534
_FILES, _FILE_BYTES = 32, 8 << 20


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a process in the jail may do beyond the least. Each field that is set is a hole; docs/sandbox.md lists them.

    Attributes:
        calls: groups of system calls, as `syscalls.program` names them.
        execute: files and folders of programs that may be executed; the dynamic loader comes with them.
        run_made: programs that lie in the work folder may be executed.
        processes: how many processes and threads the user of these namespaces may have. Without namespaces this
            would count all of the user's, so there only `calls` and the cgroup limit them.
        spare_mib: None: the memory limit is one of address space. Else for a program that reserves much more than it
            uses: the limit is one of private writable memory, and so much is added for the program's own.
        least_mib, least_cpu_seconds: limits below these are raised to them, for a compiler.
    """

    calls: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    run_made: bool = False
    processes: int | None = 0
    spare_mib: int | None = None
    least_mib: int = 0
    least_cpu_seconds: int = 0


LEAST = Policy()
EXAMINER = Policy(calls=("examiner",), processes=None)
_LOADERS = (
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Which boundaries can be had here: an empty text, or the reason why not."""

    namespaces: str
    landlock: str
    seccomp: str
    cgroup: str

    @property
    def level(self) -> int:
        """Isolation level: 1 process limits, 2 namespaces or Landlock + seccomp, 3 all of them and cgroup limits."""
        files_and_calls = not self.landlock and not self.seccomp
        if not self.namespaces and files_and_calls and not self.cgroup:
            return 3
        return 2 if not self.namespaces or files_and_calls else 1

    def as_dict(self) -> dict[str, str]:
        """For the wire."""
        return asdict(self)


def probe(cgroup: str, without: Collection[str] = ()) -> Features:
    """Try each boundary in a process of its own, by the very functions that build the jail.

    Args:
        cgroup: empty if cgroup limits are in force, else why not.
        without: boundaries to leave out.
    """
    found = {
        "namespaces": _try(_probe_namespaces),
        "landlock": _try(_probe_landlock),
        "seccomp": _try(_probe_seccomp),
        "cgroup": cgroup,
    }
    return Features(**{name: "left out on request" if name in without else why for name, why in found.items()})


def enter_namespaces() -> None:
    """Leave the machine's users, mounts, network and host name: an empty file tree with the interpreter, read-only.

    As root the process becomes `nobody` first, so that root's files are not its own. Capabilities remain, but only
    over the new namespaces; `confine` drops them.
    """
    everything = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS
    process = os.open("/proc", os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        if os.geteuid() == 0:
            # The tree is built while root can still reach an interpreter that lives under root's home.
            kernel.unshare(kernel.CLONE_NEWNS)
            _build_root()
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root and the maps cannot be written
            _unshare_user(everything, process)
        else:
            _unshare_user(everything, process)
            _build_root()
    finally:
        os.close(process)


@functools.cache
def fork() -> kernel.Fork:
    """What forks a process with its own processes, mounts and message queues."""
    return kernel.Fork(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC)


def fresh_folder() -> kernel.Step:
    """Mount an empty working folder, for this process only."""
    return kernel.mount_step("tmpfs", WORK_DIR, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, _WORK_OPTIONS)


class Walls:
    """The two walls that can be built beforehand and serve many processes: file rules and the system-call filter.

    Args:
        policy: what stays open in them.
        work: the folder that stays writable; by default the answer's own mount, None for none.
    """

    def __init__(self, features: Features, policy: Policy = LEAST, *, work: str | None = BOX) -> None:
        self.features, self.policy = features, policy
        self._ruleset = None if features.landlock else kernel.landlock_ruleset(_file_rules(policy, work))
        self._filter = None if features.seccomp else syscalls.Filter(syscalls.program(*policy.calls))

    def shut(self) -> list[kernel.Step]:
        """Put this process behind them, for ever. Needs no_new_privs, and the walls open until it is done."""
        steps = []
        if self._ruleset is not None:
            steps.append(kernel.landlock_step(self._ruleset))
        if self._filter is not None:
            steps.append(self._filter.install())
        return steps

    @property
    def descriptors(self) -> Sequence[int]:
        """What a process must hold until they are shut."""
        return [] if self._ruleset is None else [self._ruleset]

    def close(self) -> None:
        """Let go of the file rules; whoever is behind them stays there."""
        if self._ruleset is not None:
            os.close(self._ruleset)
            self._ruleset = None


def _file_rules(policy: Policy, work: str | None) -> list[tuple[str, int]]:
    rules = [(path, kernel.READ) for path in interpreter_paths()]
    rules += [(path, kernel.READ_WRITE_FILE) for path in _DEVICES]
    rules += [(path, kernel.READ | kernel.EXECUTE) for path in policy.execute]
    if work is not None:
        rules.append((work, kernel.WORK | (kernel.EXECUTE if policy.run_made else 0)))
    if policy.execute or policy.run_made:
        rules += [(path, kernel.READ | kernel.EXECUTE) for path in _LOADERS]
    return rules


def confine(walls: Walls, *, memory_mib: int, cpu_seconds: int | None) -> list[kernel.Step]:
    """Give up, for ever, whatever the walls' policy allows to give up. A second time can only give up more.

    Returns the steps, for this process or one that it forks.

    Args:
        memory_mib: limit of memory.
        cpu_seconds: the kernel's CPU limit, a back-stop behind the fork server's.
    """
    policy = walls.policy
    memory_mib = max(memory_mib, policy.least_mib)
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ]
    if policy.spare_mib is None:
        limits.append((resource.RLIMIT_AS, memory_mib << 20))
    else:
        limits.append((resource.RLIMIT_DATA, (memory_mib + policy.spare_mib) << 20))
    if policy.processes == 0 or (policy.processes and not walls.features.namespaces):
        limits.append((resource.RLIMIT_NPROC, policy.processes))
    if cpu_seconds is not None:
        limits.append((resource.RLIMIT_CPU, max(cpu_seconds, policy.least_cpu_seconds)))
    steps = []
    for name, value in limits:
        ceiling = resource.getrlimit(name)[1]
        value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        steps.append(kernel.Step(resource.setrlimit, (name, (value, value))))
    return [*steps, kernel.prctl_step(kernel.PR_SET_NO_NEW_PRIVS, 1), kernel.drop_capabilities_step(), *walls.shut()]


@functools.cache
def interpreter_paths() -> tuple[str, ...]:
    """What Python needs to read so that lazy imports work: its prefixes, installed packages, shared libraries.

    Folders of source code on `sys.path` (a checkout, which may hold tests and data) are not among them.
    """
    wanted = [sys.base_prefix, sys.prefix, *(path for path in sys.path if _is_library(path))]
    wanted += ["/usr", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/localtime"]
    kept: list[str] = []
    for path in sorted({os.path.abspath(path) for path in wanted}, key=len):
        inside = any(path.startswith(parent + "/") for parent in kept)
        if not inside and path != "/" and os.path.exists(path):
            kept.append(path)
    return tuple(kept)


def _is_library(path: str) -> bool:
    return bool({"site-packages", "dist-packages", "lib-dynload"} & set(path.split(os.sep))) or path == os.path.dirname(
        os.__file__
    )


def _unshare_user(flags: int, process: int) -> None:
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        descriptor = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=process)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _build_root() -> None:
    """Swap the file tree for one that holds the interpreter (read-only), four devices and an empty work folder."""
    sources = [*interpreter_paths(), *(path for path in _DEVICES if os.path.exists(path))]
    opened = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in sources]
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    # Sources are held open, so it does not matter which of them this mount hides.
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path, descriptor in opened:
        target = "/tmp" + path
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        kernel.mount(f"/proc/self/fd/{descriptor}", target, "", kernel.MS_BIND | kernel.MS_REC)
        kernel.restrict_mount(target, devices=path in _DEVICES)
        os.close(descriptor)
    os.makedirs("/tmp" + WORK_DIR)  # fails where something of the interpreter's lies there, as it should
    if not os.path.exists("/tmp/tmp"):
        os.symlink(WORK_DIR, "/tmp/tmp")
    kernel.pivot_root("/tmp")
    kernel.restrict_mount("/", recursive=False)


def _probe_namespaces() -> str:
    enter_namespaces()
    child = fork()()
    if child == 0:
        kernel.take([fresh_folder()])
        os._exit(0 if os.getpid() == 1 and not os.path.exists("/proc") else 1)
    return "" if os.waitpid(child, 0)[1] == 0 else "a process in new namespaces still sees the old ones"


def _probe_landlock() -> str:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.take([kernel.landlock_step(kernel.landlock_ruleset([("/usr", kernel.READ)]))])
    try:
        os.listdir("/")
    except PermissionError:
        return ""
    return "Landlock accepts rules but does not enforce them"


def _probe_seccomp() -> str:
    reason = syscalls.supported()
    if reason:
        return reason
    try:
        os.kill(os.getpid(), 0)
    except PermissionError:
        return ""
    return "the filter was accepted but is not enforced"


def _try(attempt: Callable[[], str]) -> str:
    """Run `attempt` in a forked process; return its answer, or the error that it met."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = attempt()
        except OSError as error:
            answer = str(error)
        os.write(writer, b"=" + answer.encode()[:2000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer_bytes = stream.read()
    status = os.waitpid(child, 0)[1]
    return answer_bytes[1:].decode() if answer_bytes[:1] == b"=" else f"the attempt died with status {status}"


def describe(features: Features) -> Sequence[str]:
    """Findings in words, one a line: what is there, and what to do about what is not."""
    fixes = {
        "namespaces": "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
        "kernel.apparmor_restrict_unprivileged_userns=0; in Docker --security-opt seccomp=unconfined)",
        "landlock": "a kernel from 5.13 on with Landlock among its security modules (boot option lsm=landlock,…)",
        "seccomp": "Linux on x86_64 or aarch64 with CONFIG_SECCOMP_FILTER",
        "cgroup": "a writable cgroup with memory and pids controllers (run as root, or systemd-run --user --scope -p "
        "Delegate=yes)",
    }
    lines = []
    for name, reason in features.as_dict().items():
        lines.append(f"{name}: yes" if not reason else f"{name}: no ({reason}); fix: {fixes[name]}")
    return lines
