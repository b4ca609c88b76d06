"""The runs of a comparison, one after the other or side by side: ordinary runs, resumed by the ordinary means."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cached_property
from types import FrameType

from ap2o_fast.comparing.exam import begin
from ap2o_fast.comparing.systems import PlannedRun
from ap2o_fast.cores import LIMIT, usable_cores
from ap2o_fast.errors import Ap2oError
from ap2o_fast.interrupt import ASKED
from ap2o_fast.judge import Judge
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.problem_sets import Sets
from ap2o_fast.reporting.terminal import note
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.sampling.vllm_engine import VllmEngine
from ap2o_fast.sampling.vllm_server import VllmServer

LOG = "compare.log"
"""Where a run that failed, or has a process of its own, leaves what it had to say."""
SECONDS_TO_CHECKPOINT = 120.0


def is_finished(folder: RunFolder) -> bool:
    """Whether a run has been trained, tested and reported."""
    return "after" in folder.read_json("evaluation.json") and (folder.path / "report.html").exists()


def finish(folder: RunFolder, *, keep: bool) -> None:
    """Delete the checkpoints of a finished run unless they are to be kept."""
    if not keep:
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)


def run_all(
    todo: Sequence[PlannedRun], exam: RunFolder, *, jobs: int, quiet: bool, ended: Callable[[PlannedRun, str], None]
) -> None:
    """Run what is not finished. A run that fails does not keep the others from running.

    Args:
        jobs: with one, the runs are done in this process and share the start of judge and vLLM.
        ended: told of every run as it ends, and why it failed, empty where it did not.

    Errors: `KeyboardInterrupt`, after every run in progress has saved a checkpoint.
    """
    if jobs == 1:
        _in_turn(list(todo), exam, quiet=quiet, ended=ended)
        return
    with _Processes(jobs) as processes, ThreadPoolExecutor(jobs) as threads, _interruptible():
        waiting: dict[Future[str], PlannedRun] = {threads.submit(processes.run, run, exam): run for run in todo}
        try:
            while waiting:
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    ended(waiting.pop(done), done.result())
        except KeyboardInterrupt:
            note(ASKED)
            threads.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise


class OneOfMany(Pipeline):
    """A run that has what takes long to start from another pipeline with the same problems, judge and sampler."""

    def __init__(self, folder: RunFolder, shared: Pipeline) -> None:
        super().__init__(folder, quiet=shared.quiet)
        self.shared = shared

    @cached_property
    def judge(self) -> Judge:
        """The shared one."""
        return self.shared.judge

    @cached_property
    def sets(self) -> Sets:
        """The shared ones, as the exam's audit left them."""
        return self.shared.sets

    @cached_property
    def vllm(self) -> VllmEngine | VllmServer:
        """The shared one, which every round of answers gives new weights."""
        return self.shared.vllm


def _in_turn(left: list[PlannedRun], exam: RunFolder, *, quiet: bool, ended: Callable[[PlannedRun, str], None]) -> None:
    while left:
        with Pipeline(exam, quiet=quiet) as shared:
            failed = ""
            while left and not failed:  # what a run that failed has had its hands on is started anew
                run = left.pop(0)
                failed = _here(run, exam, shared)
                ended(run, failed)


def _here(run: PlannedRun, exam: RunFolder, shared: Pipeline) -> str:
    def whole() -> str:
        with OneOfMany(begin(run, exam), shared) as pipeline:
            pipeline.run()
        return ""

    return _told(run, whole)


def _told(run: PlannedRun, do: Callable[[], str]) -> str:
    """What `do` returns, or the error that it raises as text: it must not cost the other runs."""
    try:
        return do()
    except Ap2oError as error:
        return str(error)
    except Exception as error:  # a fault of ours in one run, or memory that is full
        where = run.path / LOG if run.path.exists() else run.path.with_name(f"{run.name}.log")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {error} (see {where})"


def command(folder: RunFolder) -> list[str]:
    """What continues a run in a process of its own, which does not outlive this one."""
    return [sys.executable, "-m", "ap2o_fast.with_parent", str(os.getpid()), "resume", str(folder.path)]


class _Processes:
    """Runs in processes of their own, which end with this one.

    Each has a session of its own: an interrupt at the terminal reaches this process alone, which passes it on once.
    """

    def __init__(self, jobs: int) -> None:
        share = str(max(1, usable_cores() // jobs))
        # Programs that are judged side by side, too: more than there are cores would run out of wall time.
        self._environment = {"OMP_NUM_THREADS": share, **os.environ, LIMIT: share}
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, run: PlannedRun, exam: RunFolder) -> str:
        """Wait for a run's end; returns why it failed, empty where it did not."""
        return _told(run, lambda: self._wait(begin(run, exam)))

    def _wait(self, folder: RunFolder) -> str:
        with (folder.path / LOG).open("wb") as log:
            process = subprocess.Popen(
                command(folder), stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )
        self._running.add(process)
        if self._stopped:
            process.send_signal(signal.SIGINT)
        code = process.wait()
        self._running.discard(process)
        return "" if code == 0 else _last_error(folder, code)

    def stop(self) -> None:
        """Ask every run for a checkpoint and its end. End what does not answer; all, where this is interrupted."""
        self._stopped = True
        running = list(self._running)
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(SECONDS_TO_CHECKPOINT)
            except subprocess.TimeoutExpired:
                process.kill()
            except KeyboardInterrupt:
                for each in running:
                    each.kill()
                raise


def _last_error(folder: RunFolder, code: int) -> str:
    """What the log of a run's process says of why it failed."""
    text = (folder.path / LOG).read_text(encoding="utf-8", errors="replace")
    _, said, error = text.rpartition("error: ")
    return error.strip() if said else f"its process ended with {code} (see {folder.path / LOG})"


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does: what it started must not outlive it."""

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
