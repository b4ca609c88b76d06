"""Training state on disk: all of it or none of it.

A checkpoint is written beside, every file synced, a manifest with their hashes last, then renamed; the older ones go
only after that. Tensors are safetensors, the rest JSON: nothing is unpickled. Resuming is bit-exact on the CPU at the
same number of threads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ap2o_fast.errors import DataError, MachineError
from ap2o_fast.training.disk import COMPLETE, sync, sync_tree
from ap2o_fast.training.step import Trainer

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_log = logging.getLogger(__name__)


def save_checkpoint(folder: Path, trainer: Trainer, extra: dict[str, Any]) -> Path:
    """Write what is trained, optimiser, schedule and counter to `folder`/step-<step>-<serial>; then delete older ones.

    Args:
        extra: anything JSON can hold that the caller needs to continue.

    Returns: the folder of this checkpoint.
    Errors: `MachineError` where it cannot be written; the older one is intact then.
    """
    folder = Path(folder)
    final = _next_folder(folder, trainer.step)
    partial = folder / f"{final.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_model_tensors(trainer), partial / "model.safetensors")
        save_file(_optimizer_tensors(trainer), partial / "optimizer.safetensors")
        state = {"step": trainer.step, "total_steps": trainer.total_steps, "frozen": trainer.frozen}
        state["extra"] = extra
        (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        hashes = {path.name: _hash(path) for path in sorted(partial.iterdir())}
        (partial / COMPLETE).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
        sync_tree(partial)
        os.rename(partial, final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise MachineError(
            f"cannot write the checkpoint {final}",
            why=str(error),
            do="free some disk space and resume; the checkpoint before it is intact",
        ) from error
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


def load_checkpoint(folder: Path, trainer: Trainer) -> dict[str, Any]:
    """Put the newest complete checkpoint under `folder` into `trainer`, after checking every hash.

    Returns: the `extra` it was saved with.
    Errors: `DataError` where there is none, a file is damaged, or it belongs to another model or schedule; the trainer
    is unchanged then.
    """
    found = latest_checkpoint(folder)
    if found is None:
        raise DataError(f"no complete checkpoint in {folder}", do="start the run again without resuming")
    _verify(found)
    state = json.loads((found / "state.json").read_text(encoding="utf-8"))
    tensors = load_file(found / "model.safetensors"), load_file(found / "optimizer.safetensors")
    current = _model_tensors(trainer), _optimizer_shapes(trainer)
    for what, saved, expected in zip(("weights", "optimiser"), tensors, current, strict=True):
        ours = {name: (tuple(t.shape), t.dtype) for name, t in saved.items()}
        theirs = {name: (tuple(t.shape), t.dtype) for name, t in expected.items()}
        if ours != theirs and not (what == "optimiser" and not ours and state["step"] == 0):
            different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            raise DataError(
                f"{found} does not fit: {what} differ, first {different[0]}", do="resume with the run's own settings"
            )
    if state.get("frozen", "") != trainer.frozen:
        raise DataError(
            f"{found} does not fit: its adapters were trained beside other frozen weights",
            do="resume with the run's own model and settings",
        )
    if state["total_steps"] != trainer.total_steps:
        raise DataError(
            f"{found} was made for {state['total_steps']} steps, this run plans {trainer.total_steps}",
            why="the learning rate depends on it",
            do="resume with the run's own settings",
        )
    _restore(trainer, *tensors, step=state["step"])
    extra: dict[str, Any] = state["extra"]
    return extra


def _model_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Trained parameters (tied ones once) and, in half precision, the float32 masters."""
    trained = ((name, p) for name, p in trainer.model.named_parameters() if p.requires_grad)
    tensors = {name: p.detach().cpu().contiguous() for name, p in trained}
    for parameter in trainer.optimizer.parameters:
        if parameter.master is not parameter.model:
            tensors[f"master.{parameter.name}"] = parameter.master.detach().cpu()
    return tensors


def _optimizer_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    states = trainer.optimizer.adamw.state
    return {
        f"{moment}.{parameter.name}": states[parameter.master][moment].detach().cpu().contiguous()
        for parameter in trainer.optimizer.parameters
        for moment in _MOMENTS
        if moment in states[parameter.master]
    }


def _optimizer_shapes(trainer: Trainer) -> dict[str, torch.Tensor]:
    """What `_optimizer_tensors` returns after a step, on the meta device."""
    return {
        f"{moment}.{p.name}": torch.empty(
            () if moment == "step" else p.master.shape,
            dtype=torch.float32 if moment == "step" else p.master.dtype,
            device="meta",
        )
        for p in trainer.optimizer.parameters
        for moment in _MOMENTS
    }


@torch.no_grad()
def _restore(
    trainer: Trainer, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor], *, step: int
) -> None:
    for name, tensor in trainer.model.named_parameters():
        if tensor.requires_grad:
            tensor.copy_(weights[name])
    optimizer = trainer.optimizer
    optimizer.zero_grad()
    optimizer.adamw.state.clear()
    for parameter in optimizer.parameters:
        if parameter.master is not parameter.model:
            parameter.master.copy_(weights[f"master.{parameter.name}"])
        if moments:
            optimizer.adamw.state[parameter.master] = {
                moment: moments[f"{moment}.{parameter.name}"].to(parameter.master.device) for moment in _MOMENTS
            }
    optimizer.set_step(step)
    trainer.step = step


def _verify(found: Path) -> None:
    hashes = json.loads((found / COMPLETE).read_text(encoding="utf-8"))
    for name, expected in hashes.items():
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


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 24):
            digest.update(block)
        return digest.hexdigest()
