"""What only the first process of a run does, while the others wait for its result or help."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ap2o_fast.errors import Ap2oError, MachineError
from ap2o_fast.training.parallel.distributed import World

Result = TypeVar("Result")
Helper = Callable[[Any], Generator[Any, None, None]]
"""Does a process's part of a task: takes what it is about, yields results."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Work that the first process shares with all. `number` tells its messages from those of others."""

    about: Any
    number: int = field(default_factory=lambda: random.SystemRandom().getrandbits(31))


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    result: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


class Team:
    """The processes of a run. The first alone owns what there can be one of: its folder, its judge, the terminal.

    All call `first` in the same order. What they tell each other are objects, pickled; they trust each other.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._alone = world.size == 1
        self._task: Task | None = None
        self._sent: list[Any] = []

    @property
    def leads(self) -> bool:
        """Whether this is the first process, or the only one."""
        return self.world.rank == 0

    @property
    def busy(self) -> bool:
        """Whether the first process is in an action of its own, in which the others can do nothing but help."""
        return self._alone and self.world.size > 1

    def first(self, action: Callable[[], Result], helper: Helper | None = None) -> Result:
        """Run `action` in the first process only. Within it, `first` is an ordinary call.

        Args:
            helper: what the others do with each task that `action` shares.

        Returns: what `action` returned, in every process.
        Errors: what `action` raised, in every process.
        """
        if self._alone:
            return action()
        if not self.leads:
            return self._follow(helper)
        self._alone = True
        try:
            outcome = _Outcome(result=action())
        except Exception as error:
            if self._task is not None:
                self.world.store.set(_stop(self._task), b"1")
            outcome = _Outcome(error=error)
        finally:
            self._alone, self._task = False, None
        self._tell(_Outcome(result=outcome.result, error=outcome.error and _portable(outcome.error, 0)))
        return outcome.get()

    def share(self, about: Any) -> Task:
        """Begin a task of all, within an action of `first`: the others' helpers are given `about`."""
        assert self.busy, "only an action of the first process can share work"
        self._task = Task(about=about)
        self._tell(self._task)
        return self._task

    def results(self, task: Task, rank: int) -> Iterator[Any]:
        """What the helper of another process yields, in its order. Waits for it."""
        while True:
            outcome: _Outcome = pickle.loads(self._receive(task, rank))
            yield outcome.get()

    def _follow(self, helper: Helper | None) -> Any:
        while isinstance(told := self._told(), Task):
            assert helper is not None
            self._help(told, helper)
        self._sent.clear()
        return told.get()

    def _help(self, task: Task, helper: Helper) -> None:
        """Send results without waiting until the first process takes them; end early once it has failed."""
        try:
            with closing(helper(task.about)) as results:
                for result in results:
                    if self.world.store.check([_stop(task)]):
                        return
                    self._send(_Outcome(result=result), task)
        except Exception as error:
            self._send(_Outcome(error=_portable(error, self.world.rank)), task)

    def _send(self, outcome: _Outcome, task: Task) -> None:
        payload = torch.frombuffer(bytearray(pickle.dumps(outcome)), dtype=torch.uint8)
        for tensor in (torch.tensor([len(payload)]), payload):
            # The tensors must live until the first process has taken them, which the outcome of its action says.
            self._sent.append((tensor, dist.isend(tensor, 0, group=self.world.control, tag=task.number)))

    def _receive(self, task: Task, rank: int) -> bytes:
        length = torch.zeros(1, dtype=torch.int64)
        dist.recv(length, rank, group=self.world.control, tag=task.number)
        payload = torch.empty(int(length), dtype=torch.uint8)
        dist.recv(payload, rank, group=self.world.control, tag=task.number)
        return payload.numpy().tobytes()

    def _tell(self, message: Task | _Outcome) -> None:
        dist.broadcast_object_list([message], src=0, group=self.world.control)

    def _told(self) -> Any:
        box = [None]
        dist.broadcast_object_list(box, src=0, group=self.world.control)
        return box[0]


def _stop(task: Task) -> str:
    """The key of the store that says that nobody wants the results of a task any more."""
    return f"stop/{task.number}"


def _portable(error: Exception, rank: int) -> Exception:
    """The error as another process can raise it: ours as they are."""
    if isinstance(error, Ap2oError):
        return error
    return MachineError(
        f"process {rank} failed: {type(error).__name__}: {error}",
        do="look for what that process said first, mend it, then `ap2o resume`",
    )
