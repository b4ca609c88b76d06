"""`ap2o_fast.Trainer`: plain DPO in five lines of Python."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ap2o_fast import config as settings
from ap2o_fast.errors import UsageError
from ap2o_fast.preferences.run import DpoRun, Given
from ap2o_fast.preferences.settings import check
from ap2o_fast.preferences.source import name_of
from ap2o_fast.processes import create_folder, meet
from ap2o_fast.reporting.memory import keep_to_limit
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.training.parallel.distributed import processes

Data = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


class Trainer:
    """Trains a model on preference pairs by DPO, in a run folder as `ap2o dpo` does.

    In a program that torchrun started all processes make one with the same arguments and call `train`.

    Args:
        model: a folder, a Hub name, or a loaded model, which is trained in place.
        data: a file, a Hub data set, or rows: a list of dicts, a `datasets.Dataset`.
        tokenizer: of a loaded model.
        eval_data: pairs to evaluate after every epoch, as `data`.
        quiet: no progress.
        **tree: settings as in a TOML file: ``run_dir="runs/dpo", seed=1, train={"lr": 1e-6}, loss={"beta": 0.2}``.

    Attributes:
        folder: the run folder. One that holds this run already is continued.
        model, tokenizer: after `train` the best weights, or the last ones where nothing is evaluated. In several
            processes there is no model, since each had a part of it: load `checkpoint`.

    Errors: `UsageError` for settings that are unknown or do not go together, or a folder that holds another run.
    """

    def __init__(
        self,
        model: Any,
        data: Data,
        /,
        *,
        tokenizer: Any = None,
        eval_data: Data | None = None,
        quiet: bool = False,
        **tree: Any,
    ) -> None:
        named = isinstance(model, (str, os.PathLike))
        if named != (tokenizer is None):
            raise UsageError(
                "a model's name brings its tokenizer" if named else "a loaded model needs its tokenizer",
                do="leave tokenizer out" if named else "give tokenizer=…",
            )
        source, rows = _source(data)
        eval_source, eval_rows = ("", None) if eval_data is None else _source(eval_data)
        overrides: dict[str, dict[str, Any]] = {"model": {"name": str(model)}, "preferences": {"source": source}}
        if not named:
            kind = str(model.dtype).removeprefix("torch.")
            overrides["model"] = {"name": model.name_or_path or "in memory", "dtype": kind, "device": str(model.device)}
        if eval_source:
            overrides["preferences"]["eval"] = {"source": eval_source}
        config = settings.load(_merged(tree, overrides), defaults=settings.DPO_DEFAULTS)
        check(config)
        if config.train.memory_limit_gib and not named:
            raise UsageError(
                "train.memory_limit_gib needs the model's name",
                why="what a loaded model needs is planned before it is loaded",
                do="give its name or folder, or drop the limit",
            )
        alone = processes() == 1
        config = keep_to_limit(config, processes(), None if quiet or not alone else Console(stderr=True))
        if not alone:
            if not named:
                raise UsageError(
                    f"a loaded model cannot be divided among {processes()} processes",
                    why="each would hold all of it",
                    do="give its name or folder: each process reads its part",
                )
            self.folder = RunFolder(path=Path(config.run_dir), config=config)  # made by `train`, once they have met
        else:
            self.folder = RunFolder.create(config, join=True)
        self.model: Any = None if named else model
        self.tokenizer: Any = tokenizer
        self._quiet = quiet
        self._given = Given(rows=rows, eval_rows=eval_rows, model=None if named else model, tokenizer=tokenizer)

    @property
    def checkpoint(self) -> Path:
        """Where the trained model lies, an ordinary Hugging Face folder, once there is one."""
        return self.folder.best

    def train(self) -> dict[str, Any]:
        """Train, or go on where an interrupted run stopped; a finished one is not trained again.

        A model that was given loaded is the reference: to go on, it must be given as it was at first.

        Returns: what `DpoRun.run` does.
        Errors: `DataError` for data that are no preference pairs; `MachineError`, `NumericalError` as in `ap2o dpo`.
        """
        with meet(self.folder.config) as world:
            folder = create_folder(self.folder.config, world, join=True)
            with DpoRun(folder, quiet=self._quiet, given=self._given, world=world) as run:
                result = run.run()
                if world.size == 1:
                    if run.model is None or result["best_epoch"] != result["epochs"]:
                        run.use_best(result["best_epoch"])
                    self.model = run.model
                self.tokenizer = run.tokenizer
        return result


def _source(data: Data) -> tuple[str, list[Mapping[str, Any]] | None]:
    """The name of the data in the settings, and the rows where they are in memory."""
    if isinstance(data, (str, os.PathLike)):
        return str(data), None
    rows = list(data)
    return name_of(rows), rows


def _merged(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees as one; a key that both have is refused where it is a value."""
    merged = dict(tree)
    for key, value in overrides.items():
        known = merged.get(key)
        if isinstance(value, dict) and (known is None or isinstance(known, Mapping)):
            merged[key] = _merged(known or {}, value)
        elif known is not None:
            raise UsageError(f"{key} is given twice: {known!r} and {value!r}", do="give it once")
        else:
            merged[key] = value
    return merged
