"""Training state on disk: all of it or none of it, from any number of processes for any number.

A checkpoint is written beside, every file synced, a manifest with their hashes last, then renamed; the older ones go
only after that. Each process writes and reads its shards through `torch.distributed.checkpoint`, in the one of its
formats that is safetensors (where a shard lies in its tensor stands in the file's header); its default one would
unpickle what it finds. The rest is JSON: nothing is unpickled. Resuming is bit-exact on the CPU at the same number of
threads and processes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter

from ap2o_fast.book.fs import Files, make_folders
from ap2o_fast.errors import DataError, MachineError
from ap2o_fast.training.disk import COMPLETE, sync, sync_tree
from ap2o_fast.training.engine import Engine
from ap2o_fast.training.parallel.distributed import World, together
from ap2o_fast.training.parallel.sharding import local, sharded_as

_FILE_BYTES = 1 << 30
"""About as much as one process writes to a file; writing needs twice that of the host's memory."""
_log = logging.getLogger(__name__)


def save_checkpoint(folder: Path, engine: Engine, extra: dict[str, Any]) -> Path:
    """Write what is trained, optimiser, schedule and counter to `folder`/step-<step>-<serial>; then delete older ones.

    Several processes write to one folder, which all must see, and call this together.

    Args:
        extra: anything JSON can hold that the caller needs to continue.

    Returns: the folder of this checkpoint.
    Errors: `MachineError` where it cannot be written, on every process; the older one is intact then. `NumericalError`
    for an engine whose weights are `damaged`.
    """
    engine.check_intact()
    folder, world = Path(folder), engine.world
    first, frozen = world.rank == 0, engine.frozen

    def begin() -> Path:
        final = _next_folder(folder, engine.step)
        if first:
            shutil.rmtree(_partial(final), ignore_errors=True)
            make_folders(Files(), _partial(final))
        return final

    def describe() -> dict[str, str]:
        """Hashes of what this process wrote, synced."""
        if first:
            state = {"step": engine.step, "total_steps": engine.total_steps, "frozen": frozen, "extra": extra}
            (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        mine = [*partial.glob(f"shard-{world.rank + 1:05d}-*"), *([partial / "state.json"] if first else [])]
        for path in mine:
            sync(path)
        return {path.name: _hash(path) for path in sorted(mine)}

    def finish() -> None:
        if first:
            hashes = {name: value for found in written for name, value in found.items()}
            (partial / COMPLETE).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
            sync_tree(partial)
            os.rename(partial, final)
            sync(folder)

    final = folder
    try:
        final = together(begin, world)[0]
        partial = _partial(final)
        _write(partial, _tensors(engine), world)
        written = together(describe, world)
        together(finish, world)
    except (OSError, SafetensorError, MachineError) as error:
        if first:
            shutil.rmtree(_partial(final), ignore_errors=True)
        raise MachineError(
            f"cannot write the checkpoint {final}",
            why=str(error),
            do="free some disk space and resume; the checkpoint before it is intact",
        ) from error
    if first:
        for older in _folders(folder):
            if older != final:
                shutil.rmtree(older, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint under `folder`, or None. Incomplete ones are logged as ignored."""
    complete = []
    for candidate in _folders(Path(folder)):
        if candidate.suffix == ".partial" or not (candidate / COMPLETE).exists():
            _log.warning("ignored %s: it is incomplete, the run was stopped while writing it", candidate)
        else:
            complete.append(candidate)
    return max(complete, key=lambda path: path.name, default=None)


def load_checkpoint(folder: Path, engine: Engine) -> dict[str, Any]:
    """Put the newest complete checkpoint under `folder` into `engine`, after checking every hash.

    Returns: the `extra` it was saved with.
    Errors: `DataError` where there is none, a file is damaged, or it belongs to another model or schedule; the engine
    is unchanged then.
    """
    world = engine.world
    found = together(lambda: latest_checkpoint(folder), world)[0]
    if found is None:
        raise DataError(f"no complete checkpoint in {folder}", do="start the run again without resuming")
    together(lambda: _verify(found, world), world)
    state = json.loads((found / "state.json").read_text(encoding="utf-8"))
    reader = HuggingFaceStorageReader(str(found))
    entries: dict[str, Any] = reader.read_metadata().state_dict_metadata
    saved = {name: (tuple(entry.size), entry.properties.dtype) for name, entry in entries.items()}
    tensors = _tensors(engine)
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    different = sorted(name for name in saved.keys() | expected.keys() if saved.get(name) != expected.get(name))
    if different:
        raise DataError(f"{found} does not fit: {different[0]} differs", do="resume with the run's own settings")
    if state["frozen"] != engine.frozen:
        raise DataError(
            f"{found} does not fit: its adapters were trained beside other frozen weights",
            do="resume with the run's own model and settings",
        )
    if state["total_steps"] != engine.total_steps:
        raise DataError(
            f"{found} was made for {state['total_steps']} steps, this run plans {engine.total_steps}",
            why="the learning rate depends on it",
            do="resume with the run's own settings",
        )
    with _quietly():
        dcp.load(tensors, storage_reader=reader, no_dist=world.size == 1)
    for name, own in engine.optimizer.state_tensors().items():
        if local(own).data_ptr() != local(tensors[name]).data_ptr():  # it is in host memory, the shard on a GPU
            own.copy_(local(tensors[name]))
    engine.stand_at(state["step"])
    extra: dict[str, Any] = state["extra"]
    return extra


def _tensors(engine: Engine) -> dict[str, torch.Tensor]:
    """Trained parameters (tied ones once) and what the optimiser keeps, where they are in memory, shards as such."""
    owners = {parameter.name: parameter.model.detach() for parameter in engine.optimizer.parameters}
    states = engine.optimizer.state_tensors()
    for name, state in states.items():
        if state.dim():  # not a count of steps, which is the same everywhere
            states[name] = sharded_as(state, owners[name.partition(".")[2]])
    return {f"model.{name}": tensor for name, tensor in owners.items()} | states


def _write(folder: Path, tensors: dict[str, torch.Tensor], world: World) -> None:
    """Every process its shards. What fails on one is raised on all."""
    files, filled = {}, 0
    for name, tensor in tensors.items():
        files[name] = 1 + filled // (_FILE_BYTES * world.size)
        filled += tensor.numel() * tensor.element_size()
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=files, save_distributed=True)
    try:
        with _quietly():
            dcp.save(tensors, storage_writer=writer, no_dist=world.size == 1)
    except CheckpointException as failed:  # not an `Exception`
        rank, (error, _) = next(iter(failed.failures.items()))
        if isinstance(error, (OSError, SafetensorError)):
            raise MachineError(
                f"process {rank} cannot write the checkpoint: {error}", do="make room at run_dir, then `ap2o resume`"
            ) from failed
        raise error from failed


@contextmanager
def _quietly() -> Iterator[None]:
    """Without its warning that one process is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _verify(found: Path, world: World) -> None:
    """Each process a part of the files."""
    hashes = json.loads((found / COMPLETE).read_text(encoding="utf-8"))
    for name, expected in list(hashes.items())[world.rank :: world.size]:
        path = found / name
        if not path.exists() or _hash(path) != expected:
            raise DataError(
                f"{path} is damaged: its hash is not the one in {COMPLETE}",
                do=f"delete {found} and start the run again, or restore it from a copy",
            )


def _next_folder(folder: Path, step: int) -> Path:
    """A name no checkpoint has: a step may be saved again with another `extra`, and the old one must stay till then."""
    taken = {path.name for path in _folders(folder)}
    serial = next(i for i in count(1) if f"step-{step:08d}-{i:04d}" not in taken)
    return folder / f"step-{step:08d}-{serial:04d}"


def _partial(final: Path) -> Path:
    return final.with_name(f"{final.name}.partial")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 24):
            digest.update(block)
        return digest.hexdigest()
