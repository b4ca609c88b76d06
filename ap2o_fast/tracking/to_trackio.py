"""trackio: a database of its own on this machine, or the Space that TRACKIO_SPACE_ID names."""

from __future__ import annotations

from collections.abc import Mapping

import trackio

from ap2o_fast.tracking.tracker import Identity


class Trackio:
    """One run there, by its name: a resumed run goes on in it."""

    def __init__(self, run: Identity) -> None:
        self._run = trackio.init(
            project=run.project,
            name=run.name,
            config=dict(run.settings),
            resume="allow" if run.known else "never",
            embed=False,
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker.log`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """As `Tracker.close`."""
        self._run.finish()


def open_tracker(run: Identity) -> Trackio:
    """The run of that name, new or gone on with."""
    return Trackio(run)
