"""The judge as the trainer sees it: problems and answers in, verdicts out."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import queue
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ap2o_fast.cores import usable_cores
from ap2o_fast.errors import MachineError, SandboxRefused, UsageError
from ap2o_fast.judge import values
from ap2o_fast.judge.decide import Limits, clean, decide
from ap2o_fast.judge.jail import describe
from ap2o_fast.judge.lane import Lane, LaneLost
from ap2o_fast.judge.languages import LANGUAGES, require
from ap2o_fast.judge.stream import Job, Stream
from ap2o_fast.judge.verdict import ErrorType, Verdict

if TYPE_CHECKING:  # the judge's processes import this package, and want nothing of what these import
    from ap2o_fast.config import JudgeSettings
    from ap2o_fast.problems.problem import Problem

_ATTEMPTS = 3
_REFERENCE_FACTOR = 30.0
LONGEST_INPUT = 8 << 20
"""Bytes on a program's standard input: it lies in a file, and files are limited to so much."""
_REMEMBERED = 4096
# Judged at the start and after every so many answers.
_CANARY_EVERY = 500


@dataclass(kw_only=True, eq=False)
class _Task:
    """A problem as the supervisors know it, and what its reference solution taught."""

    problem: Problem
    number: int
    wire: dict[str, Any]
    refused: str = ""
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    reference: Verdict | None = None
    ready: bool = False


def detect_level(without: Collection[str] = ()) -> tuple[int, list[str]]:
    """The isolation level to be had here (0 to 4), and what was found, with fixes, in words.

    Args:
        without: boundaries to leave out (namespaces, landlock, seccomp, cgroup), to see what remains.
    """
    if sys.platform != "linux":
        return 0, [f"the sandbox needs Linux, this is {sys.platform}"]
    try:
        lane = Lane(memory_mib=1024, without=without, run=False)
    except LaneLost as error:
        return 0, [str(error)]
    lane.close()
    return lane.features.level, list(describe(lane.features))


