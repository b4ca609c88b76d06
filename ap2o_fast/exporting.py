"""A run's best checkpoint, taken out of its folder: as it is, or with the adapter's weights in the model's own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ap2o_fast.errors import DataError, MachineError, UsageError
from ap2o_fast.reporting.modelcard import write_exported_card
from ap2o_fast.run_folder import RunFolder


def export(folder: RunFolder, out: Path, *, merge: bool) -> None:
    """Write the best checkpoint, its tokenizer and a model card to the new folder `out`: all of it or nothing.

    Args:
        merge: add the adapter's weights to the model's (see `load_merged`), for an ordinary checkpoint without peft.

    Errors: `UsageError` where `out` exists, or there is nothing to merge; `DataError` where nothing was trained yet,
    the run is in use, or the model is not the one that it began with; `MachineError` where `out` cannot be written.
    """
    if out.exists():
        raise UsageError(f"{out} exists already", do="name a folder that does not")
    if merge and folder.config.adapter.kind == "none":
        raise UsageError(
            f"{folder.path} trained all weights: there is no adapter to merge",
            do="leave out --merge; its checkpoint is an ordinary one",
        )
    with folder.locked():
        if not (folder.best / "COMPLETE").exists():
            raise DataError(f"{folder.path} has no checkpoint yet", do=f"train first: `ap2o correct {folder.path}`")
        if merge:
            _write_merged(folder, out)
        else:
            _copy(folder.best, out)
        write_exported_card(folder.path, out, merged=merge)


def _write_merged(folder: RunFolder, out: Path) -> None:
    """Merge the best checkpoint into the model that the run began with and write it to `out`."""
    from ap2o_fast.training import load_merged, load_tokenizer, save_model

    model = load_merged(folder.config.model, folder.best, expected=_initial_hash(folder))
    save_model(model, load_tokenizer(folder.config.model), out, note={"merged": True})


def _initial_hash(folder: RunFolder) -> str:
    """Hash of the weights that the run began with, empty where it knows them quantised only."""
    known = folder.config.model.quantization == "none"
    return str(folder.read_json("environment.json").get("model_hash", "")) if known else ""


def _copy(source: Path, out: Path) -> None:
    beside = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(source, beside)
        os.rename(beside, out)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise MachineError(f"cannot write the model to {out}", why=str(error), do="name a folder with room") from error
