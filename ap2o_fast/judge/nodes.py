"""Judging spread over the nodes of a Ray cluster: one actor a node, which owns a `Judge` of its own.

Between the nodes Ray's own protocol is spoken, pickles among it: whoever reaches the cluster can run code on it. What
answers can reach does not change; their processes have no network.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ap2o_fast
from ap2o_fast.config import JudgeSettings
from ap2o_fast.errors import Ap2oError, MachineError, UsageError
from ap2o_fast.judge.decide import clean
from ap2o_fast.judge.judge import Judge
from ap2o_fast.judge.stream import Job
from ap2o_fast.judge.verdict import Verdict
from ap2o_fast.problems.problem import Problem

_START_SECONDS = 180.0
_END_SECONDS = 20.0
# A node's own judge bounds every wait, retries and a reference solution's run included; this is for one that hangs.
_MOST_SECONDS = 3600.0
# Answers at a node beyond its workers, so that none is idle while an answer travels.
_TRAVELLING = 2


def open_judge(settings: JudgeSettings) -> Judge:
    """The judge that the settings ask for: of this machine, or of a Ray cluster."""
    return RayJudge(settings) if settings.ray_address else Judge(settings)


class Host:
    """What runs on a node: its judge. `open` comes first."""

    def open(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Start the judge; returns what the caller compares. Errors: as `Judge`."""
        self._judge = Judge(JudgeSettings(**settings)).__enter__()
        self._problems: dict[int, Problem] = {}
        return {"version": ap2o_fast.__version__, "level": self._judge.level, "workers": self._judge.workers}

    def do(self, method: str, *arguments: Any) -> Any:
        """Call a method of the judge."""
        return getattr(self._judge, method)(*arguments)

    def do_with(self, method: str, number: int, boxed: list[Any], *arguments: Any) -> Any:
        """The same for a method of a problem, which is fetched once: a judge knows a problem by its identity."""
        import ray

        if number not in self._problems:
            self._problems.setdefault(number, ray.get(boxed[0], timeout=_START_SECONDS))
        return self.do(method, self._problems[number], *arguments)


class _NodeLost(Exception):
    """A node's actor died or does not answer. The text says which and how."""


class _Node:
    """A node as the trainer sees it."""

    def __init__(self, name: str, identity: str) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.name, self.lost = name, ""
        # Threads for whatever its slots let through. It books no processors: a node that judges has them for that.
        host: Any = ray.remote(Host)
        placed = NodeAffinitySchedulingStrategy(node_id=identity, soft=False)
        self.actor = host.options(num_cpus=0, max_concurrency=1024, scheduling_strategy=placed).remote()

    def call(self, method: str, *arguments: Any, seconds: float) -> Any:
        """Call the actor. Errors: the judge's own, as it raised them; `_NodeLost`."""
        import ray

        try:
            return ray.get(getattr(self.actor, method).remote(*arguments), timeout=seconds)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Ap2oError) else error from None
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            lines = str(error).strip().splitlines()  # what happened, and where an exception was behind it that, last
            self.lost = clean(f"node {self.name}: {' … '.join(dict.fromkeys([lines[0], lines[-1].strip()]))}")
            raise _NodeLost(self.lost) from None