class Judge:
    """Judges answers in jailed processes. A context manager: the processes live inside the ``with`` block.

    Args:
        settings: workers, limits and the least isolation.
        without: boundaries to leave out, as in `detect_level`; the level falls accordingly.

    Errors: on entry `SandboxRefused` where the machine's isolation is below ``settings.min_level``, `MachineError`
    where the judge's processes do not start or fail their self-test.

    Attributes:
        workers: how many programs it judges side by side.
    """

    def __init__(self, settings: JudgeSettings, *, without: Collection[str] = ()) -> None:
        from ap2o_fast.problems.problem import Problem  # here and not above: see there

        self.settings = settings
        self._without = without
        self.workers = settings.workers or usable_cores()
        self._level = 0
        self._lanes: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()
        self._open: set[Lane] = set()
        self._guard = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closing = False
        self._tasks: collections.OrderedDict[int, _Task] = collections.OrderedDict()
        self._numbers = 0
        self._judged = itertools.count(1)
        self._canaries = {
            name: Problem(task_id="canary", prompt="", entry_point="f", test="assert f(2) == 3", language=name)
            for name in LANGUAGES
        }
        self._trusted: set[str] = set()
        self._first_use = threading.Lock()

    @property
    def level(self) -> int:
        """Isolation level in force, 0 to 4 (docs/sandbox.md)."""
        return self._level

    def __enter__(self) -> Judge:
        if self._pool is not None:
            raise UsageError("this judge is open already", do="open each judge once, or make another one")
        self._closing = False
        level, findings = (0, ["not Linux"]) if sys.platform != "linux" else (0, [])
        try:
            first = self._start_lane() if sys.platform == "linux" else None
            if first is not None:
                level, findings = first.features.level, list(describe(first.features))
            require_level(level, findings, self.settings.min_level)
            self._level = level
            self._lanes.put(first)
            for _ in range(self.workers - 1):
                self._lanes.put(None)  # started when first needed
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="judge")
            self.require(["python"])
        except LaneLost as error:
            self.close()
            raise MachineError("the judge does not start", why=str(error), do="`ap2o doctor` shows why") from None
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the judge. May be called twice."""
        pool, self._pool = self._pool, None
        with self._guard:
            self._closing = True
            lanes, self._open = self._open, set()
        for lane in lanes:
            lane.close()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def judge(self, problem: Problem, code: str) -> Verdict:
        """Judge one answer."""
        return self._submit(Job(key=None, problem=problem, code=code), []).result()

    def judge_all(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Verdict]]:
        """Judge many, `workers` at a time; yields in the order of `jobs`, which are taken only as workers fall free.

        Verdicts as `stream` gives them.
        """
        with self.stream(backlog=self.workers) as stream:
            for job in jobs:
                stream.put(job)
                yield from stream.ready()
            yield from stream.rest()

    def stream(self, *, backlog: int) -> Stream:
        """A stream of jobs to judge in the background, of which `backlog` may be unfinished.

        A share of those with a seed (`judge.recheck`) is judged a second time, later and, where there are several, by
        another worker; where the two verdicts differ, the answer's is `Flaky`.
        """
        return Stream(self._submit, recheck=self.settings.recheck, backlog=backlog)

    def check_reference(self, problem: Problem) -> str | None:
        """None if the problem's solution passes its own tests (or there is none), else the reason."""
        if problem.solution is None:
            return None
        self.require([problem.language])
        verdict = self._pool_open().submit(self._reference_of, problem).result()
        return None if verdict.passed else f"{verdict.error.name}: {verdict.message}"

    def require(self, names: Iterable[str]) -> None:
        """Return if this judge can judge answers in these languages; a first use judges known answers in each.

        Errors: as `languages.require`, and `MachineError` where the known answers do not get their verdicts.
        """
        with self._first_use:
            new = sorted(set(names) - self._trusted)
            require(new, self.settings.memory_mib)
            for name in new:
                self._self_test(name)
                self._trusted.add(name)

    def _submit(self, job: Job, used: list[Lane]) -> Future[Verdict]:
        pool = self._pool_open()
        self.require([job.problem.language])
        return pool.submit(self._judge_watched, job.problem, job.code, used)

    def _pool_open(self) -> ThreadPoolExecutor:
        if self._pool is None:
            raise UsageError("this judge is not open", do="use it as `with Judge(settings) as judge:`")
        return self._pool

    def _limits(self, cpu: float, language: str) -> Limits:
        settings = self.settings
        return Limits(
            cpu=cpu,
            wall=cpu * settings.wall_factor + LANGUAGES[language].build_seconds,
            memory_mib=settings.memory_mib,
            output=settings.output_kib << 10,
            language=language,
        )

    def _judge_watched(self, problem: Problem, code: str, used: list[Lane]) -> Verdict:
        if next(self._judged) % _CANARY_EVERY == 0:
            self._self_test(problem.language)
        return self._judge_one(problem, code, used)

    def _judge_one(self, problem: Problem, code: str, used: list[Lane]) -> Verdict:
        task = self._task(problem)
        if not task.ready and not task.refused and "expected" not in task.wire:
            reference = self._reference(task)
            if reference.error is ErrorType.SandboxFailure:
                return reference
        if task.refused:
            return self._unjudgeable(task)
        verdict = self._run(task, code, "judge", self._limits(self.settings.cpu_seconds, problem.language), used)
        if problem.solution is None or not verdict.error.is_failure:
            return verdict
        # An answer fails: only now is the reference worth a run, to learn whether any can pass, and in how much time.
        reference = self._reference(task)
        if reference.error not in (ErrorType.Passed, ErrorType.SandboxFailure):
            return self._unjudgeable(task)
        allowed = self.settings.reference_factor * reference.cpu_seconds
        if verdict.error is ErrorType.TimeoutError and allowed > self.settings.cpu_seconds:
            verdict = self._run(task, code, "judge", self._limits(allowed, problem.language), used)
        return verdict

    def _unjudgeable(self, task: _Task) -> Verdict:
        return Verdict(error=ErrorType.Unjudgeable, message=clean(task.refused), sandbox_level=self._level)

    def _reference_of(self, problem: Problem) -> Verdict:
        task = self._task(problem)
        return self._unjudgeable(task) if task.refused else self._reference(task)

    def _reference(self, task: _Task) -> Verdict:
        """The reference solution's own verdict, run once, with a generous limit; fills `expected` where it is open.

        Where it fails the problem is broken: from then on `task.refused` says why no answer to it can be judged.
        """
        with task.lock:
            if task.reference is None or task.reference.error is ErrorType.SandboxFailure:
                limits = self._limits(self.settings.cpu_seconds * _REFERENCE_FACTOR, task.problem.language)
                mode = "judge" if task.problem.test or "expected" in task.wire else "compute"
                task.reference = self._run(task, task.problem.solution or "", mode, limits, [])
                task.ready = task.reference.error is not ErrorType.SandboxFailure
                if task.ready and not task.reference.passed:
                    why = f"{task.reference.error.name}: {task.reference.message}"
                    task.refused = f"the reference solution fails: {why}"
            return task.reference

    def _run(self, task: _Task, code: str, mode: str, limits: Limits, used: list[Lane]) -> Verdict:
        """One answer, with retries where the judge and not the answer failed; `used` gains the lane that judged it."""
        request = {"code": code, "mode": mode, "limits": dataclasses.asdict(limits)}
        reason = ""
        for _ in range(_ATTEMPTS):
            lane = self._free_lane(used)
            try:
                if lane is None:
                    lane = self._start_lane()
                key = f"{task.number}{'' if 'expected' in task.wire else '?'}"
                reply = lane.run(key, task.wire, request)
            except LaneLost as error:
                reason = str(error)
                if lane is not None:
                    with self._guard:
                        self._open.discard(lane)
                    lane.close()
                    lane = None
                if self._pool is None:
                    break
                continue
            finally:
                self._lanes.put(lane)
            verdict = decide(reply, limits, self._level)
            if isinstance(verdict, Verdict):
                used.append(lane)
                if mode == "compute" and verdict.passed:
                    task.wire = {**task.wire, "expected": reply["finding"]["values"], "json_lists": False}
                return verdict
            reason = verdict
        return Verdict(error=ErrorType.SandboxFailure, message=clean(reason), sandbox_level=self._level)

    def _task(self, problem: Problem) -> _Task:
        with self._guard:
            task = self._tasks.get(id(problem))
            if task is None:
                self._numbers += 1
                task = _new_task(problem, self._numbers)
                self._tasks[id(problem)] = task  # the task keeps the problem, and so its id, alive
                if len(self._tasks) > _REMEMBERED:
                    self._tasks.popitem(last=False)
            return task

    def _free_lane(self, used: list[Lane]) -> Lane | None:
        """Wait for a free lane (None: one to be started), if possible one that is not among the `used`."""
        lane = self._lanes.get()
        if lane in used:
            with contextlib.suppress(queue.Empty):
                other = self._lanes.get_nowait()
                self._lanes.put(lane)
                return other
        return lane

    def _start_lane(self) -> Lane:
        lane = Lane(memory_mib=self.settings.memory_mib, without=self._without)
        with self._guard:
            if not self._closing:
                self._open.add(lane)
                return lane
        lane.close()  # the judge was closed while this one was being started
        raise LaneLost("the judge is closed")

    def _self_test(self, language: str) -> None:
        """A known right and a known wrong answer: an unexpected verdict stops everything."""
        known = LANGUAGES[language].canaries
        for code, error in ((known.right, ErrorType.Passed), (known.wrong, ErrorType.WrongResult)):
            verdict = self._judge_one(self._canaries[language], code, [])
            if verdict.error is not error and self._pool is not None:
                raise MachineError(
                    f"the judge fails its self-test in {language}: {error.name} expected, got {verdict.error.name}",
                    why=verdict.message,
                    do="`ap2o doctor` shows what the sandbox can do here",
                )


