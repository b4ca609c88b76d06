"""TensorBoard: event files in RUN/tracking/tensorboard."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch.utils.tensorboard.writer import SummaryWriter

from ap2o_fast.tracking.tracker import Identity


class TensorBoard:
    """Writes scalars, each flushed at once; the settings are a text of their own."""

    def __init__(self, run: Identity) -> None:
        self._writer = SummaryWriter(str(run.folder))
        if not run.known:
            text = json.dumps(dict(run.settings), indent=2)
            self._writer.add_text("settings", f"```json\n{text}\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker.log`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """As `Tracker.close`."""
        self._writer.close()


def open_tracker(run: Identity) -> TensorBoard:
    """Event files beside those that are there already: TensorBoard shows them as one run."""
    return TensorBoard(run)
