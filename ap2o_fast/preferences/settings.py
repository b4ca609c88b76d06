"""What plain DPO takes of the settings, and what it refuses because it would do nothing."""

from __future__ import annotations

from ap2o_fast import config as settings
from ap2o_fast.config import Config
from ap2o_fast.errors import UsageError

DEFAULTS = {"run_dir": "runs/dpo", "train": {"epochs": 3, "checkpoint_steps": 200}}
"""In place of the tree's own defaults, which are the curriculum's."""
UNUSED = ("problems.", "prompt.", "sampling.", "judge.", "curriculum.", "replay.", "quiz.", "evaluate.")


def check(config: Config) -> None:
    """Errors: `UsageError` for settings that lack something, contradict each other or have no meaning in plain DPO."""
    if not config.preferences.source:
        raise UsageError("no preference pairs are set", do="set preferences.source to a file or a Hub data set")
    changed = [key for key in _changed(config) if key.startswith(UNUSED)]
    if changed:
        raise UsageError(f"{changed[0]} has no meaning in plain DPO", why="it belongs to `ap2o run`", do="drop it")
    held = config.preferences.eval
    if held.share and held.source:
        raise UsageError(
            "preferences.eval.share and preferences.eval.source are both set", do="evaluate one of them, drop the other"
        )
    if (held.split or held.limit) and not held.source:
        raise UsageError(
            "preferences.eval.split and .limit need preferences.eval.source", do="set it, or take a share without them"
        )
    if config.train.patience and not (held.share or held.source):
        raise UsageError(
            f"train.patience = {config.train.patience} has nothing to go by",
            why="no pairs are held out",
            do="set preferences.eval.share, e.g. 0.05, or preferences.eval.source",
        )


def refuse(config: Config) -> None:
    """Errors: `UsageError` where settings of plain DPO are given to the curriculum."""
    changed = [key for key in _changed(config) if key.startswith("preferences.")]
    if changed:
        raise UsageError(
            f"{changed[0]} has no meaning here",
            why="it belongs to `ap2o dpo`, which has no exam, quiz, test or report",
            do="run `ap2o dpo`, or drop it",
        )


def _changed(config: Config) -> list[str]:
    defaults = Config()
    return [key for key in settings.keys() if settings.value_of(config, key) != settings.value_of(defaults, key)]