class RayJudge(Judge):
    """A `Judge` on every node of the cluster at ``settings.ray_address``; otherwise as `Judge`.

    An answer whose node is lost is judged once more, by another; the run goes on with the nodes that are left.

    Errors: on entry those of `Judge`, for every node, and `MachineError` where Ray is missing, the cluster cannot be
    reached or a node has another version. While judging, `MachineError` where an answer lost two nodes, or none is
    left.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        super().__init__(settings)
        self._nodes: list[_Node] = []
        self._slots: queue.SimpleQueue[_Node | None] = queue.SimpleQueue()
        self._boxes: dict[int, list[Any]] = {}

    def __enter__(self) -> RayJudge:
        if self._pool is not None:
            raise UsageError("this judge is open already", do="open each judge once, or make another one")
        found = []
        try:
            self._slots, self._trusted = queue.SimpleQueue(), set()
            for name, identity in _nodes_of(self.settings.ray_address):
                self._nodes.append(_Node(name, identity))
            for node in self._nodes:
                about = node.call("open", self.settings.model_dump() | {"ray_address": ""}, seconds=_START_SECONDS)
                if about["version"] != ap2o_fast.__version__:
                    raise MachineError(
                        f"node {node.name} has ap2o_fast {about['version']}, this is {ap2o_fast.__version__}",
                        do="install the same version on every node",
                    )
                found.append(about)
                for _ in range(about["workers"] + _TRAVELLING):
                    self._slots.put(node)
        except _NodeLost as error:
            self.close()
            raise MachineError(f"the judge does not start: {error}", do="run `ap2o doctor` on that node") from None
        except BaseException:
            self.close()
            raise
        self._level = min(about["level"] for about in found)
        self.workers = sum(about["workers"] for about in found)
        self._pool = ThreadPoolExecutor(self._slots.qsize(), thread_name_prefix="nodes")
        return self

    def close(self) -> None:
        """End the judges of all nodes. May be called twice."""
        pool, self._pool = self._pool, None
        nodes, self._nodes = self._nodes, []
        if not nodes:
            return
        import ray

        for node in nodes:
            try:
                node.call("do", "close", seconds=_END_SECONDS)
            except Exception as error:  # a node that is gone, or was never opened, has nothing to end
                node.lost = node.lost or str(error)
            ray.kill(node.actor)
        self._slots.put(None)  # whoever waits for a node learns that there is none
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        self._boxes.clear()
        ray.shutdown()

    def check_reference(self, problem: Problem) -> str | None:
        """As `Judge.check_reference`, on any node."""
        reason: str | None = self._anywhere("check_reference", problem, (), [])
        return reason

    def require(self, names: Iterable[str]) -> None:
        """As `Judge.require`, on every node."""
        wanted = sorted(set(names) - self._trusted)
        for node in self._nodes if wanted else ():
            try:
                if not node.lost:
                    node.call("do", "require", wanted, seconds=_START_SECONDS)
            except _NodeLost as error:
                self._goes_on_without(error)
        self._trusted |= set(wanted)

    def _submit(self, job: Job, used: list[Any]) -> Future[Verdict]:
        return self._pool_open().submit(self._anywhere, "judge", job.problem, (job.code,), used)

    def _anywhere(self, method: str, problem: Problem, arguments: tuple[Any, ...], used: list[Any]) -> Any:
        import ray

        number = self._task(problem).number
        if number not in self._boxes:
            self._boxes[number] = [ray.put(problem)]  # boxed, so that it is not sent along with every answer
        lost: list[str] = []
        while len(lost) < 2:
            node = self._free_node(used)
            try:
                result = node.call("do_with", method, number, self._boxes[number], *arguments, seconds=_MOST_SECONDS)
            except _NodeLost as error:
                lost.append(str(error))
                self._goes_on_without(error)
                continue
            except BaseException:
                self._slots.put(node)
                raise
            self._slots.put(node)
            used.append(node)
            return result
        raise MachineError(
            "an answer could not be judged: two nodes were lost over it",
            why="; ".join(lost),
            do="mend the nodes, then `ap2o resume`",
        )

    def _goes_on_without(self, error: _NodeLost) -> None:
        if self._pool is not None:
            print(f"ap2o: {error}; judging goes on without it", file=sys.stderr)
        if all(node.lost for node in self._nodes):
            self._slots.put(None)

    def _free_node(self, used: list[Any]) -> _Node:
        """Wait for a node that lives, if possible one that is not among the `used`."""
        others = self._slots.qsize()
        while (node := self._slots.get()) is not None:
            if node in used and others > 0 and not node.lost:
                others -= 1
                self._slots.put(node)
            elif not node.lost:
                return node
        self._slots.put(None)  # for the next one that waits
        raise MachineError(
            "no node is left to judge",
            why="; ".join(node.lost for node in self._nodes),
            do="mend the nodes, then `ap2o resume`",
        )


def _nodes_of(address: str) -> list[tuple[str, str]]:
    """Name and id of every living node with processors. Errors: `MachineError`."""
    try:
        import ray
    except ImportError:
        raise MachineError(
            "judge.ray_address is set, but Ray is not here", do="in the clone: pip install -e '.[ray]'"
        ) from None
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise MachineError(
            f"there is no Ray cluster at {address}",
            why=str(error).splitlines()[0],
            do="start one with `ray start --head`, or clear judge.ray_address",
        ) from None
    return [
        (f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})", node["NodeID"])
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU")
    ]
