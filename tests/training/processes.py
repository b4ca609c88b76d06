"""Processes that train together, on the CPU, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes
from torch.distributed import TCPStore

from ap2o_fast.cli import main
from ap2o_fast.training.parallel.distributed import World, join

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
Arrange = Callable[[int], None]
"""What a process does before the command, given its rank: breaks something in itself, say."""
# One server a test process: what `tests/launch.py` starts needs the last two.
PRELOAD = ["tests.training.support", "ap2o_fast.pipeline", "ap2o_fast.preferences.run"]


def run_together(size: int, work: Callable[..., None], *arguments: Any, shard: int = 0) -> None:
    """Call `work(world, *arguments)` in `size` processes of one thread; an error of one is raised here."""
    with quiet_environment():
        inputs = (size, free_port(), shard, work, arguments)
        processes.start_processes(_member, inputs, nprocs=size, start_method="forkserver")


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program, or with ``-m`` a module, in two processes of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels", ROOT / "tests")))}
    with quiet_environment():
        return subprocess.run(
            [*command, *map(str, arguments)],
            env=os.environ | paths,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


def run_commands(
    folder: Path, *arguments: str | Path, size: int = 2, arrange: Arrange | None = None
) -> tuple[list[int | None], list[str]]:
    """Run the command `ap2o` in `size` processes as torchrun would; their exit codes, and what each printed.

    Args:
        folder: where what they print is kept; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(argument) for argument in arguments]
    context = multiprocessing.get_context("forkserver")
    # As torchrun's, it outlives the processes.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    printed = [folder / f"{rank}.txt" for rank in range(size)]
    with quiet_environment():
        members = [
            context.Process(target=_command, args=(rank, size, store.port, printed[rank], command, arrange))
            for rank in range(size)
        ]
        for member in members:
            member.start()
    for member in members:
        member.join(PATIENCE)
    hanging = [member for member in members if member.exitcode is None]
    for member in hanging:
        member.kill()
    assert not hanging, [path.read_text(encoding="utf-8") for path in printed]
    return [member.exitcode for member in members], [path.read_text(encoding="utf-8") for path in printed]


def _command(rank: int, size: int, port: int, printed: Path, command: list[str], arrange: Arrange | None) -> None:
    os.environ.update(environment(rank, size, port), TORCHELASTIC_USE_AGENT_STORE="True")
    torch.set_num_threads(1)
    with printed.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        if arrange is not None:
            arrange(rank)
        main(command)
    sys.exit()


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