def require_level(level: int, findings: list[str], least: int) -> None:
    """Raise `SandboxRefused`, with the findings and fixes, if `level` is below the least that is asked for."""
    if level < least:
        raise SandboxRefused(
            f"isolation level {least} is demanded, but only level {level} is to be had here; nothing was run",
            why="; ".join(findings),
            do="apply the fixes above, run in a container or machine that allows them, or, if the answers can be "
            f"trusted, set judge.min_level to {level}",
        )


def _program_refused(problem: Problem) -> str:
    """Why no program can be judged by these tests; empty if one can."""
    if problem.language != "python":
        return f"programs that read standard input are judged in Python, not in {problem.language}"
    texts = [*problem.inputs, *((each,) for each in problem.expected or ())]
    if not all(len(text) == 1 and isinstance(text[0], str) for text in texts):
        return "a program's inputs and expected outputs must be texts, one a test"
    if max((len(text[0].encode()) for text in problem.inputs), default=0) > LONGEST_INPUT:
        return f"a test's input exceeds {LONGEST_INPUT >> 20} MiB"
    return ""


def _new_task(problem: Problem, number: int) -> _Task:
    """The problem in wire form, or the reason why no answer to it can be judged."""
    wire: dict[str, Any] = {
        "entry_point": problem.entry_point,
        "test": problem.test,
        "setup": problem.setup,
        "preamble": problem.preamble,
        "language": problem.language,
        "atol": problem.atol,
        "json_lists": True,
        "inputs": [],
    }
    refused = ""
    if bool(problem.test) == bool(problem.inputs):
        refused = "the problem has neither a test nor inputs" if not problem.test else "both a test and inputs"
    elif problem.expected is not None and len(problem.expected) != len(problem.inputs):
        refused = f"{len(problem.inputs)} inputs but {len(problem.expected)} expected values"
    elif problem.inputs and problem.expected is None and problem.solution is None:
        refused = "neither expected values nor a solution to compute them"
    if not problem.entry_point:
        refused = refused or _program_refused(problem)
    try:
        wire["inputs"] = [values.encode(tuple(arguments)) for arguments in problem.inputs]
        if problem.expected is not None or problem.test:
            wire["expected"] = [values.encode(value) for value in problem.expected or ()]
    except values.NotInert as error:
        refused = f"its inputs or expected values hold {error}"
    return _Task(problem=problem, number=number, wire=wire, refused=refused)
