"""Several processes that train as one: each has a device, a shard of the weights and a part of every step's batches.

torchrun starts them and says in the environment who each is. Without it there is one process and no process group, and
every function here returns what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ap2o_fast.errors import Ap2oError, MachineError, UsageError

Result = TypeVar("Result")
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        device: where this process computes.
        mesh: (replicas, shards) of the processes: weights are divided along the second and equal along the first; one
            dimension, shards, where nothing is replicated; None for one process.
        control: gloo group of all, for objects. What waits on it waits as long as the others live: for work that only
            one does, like judging or writing a model.
        store: keys and values that all see; None for one process, as `control`.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mesh: DeviceMesh | None = None
    control: Any = None
    store: Any = None


ALONE = World()


def processes() -> int:
    """How many torchrun started; 1 where it did not start this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def join(device: str = "cpu", *, shard: int = 0, deadline: float = 600.0) -> Iterator[World]:
    """Meet the other processes of the run, and part from them at the end.

    Args:
        device: `cpu` (gloo) or `cuda` (NCCL, and gloo for what is on the host); each process takes the GPU of its
            LOCAL_RANK.
        shard: processes that divide one copy of the weights among them; 0 takes all.
        deadline: seconds that a process waits for the others in one operation on tensors. NCCL ends the process then,
            gloo raises.

    Errors: `UsageError` for a device or a `shard` that does not fit; `MachineError` where the processes do not find
    each other, a GPU is missing, or another process has ended or does not answer.
    """
    size = processes()
    if size <= 1:
        yield World(device=torch.device(device))
        return
    try:
        rank, local = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK"))
    except KeyError as missing:
        raise UsageError(
            f"WORLD_SIZE is {size}, but {missing.args[0]} is not set",
            why="torchrun sets both",
            do="start it with torchrun, or unset WORLD_SIZE",
        ) from missing
    here = _device(device, local)
    shard = shard or size
    if size % shard:
        raise UsageError(f"train.shard = {shard} does not divide the {size} processes", do="set it to a divisor, or 0")
    backend = "gloo" if here.type == "cpu" else "cpu:gloo,cuda:nccl"
    with _named(deadline):
        timeout = timedelta(seconds=deadline)
        store = _own_store(timeout, size)
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=size,
            timeout=timeout,
            device_id=here if here.type == "cuda" else None,
        )
        if shard == size:
            mesh = init_device_mesh(here.type, (size,), mesh_dim_names=("shard",))
        else:
            mesh = init_device_mesh(here.type, (size // shard, shard), mesh_dim_names=("replicate", "shard"))
        control = dist.new_group(backend="gloo", timeout=_PATIENCE)
        dist.barrier(control)  # one that ends at once would break off the meeting of the others
        yield World(rank=rank, size=size, device=here, mesh=mesh, control=control, store=store)
        # Not after an error: parting waits for others, which may be gone. torchrun ends them with this process.
        dist.destroy_process_group()


def parts(costs: list[float], world: World) -> list[int | None]:
    """Which batches this process takes, in turn; None is an empty pass.

    Weights are gathered pass by pass by all processes together, so a pass takes as long as its dearest batch: batches
    of like cost go into one, and who would have none in the last pass runs an empty one.
    """
    if world.size == 1:
        return list(range(len(costs)))
    dearest_first = sorted(range(len(costs)), key=lambda i: (-costs[i], i))
    mine: list[int | None] = list(dearest_first[world.rank :: world.size])
    passes = -(-len(costs) // world.size)
    return mine + [None] * (passes - len(mine))


def sum_over_ranks(values: torch.Tensor, world: World) -> torch.Tensor:
    """The elementwise sum of what every process gives, on all of them alike; what is not finite stays so."""
    return _reduced(values, world, dist.ReduceOp.SUM)


def max_over_ranks(values: torch.Tensor, world: World) -> torch.Tensor:
    """The elementwise maximum of what every process gives, on all of them alike."""
    return _reduced(values, world, dist.ReduceOp.MAX)


def any_rank(flag: bool, world: World) -> bool:
    """Whether it is true on one process at least; the same answer on all."""
    return bool(max_over_ranks(torch.tensor(int(flag)), world))


def together(action: Callable[[], Result], world: World) -> list[Result]:
    """Run `action` on every process, and go on only when all have.

    Returns: what each process's returned, by rank.
    Errors: where one process fails all do: with their own error, or with that of the lowest rank that has one. None
    goes on, or waits for what does not come.
    """
    if world.size == 1:
        return [action()]
    outcome: Any
    try:
        outcome = action()
    except Exception as error:
        outcome = _Failed(error)
    outcomes: list[Any] = [None] * world.size
    dist.all_gather_object(outcomes, outcome, group=world.control)
    if isinstance(outcome, _Failed):
        raise outcome.error
    for rank, other in enumerate(outcomes):
        if isinstance(other, _Failed):
            if isinstance(other.error, Ap2oError):
                raise other.error
            raise MachineError(
                f"process {rank} failed: {type(other.error).__name__}: {other.error}",
                do="look for what that process said first, mend it, then `ap2o resume`",
            ) from other.error
    return outcomes


@dataclass(frozen=True)
class _Failed:
    error: Exception


def _reduced(values: torch.Tensor, world: World, operation: Any) -> torch.Tensor:
    if world.size == 1:
        return values
    values = values.clone()
    dist.all_reduce(values, operation)
    return values


def _own_store(timeout: timedelta, size: int) -> dist.Store:
    """Where the processes find each other. torchrun's keeps its keys: each meeting takes names of its own."""
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    meeting = (store.add("ap2o/meetings", 1) - 1) // size
    return dist.PrefixStore(f"ap2o/{meeting}", store)


def _device(name: str, local: int) -> torch.device:
    if name == "cpu":
        return torch.device(name)
    if name != "cuda":
        raise UsageError(
            f"model.device = {name!r} cannot be used by several processes",
            why="each takes a device of its own",
            do="set model.device=cuda, or cpu",
        )
    if torch.cuda.device_count() <= local:
        raise MachineError(
            f"process {local} of this node has no GPU: there are {torch.cuda.device_count()}",
            do="start torchrun with --nproc-per-node of at most as many",
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


@contextmanager
def _named(deadline: float) -> Iterator[None]:
    """Say of what torch's network errors tell that another process is gone or late."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise MachineError(
            "another process of this run has ended or does not answer",
            why=str(error).strip().splitlines()[0],
            do=f"look for the first error among the processes; train.deadline = {deadline:g} s is what one waits",
        ) from error
