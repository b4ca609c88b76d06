"""Weights & Biases: online as `wandb login` left it, offline with WANDB_MODE=offline."""

from __future__ import annotations

from collections.abc import Mapping

import wandb

from ap2o_fast.tracking.tracker import Identity

STEP = "train/global_step"
"""The axis of all curves, as in TRL's runs. Their own step may not go back, and a quiz belongs to an earlier one."""


class WeightsAndBiases:
    """One run there, by its id: a resumed run goes on in it."""

    def __init__(self, run: Identity) -> None:
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.settings),
            settings=wandb.Settings(console="off"),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker.log`."""
        self._run.log({**values, STEP: step})

    def close(self) -> None:
        """As `Tracker.close`."""
        self._run.finish()


def open_tracker(run: Identity) -> WeightsAndBiases:
    """The run of that id, new or gone on with."""
    return WeightsAndBiases(run)
