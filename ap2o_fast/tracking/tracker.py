"""The one interface of all trackers, and the packages behind their names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from ap2o_fast.errors import MachineError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""What must be installed for each value of `track.to`."""


class Tracker(Protocol):
    """Takes numbers. Whatever it raises ends its process, and nothing else."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Hand on numbers by their full names, e.g. ``train/loss``, as they were after `step` optimiser steps."""

    def close(self) -> None:
        """Hand on what is still under way."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a tracker knows a run by.

    Attributes:
        project: the project that the run belongs to.
        name: the run's name within it.
        id: letters and digits, the run's own, as long as its folder lives.
        known: whether the tracker was opened for this run before.
        folder: where the tracker may write.
        settings: the run's settings by dotted names.
    """

    project: str
    name: str
    id: str
    known: bool
    folder: Path
    settings: Mapping[str, Any]


def open_tracker(name: str, run: Identity) -> Tracker:
    """The tracker of that name, for a run that goes on where it is `known`. Errors: whatever its package raises."""
    module = importlib.import_module(f"ap2o_fast.tracking.to_{name}")
    opens: Callable[[Identity], Tracker] = module.open_tracker
    return opens(run)


def require(names: tuple[str, ...]) -> None:
    """Errors: `MachineError` for the first tracker that is named and not installed, with the line that installs it."""
    for name in names:
        package = PACKAGES[name]
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise MachineError(
                f"track.to names {name}, and the package {package} is not installed",
                do=f"pip install {package}, or take {name} out of track.to",
            ) from None
