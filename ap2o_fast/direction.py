"""Which way the curriculum goes, low to high frequency or high to low, decided before training on the quiz set alone.

The paper names no rule: small models gain more from L2H, large ones from H2L, and its tables show the better of the two
on the test set. `curriculum.system=ap2o` with `order=auto` decides without that:

1. Both directions are trained from the initial weights over all failures, in T' = max(2, T // 10) epochs instead of T.
   An epoch has as many pairs as one of the run has: the window slides faster and gives up ceil(F/T) of its failures, at
   random. So a trial is a tenth of a training (two epochs of fewer than 20), with warm-up and decay of its own, and
   both together cost 2 T' / T of it: a fifth from 20 epochs on. Replay is of the exam's failures.
2. Both answer the quiz problems `evaluate.n` times as the test will ask (`evaluate.temperature`, `.top_p`), with equal
   seeds: weights that differ by nothing answer alike.
3. Pass rates are compared problem by problem. The direction with the higher mean is taken, L2H where they are equal.

direction.json keeps both results and the paired difference with its 95 % interval. Where that holds zero the choice is
little better than a guess, and it says so. That a tenth of the training tells which way the whole goes better is
assumed, not known. The quiz set also steers replay and picks the checkpoint; the test set is not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ap2o_fast.config import Config, ReplaySettings, TrackSettings
from ap2o_fast.evaluation import Evaluation, compare, to_dict

L2H, H2L = "ap2o-l2h", "ap2o-h2l"


def trial_epochs(epochs: int) -> int:
    """T', how many epochs each direction is tried for before a run of T `epochs`."""
    return max(2, epochs // 10)


def trial_settings(config: Config, system: str, folder: Path) -> Config:
    """What one direction is tried with."""
    train = {"epochs": trial_epochs(config.train.epochs), "patience": 0, "profile_steps": ""}
    changes = {
        "run_dir": str(folder),
        "curriculum": config.curriculum.model_copy(update={"system": system}),
        "replay": ReplaySettings(),
        "train": config.train.model_copy(update=train),
        "track": TrackSettings(),
    }
    return config.model_copy(update=changes)


def decide(l2h: Evaluation, h2l: Evaluation, *, epochs: int, seed: int) -> dict[str, Any]:
    """The content of direction.json.

    Args:
        l2h, h2l: what each made of the quiz problems.
        epochs: T.
        seed: of the bootstrap.

    Returns: the `system` to train with, `certain` where the interval of the `difference` (h2l - l2h) leaves zero out,
    the `share` of the training's pairs that both trials had, and the two results.
    """
    difference = compare(l2h, h2l, 1, seed)
    value, low, high = (difference[name] for name in ("value", "low", "high"))
    # Rates are sums of fractions: equal ones may differ by a rounding error.
    better = value is not None and round(value, 9) > 0
    return {
        "system": H2L if better else L2H,
        "certain": low is not None and high is not None and (low > 0 or high < 0),
        "difference": difference,
        "epochs": trial_epochs(epochs),
        "share": 2 * trial_epochs(epochs) / epochs,
        "results": {L2H: to_dict(l2h), H2L: to_dict(h2l)},
    }
