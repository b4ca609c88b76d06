"""Processes that train together, on the CPU, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes

from ap2o_fast.training.parallel.distributed import World, join

ROOT = Path(__file__).resolve().parents[2]
# One server a test process: what `tests/launch.py` starts needs the last two.
PRELOAD = ["tests.training.support", "ap2o_fast.pipeline", "ap2o_fast.preferences.run"]


def run_together(size: int, work: Callable[..., None], *arguments: Any, shard: int = 0) -> None:
    """Call `work(world, *arguments)` in `size` processes of one thread; an error of one is raised here."""
    with quiet_environment():
        inputs = (size, free_port(), shard, work, arguments)
        processes.start_processes(_member, inputs, nprocs=size, start_method="forkserver")


@contextmanager
def quiet_environment() -> Iterator[None]:
    """What processes that are started within find: one thread, no GPU, the modules they need."""
    with pytest.MonkeyPatch.context() as patch:
        # With a GPU in sight, torch 2.11 ended processes that share tensors on the CPU with a segmentation fault.
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        # The server imports once what all processes need; itself it computes nothing that a fork would break.
        multiprocessing.set_forkserver_preload(PRELOAD)
        yield


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    return {name: str(value) for name, value in names.items()}


def _member(rank: int, size: int, port: int, shard: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment(rank, size, port))
    torch.set_num_threads(1)
    with join("cpu", shard=shard, deadline=60) as world:
        assert isinstance(world, World)
        work(world, *arguments)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
